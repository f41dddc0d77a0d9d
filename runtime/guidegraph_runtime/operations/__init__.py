"""Host operations that a bundle's plan calls between its graphs, in NumPy, under the ids of the equivalent nodes."""

from guidegraph_runtime.operations import image, label, levels, mask, noise, schedule, scheduler, semantic, tensor, text
from guidegraph_runtime.operations.operation import IDLE as IDLE
from guidegraph_runtime.operations.operation import OPERATIONS as OPERATIONS
from guidegraph_runtime.operations.operation import SHAPES as SHAPES
from guidegraph_runtime.operations.operation import SHAPES_READ as SHAPES_READ
from guidegraph_runtime.operations.operation import Operation as Operation

__all__ = [
    "IDLE",
    "OPERATIONS",
    "SHAPES",
    "SHAPES_READ",
    "Operation",
    "image",
    "label",
    "levels",
    "mask",
    "noise",
    "schedule",
    "scheduler",
    "semantic",
    "tensor",
    "text",
]
