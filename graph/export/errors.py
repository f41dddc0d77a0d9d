"""The errors of an export to ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from guidegraph.graph.errors import GuidegraphError


class ExportError(GuidegraphError):
    """A function cannot be exported; nothing was written.

    reason: of the failure. remedy: a suggestion for the user. place: the innermost FILE:LINE of the user's code, or "".
    operator: the name of the torch operator that caused it, if one did. more: other errors that were found with it.
    """

    more: Sequence[ExportError] = ()

    def __init__(self, reason: str, remedy: str, *, place: str = "", operator: str = "") -> None:
        self.reason, self.remedy, self.place, self.operator = reason, remedy, place, operator
        prefix = f"{place}: " if place else ""
        super().__init__(f"{prefix}cannot be exported: {reason}; {remedy}")


def raise_together(errors: Sequence[ExportError]) -> None:
    """Raise the first of some errors, with the others beside it; nothing without errors."""
    if errors:
        errors[0].more = errors[1:]
        raise errors[0]


class FixedSizeError(ExportError):
    """A function is valid only for sizes that satisfy ``condition``, an expression of axis names."""

    def __init__(self, condition: str, place: str) -> None:
        self.condition = condition
        super().__init__(
            f"it holds only where {condition}, and these sizes are to be free",
            "do not turn a size into a Python number or branch on it (len(x), int(x.shape[0]), chunk over the batch, "
            "if x.shape[2] > …): use x.shape[…] in tensor operations, or leave the axis out of the dynamic ones",
            place=place,
        )


class NoSuchPart(ExportError):
    """A precision was given for a part that the export does not have."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)


class LeftForRun(ExportError):
    """Operation ``key`` has the same inputs in every run, and fills up its result to the size of another call's."""

    def __init__(self, key: str, place: str) -> None:
        self.key = key
        super().__init__("its size depends on a parameter", "leave it for the run", place=place)


class NotPassedOn(ExportError):
    """The result of operation ``key`` ("" for no operation), such as a model, cannot be passed to a graph in a run."""

    def __init__(self, key: str, reason: str, remedy: str, *, place: str) -> None:
        self.key = key
        super().__init__(reason, remedy, place=place)
