"""Operations that a bundle's plan calls between its graphs, in NumPy, under the ids of the nodes derived from them."""

from guidegraph_runtime.declare.operation import OPERATIONS as OPERATIONS
from guidegraph_runtime.declare.operation import HostOperation as HostOperation
from guidegraph_runtime.declare.operation import drawing_operations as drawing_operations
from guidegraph_runtime.declare.operation import shapes_read_by as shapes_read_by
from guidegraph_runtime.operations import guidance, image, layout, levels, mask, noise, schedule, semantic, text
from guidegraph_runtime.samplers import ddim, dpm_solver, ode_solvers, pseudo_numerical

# isort: split
from guidegraph_runtime.samplers import by_name

__all__ = [
    "OPERATIONS",
    "HostOperation",
    "by_name",
    "ddim",
    "dpm_solver",
    "drawing_operations",
    "guidance",
    "image",
    "layout",
    "levels",
    "mask",
    "noise",
    "ode_solvers",
    "pseudo_numerical",
    "schedule",
    "semantic",
    "shapes_read_by",
    "text",
]
