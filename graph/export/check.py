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
    return TOLERANCE * max((ROUNDED[part.precision] for part in exported.parts), default=1)


def called(exported: Exported) -> dict[str, Any]:
    """The outputs of a bundle of one call for its examples, as torch computes them."""
    import torch

    (part,) = exported.parts
    with placement("cpu", "float32"), torch.no_grad():
        results = part.plan.function(*(port.example for port in part.plan.inputs))
    return dict(zip(part.plan.outputs, results, strict=True))


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

        plan = next(candidate.plan for candidate in self.exported.parts if candidate.plan.name == part)
        tensors = [torch.from_numpy(inputs[candidate.name]).to(self.device) for candidate in plan.inputs]
        with placement(self.device, "float32"), torch.no_grad():
            expected = plan.function(*tensors)
        for name, tensor in zip(plan.outputs, expected, strict=True):
            deviation = difference(name, "tensor", outputs[name], array_of(tensor), TOLERANCE)
            before = self.worst.get((part, name))
            # Not `>`: what is no number is worst.
            if before is None or not deviation.absolute <= before.absolute:
                self.worst[part, name] = deviation


def array_of(value: Any) -> Any:
    """An output of the engine as the runtime gives it: an array."""
    import numpy as np

    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def compared(
    outputs: Mapping[str, Any], engine: Mapping[str, Any], kinds: Mapping[str, str], tolerance: float = TOLERANCE
) -> list[Difference]:
    """Each output of a bundle against the engine's."""
    return [difference(name, kinds[name], outputs[name], array_of(engine[name]), tolerance) for name in outputs]
