"""What a person reads when a part of a workflow cannot become an ONNX graph."""

from __future__ import annotations

from guidegraph.graph.errors import GuidegraphError


class ExportError(GuidegraphError):
    """A function cannot be exported; nothing was written.

    ``reason`` says what stands in the way, ``place`` is the innermost FILE:LINE of the user's code ("" where none is
    known), ``remedy`` says what to do, ``operator`` is the name of the torch operator at fault, where it is one.
    """

    def __init__(self, reason: str, remedy: str, *, place: str = "", operator: str = "") -> None:
        self.reason, self.remedy, self.place, self.operator = reason, remedy, place, operator
        prefix = f"{place}: " if place else ""
        super().__init__(f"{prefix}cannot be exported: {reason}; {remedy}")


class FixedSizeError(ExportError):
    """A function holds for some sizes alone: ``condition``, in which the names of axes stand."""

    def __init__(self, condition: str, place: str) -> None:
        self.condition = condition
        super().__init__(
            f"it holds only where {condition}, and these sizes are to be free",
            "do not turn a size into a Python number or branch on it (len(x), int(x.shape[0]), chunk over the batch, "
            "if x.shape[2] > …): use x.shape[…] in tensor operations, or leave the axis out of the dynamic ones",
            place=place,
        )


class NotPassedOn(ExportError):
    """What operation ``key`` gives ("" for no operation), a model say, is nothing that a run could pass to a graph."""

    def __init__(self, key: str, reason: str, remedy: str, *, place: str) -> None:
        self.key = key
        super().__init__(reason, remedy, place=place)
