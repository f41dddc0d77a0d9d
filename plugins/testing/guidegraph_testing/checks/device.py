"""A node computes on the device of its inputs.

Without an accelerator this is checked with fake tensors, which have a shape, a dtype and the device ``meta``, but no
values. A tensor that the node makes on a fixed device, or keeps on the CPU, then causes an error in an operator, or
shows in the device of an output. With a CUDA device, real or simulated, the node also runs there, and the results are
compared; a node that reads values of tensors is checked there alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guidegraph.graph.export.partition.free_axes import silence_logger
from guidegraph.graph.torch_private import FakeTensorMode, pytree
from guidegraph.nodes.types import Levels, Schedule, Scheduler
from guidegraph_testing import simulated_cuda
from guidegraph_testing.arguments import (
    Arguments,
    call_node,
    make_arguments,
    move_tensors,
    output_leaves,
    require_traceable,
)
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming
from guidegraph_testing.comparison import difference

ELSEWHERE = "meta"
TABLES = (Levels, Schedule, Scheduler)
"""Values that are made on the run's device, whatever the device of their inputs."""
NO_VALUES = (
    "DataDependent",
    "DynamicOutputShape",
    "_local_scalar_dense",
    ".numpy() is not supported",
    "Cannot copy out of meta",
    "nonzero",
    "unsupported scalarType",
)
"""Parts of torch's messages when a node reads values of fake tensors."""
REMEDY = (
    "make tensors on the device of the inputs: torch.zeros_like(x), torch.tensor(…, device=x.device), "
    "table.to(x.device); with no tensor among the inputs on current_device(); keep a model's tensors in parameters and "
    "buffers"
)


def check_device_independence(case: NodeCase) -> None:
    """All tensors that a node uses and returns are on the device of its inputs."""
    require_traceable(case)
    args = make_arguments(case)
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        _check_on_cuda(case, args)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with silence_logger("torch._subclasses.fake_tensor"), mode:
        fake = move_tensors(case, args, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=ELSEWHERE))
        try:
            outputs = call_node(case, fake, ELSEWHERE)
        except Nonconforming as error:
            if any(word in error.found for word in NO_VALUES):
                if has_cuda:
                    return
                raise Inapplicable(
                    "needs a GPU or --device sim: it reads values of tensors, which the fake device does not have"
                ) from None
            if "same device" in error.found or "device" in error.found.lower():
                device_text = error.found.replace(ELSEWHERE, "that of the inputs")
                raise case.error("all tensors on the device of the inputs", device_text, REMEDY) from error
            raise
        devices = [(path, leaf.tensor.device) for path, leaf in output_leaves(case, outputs)]
    tables = {name for name, value in outputs.items() if isinstance(value, TABLES)}
    wrong = [(p, device) for p, device in devices if device.type != ELSEWHERE and p.partition(".")[0] not in tables]
    if wrong:
        path, device = wrong[0]
        raise case.error(f"output '{path}' on the device of the inputs", f"it is on {device}", REMEDY)


def check_waits(case: NodeCase) -> None:
    """A node of a step does not wait for the device, nor copy pageable memory to it, when it is called again."""
    require_traceable(case)
    args = move_tensors(case, make_arguments(case), lambda tensor: tensor.to("cuda"))
    call_node(case, args, "cuda")
    with simulated_cuda.record() as events:
        call_node(case, args, "cuda")
    waits = [f"{event.name} at {event.line}" for event in events if event.kind in ("wait", "blocking")]
    if waits:
        raise case.error(
            "a step that the host sends to the device without waiting",
            ", ".join(dict.fromkeys(waits)),
            "decide with torch.where and not in Python; make tensors on the device with torch.full, torch.arange or "
            "torch.zeros; read what stays the same with read_on_host, which copies it once",
        )


def _check_on_cuda(case: NodeCase, args: Arguments) -> None:
    expected = call_node(case, args)
    outputs = call_node(case, move_tensors(case, args, lambda tensor: tensor.to("cuda")), "cuda")
    for path, leaf in output_leaves(case, outputs):
        if leaf.tensor.device.type != "cuda" and not isinstance(outputs[path.partition(".")[0]], TABLES):
            raise case.error(f"output '{path}' on cuda, as the inputs", f"it is on {leaf.tensor.device}", REMEDY)
    on_cpu = pytree.tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, outputs)
    error = difference(on_cpu, expected)
    if error > 1e-2:
        raise case.error("the CPU's result on CUDA", f"results that differ by {error:.1e}", "look for what differs")
