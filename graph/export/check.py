"""Engine and bundle side by side: how far each part, and each output, is from what torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph.context import placement
from guidegraph.graph.export.workflow import Exported
from guidegraph.graph.types import is_tensor
from guidegraph_runtime.reference import Difference, difference

TOLERANCE = 2 / 255 * 2
"""By how much a picture's values, from -1 to 1, may differ: 2/255 of their range. Those of others, by as much of 1."""

ROUNDED: Mapping[str, float] = {"fp32": 1, "fp16": 4, "int8": 16, "bf16": 16}
"""How many times as much where the steps of a loop are computed in a precision: rounding adds up over the steps."""


def tolerance_of(exported: Exported) -> float:
    """By how much the outputs of a bundle may differ, as its least precise part has it."""
    return TOLERANCE * max((ROUNDED[one.precision] for one in exported.parts), default=1)


def called(exported: Exported) -> dict[str, Any]:
    """The outputs of a bundle of one call for its examples, as torch computes them."""
    import torch

    (part,) = exported.parts
    with placement("cpu", "float32"), torch.no_grad():
        found = part.plan.function(*(one.example for one in part.plan.inputs))
    return dict(zip(part.plan.outputs, found, strict=True))


@dataclass
class PartCheck:
    """An observer of a bundle's run that gives each part's inputs to the torch function that it was traced from.

    worst: the largest difference of each output over all calls, by the names of part and output.
    """

    exported: Exported
    device: str = "cpu"
    worst: dict[tuple[str, str], Difference] = field(default_factory=dict)

    def __call__(self, part: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        import torch

        plan = next(one.plan for one in self.exported.parts if one.plan.name == part)
        given = [torch.from_numpy(inputs[one.name]).to(self.device) for one in plan.inputs]
        with placement(self.device, "float32"), torch.no_grad():
            expected = plan.function(*given)
        for name, tensor in zip(plan.outputs, expected, strict=True):
            found = difference(name, "tensor", outputs[name], array_of(tensor), TOLERANCE)
            before = self.worst.get((part, name))
            # Not `>`: what is no number is worst.
            if before is None or not found.absolute <= before.absolute:
                self.worst[part, name] = found


def array_of(value: Any) -> Any:
    """An output of the engine as the runtime gives it: an array."""
    import numpy as np

    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def compared(
    found: Mapping[str, Any], engine: Mapping[str, Any], kinds: Mapping[str, str], tolerance: float = TOLERANCE
) -> list[Difference]:
    """Each output of a bundle against the engine's."""
    return [difference(name, kinds[name], found[name], array_of(engine[name]), tolerance) for name in found]
