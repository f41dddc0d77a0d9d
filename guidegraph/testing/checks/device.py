"""A node computes where its inputs are.

Without an accelerator this is found with fake tensors: they have a shape, a dtype and a device, ``meta``, and no
values. What a node makes on a fixed device, or keeps on the CPU, meets them in an operator and is an error there, or
shows in the device of an output. Where there is a CUDA device, the node is run there too, and compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from guidegraph.graph.export.sizes import quiet
from guidegraph.nodes.types import Levels, Schedule, Scheduler
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Inapplicable, Nonconforming
from guidegraph.testing.values import Arguments, arguments, call, difference, leaves_out, moved, only_traceable

ELSEWHERE = "meta"
TABLES = (Levels, Schedule, Scheduler)
"""Values that are made on the run's device, wherever what they are made of is."""
NO_VALUES = (
    "DataDependent",
    "_local_scalar_dense",
    ".numpy() is not supported",
    "Cannot copy out of meta",
    "nonzero",
    "unsupported scalarType",
)
"""How torch says that a node asks for values of fake tensors."""
REMEDY = (
    "make tensors on the device of the inputs: torch.zeros_like(x), torch.tensor(…, device=x.device), "
    "table.to(x.device); with no tensor among the inputs on current_device(); keep a model's tensors in parameters and "
    "buffers"
)


def check_device_independence(case: NodeCase) -> None:
    """All that a node computes with and gives is on the device of its inputs."""
    only_traceable(case)
    given = arguments(case)
    if torch.cuda.is_available():
        _on_cuda(case, given)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with quiet("torch._subclasses.fake_tensor"), mode:
        there = moved(case, given, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=ELSEWHERE))
        try:
            found = call(case, there, ELSEWHERE)
        except Nonconforming as error:
            if any(word in error.found for word in NO_VALUES):
                raise Inapplicable(
                    "it reads values of tensors, which tensors of the fake device do not have; checked on CUDA alone"
                ) from None
            if "same device" in error.found or "device" in error.found.lower():
                raise case.error("all tensors on the device of the inputs", _plain(error.found), REMEDY) from error
            raise
        wrong = [(place, leaf.tensor.device) for place, leaf in leaves_out(case, found) if _is_elsewhere(leaf.tensor)]
    tables = {name for name, value in found.items() if isinstance(value, TABLES)}
    wrong = [(place, device) for place, device in wrong if place.partition(".")[0] not in tables]
    if wrong:
        place, device = wrong[0]
        raise case.error(f"output '{place}' on the device of the inputs", f"it is on {device}", REMEDY)


def _is_elsewhere(tensor: Tensor) -> bool:
    return tensor.device.type != ELSEWHERE


def _plain(found: str) -> str:
    return found.replace(ELSEWHERE, "that of the inputs")


def _on_cuda(case: NodeCase, given: Arguments) -> None:
    expected = call(case, given)
    found = call(case, moved(case, given, lambda tensor: tensor.to("cuda")), "cuda")
    for place, leaf in leaves_out(case, found):
        if leaf.tensor.device.type != "cuda" and not isinstance(
            found[place.partition(".")[0]], (Levels, Schedule, Scheduler)
        ):
            raise case.error(f"output '{place}' on cuda, as the inputs", f"it is on {leaf.tensor.device}", REMEDY)
    apart = difference({k: _home(v) for k, v in found.items()}, expected)
    if apart > 1e-2:
        raise case.error("the CPU's result on CUDA", f"results that differ by {apart:.1e}", "look for what differs")


def _home(value: Any) -> Any:
    from torch.utils._pytree import tree_map

    return tree_map(lambda one: one.cpu() if isinstance(one, Tensor) else one, value)
