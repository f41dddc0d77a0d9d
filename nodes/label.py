"""Class labels."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, MinLen

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.types import Label

Class = Annotated[int, Ge(0)]


@node("label.constant")
def constant_label(
    *, label: Class | Annotated[list[Class], MinLen(1)], batch: Annotated[int, Gt(0)] | None = None
) -> Label:
    """Class indices as a label (B), int64: one number for each sample, or one for all ``batch`` of them (1).

    Raises an error where a list of labels is not as long as ``batch``.
    """
    import torch

    labels = [label] * (batch or 1) if isinstance(label, int) else label
    if batch is not None and len(labels) != batch:
        raise ValueError(f"{len(labels)} labels do not make a batch of {batch}")
    return torch.tensor(labels, dtype=torch.int64, device=current_device())
