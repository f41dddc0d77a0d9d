"""Layouts that a person places, and layouts as tables to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.data.scenes128.layout_sample import widen
from guidegraph.nodes.derive import node_for, to_runtime
from guidegraph.nodes.types import Latent, Table
from guidegraph_runtime.columns import list_columns
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.operations.layout import Box, describe_problem


def _check_settings(objects: Sequence[str], boxes: Sequence[Box], wired: Collection[str]) -> dict[str, str]:
    """The problem of the settings; where the port ``box`` is linked, the boxes are made of that."""
    problem = "" if "box" in wired else describe_problem(objects, boxes)
    return {"boxes": problem} if problem else {}


@node_for("layout.place", host=True, shape=port_shapes.one_row, check=_check_settings)
def place_layout(box: Tensor | None, *, objects: Sequence[str], boxes: Sequence[Box]) -> Latent:
    import torch

    layout = OPERATIONS["layout.place"](box=to_runtime(box), objects=objects, boxes=boxes)["out"]
    return torch.from_numpy(layout).to(current_device(), current_dtype())


@node_for("layout.table", host=True)
def list_layout(layout: Latent) -> Table:
    table = OPERATIONS["layout.table"](layout=widen(layout).cpu().numpy())["out"]
    return Table(list_columns(table))
