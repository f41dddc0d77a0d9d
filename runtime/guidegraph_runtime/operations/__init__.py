"""Operations that a bundle's plan calls between its graphs, in NumPy, under the ids of the nodes derived from them."""

from guidegraph_runtime.declare.operation import OPERATIONS as OPERATIONS
from guidegraph_runtime.declare.operation import HostOperation as HostOperation
from guidegraph_runtime.declare.operation import drawing_operations as drawing_operations
from guidegraph_runtime.declare.operation import shapes_read_by as shapes_read_by
from guidegraph_runtime.operations import (
    image,
    label,
    layout,
    levels,
    levels_flow,
    mask,
    noise,
    schedule,
    scheduler,
    semantic,
    steps,
    tensor,
    text,
)
from guidegraph_runtime.samplers import (  # registers the samplers
    consistency,
    ddpm_ddim,
    dpm_solver,
    ode_solvers,
    pseudo_numerical,
    unipc,
)

# isort: split
from guidegraph_runtime.samplers import by_name  # reads the names of all samplers

__all__ = [
    "OPERATIONS",
    "HostOperation",
    "by_name",
    "consistency",
    "ddpm_ddim",
    "dpm_solver",
    "drawing_operations",
    "image",
    "label",
    "layout",
    "levels",
    "levels_flow",
    "mask",
    "noise",
    "ode_solvers",
    "pseudo_numerical",
    "schedule",
    "scheduler",
    "semantic",
    "shapes_read_by",
    "steps",
    "tensor",
    "text",
    "unipc",
]
