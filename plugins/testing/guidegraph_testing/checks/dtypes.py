"""float32 gives float32, float64 stays float64, and a half gives a half or float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from guidegraph.graph.export.partition.leaves import Leaf
from guidegraph.graph.port import Port
from guidegraph.nodes.types import Levels, Schedule, Scheduler, Timesteps
from guidegraph_testing.arguments import Arguments, call_node, make_arguments, move_models, output_leaves
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming

EXPECTED: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.float32,),
    torch.float64: (torch.float64,),
    torch.float16: (torch.float16, torch.float32),
    torch.bfloat16: (torch.bfloat16, torch.float32),
}


def check_dtypes(case: NodeCase) -> None:
    """Float outputs have the dtype of the float inputs; tables of schedules and t keep their own."""
    args = make_arguments(case)
    outputs = call_node(case, args)
    if not _floats(case, outputs):
        raise Inapplicable("no output is a tensor of floats in the dtype of a run")
    _check(case, outputs, torch.float32)
    if not any(_follows_run_dtype(port, leaf) for port, leaf in args.leaves(case)) or case.spec.host:
        return
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        half = _call_or_none(case, _in_dtype(case, args, dtype), dtype)
        if half is not None:
            _check(case, half, dtype)


def _call_or_none(case: NodeCase, args: Arguments, dtype: torch.dtype) -> dict[str, Any] | None:
    """Call the node. Returns None if the CPU lacks an operator in half precision."""
    try:
        return call_node(case, args)
    except Nonconforming as error:
        if "not implemented for 'Half'" in error.found or "not implemented for 'BFloat16'" in error.found:
            return None
        raise case.error(
            f"a result for inputs in {_name(dtype)}",
            error.found,
            "bring what the node makes itself to the dtype of its inputs: torch.zeros_like(x), table.to(x.dtype)",
        ) from error


def _check(case: NodeCase, outputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    for path, leaf in _floats(case, outputs):
        if leaf.tensor.dtype not in EXPECTED[dtype]:
            expected = " or ".join(map(_name, EXPECTED[dtype]))
            raise case.error(
                f"{expected} from inputs in {_name(dtype)}",
                f"output '{path}' in {_name(leaf.tensor.dtype)}",
                "keep the dtype of the inputs: no .float(), no .double(), no NumPy scalar without .to(x.dtype)",
            )


def _floats(case: NodeCase, outputs: Mapping[str, Any]) -> list[tuple[str, Leaf]]:
    leaves = []
    for name, value in outputs.items():
        if isinstance(value, (Levels, Schedule, Scheduler)) or Timesteps in case.spec.outputs[name].alternatives:
            continue
        leaves += [(p, leaf) for p, leaf in output_leaves(case, {name: value}) if leaf.tensor.is_floating_point()]
    return leaves


def _follows_run_dtype(port: Port, leaf: Leaf) -> bool:
    """Whether a tensor takes the dtype of the run."""
    return leaf.tensor.dtype == torch.float32 and Timesteps not in port.type.alternatives


def _in_dtype(case: NodeCase, args: Arguments, dtype: torch.dtype) -> Arguments:
    """Cast tensors and model weights to a dtype; t, and tables in float64, keep theirs."""
    cast = args.map_tensors(
        case, lambda port, leaf: leaf.tensor.to(dtype) if _follows_run_dtype(port, leaf) else leaf.tensor
    )
    return move_models(cast, lambda tensor: tensor.to(dtype) if tensor.dtype == torch.float32 else tensor)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
