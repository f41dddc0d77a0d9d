"""Comparing a bundle with the engine: the differences of each part and each output from torch's results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from guidegraph.graph.device_context import use_device
from guidegraph.graph.export.workflow import Exported
from guidegraph.graph.types import is_tensor
from guidegraph_runtime.checks import make_table
from guidegraph_runtime.running.measure_costs import Difference, compare_output

TOLERANCE = 2 / 255 * 2
"""The allowed absolute difference: 2/255 of the range of pictures, -1 to 1, and the same for other outputs."""

ROUNDED: Mapping[str, float] = {"fp32": 1, "fp16": 4, "int8": 16, "bf16": 16}
"""Factors of the tolerance by precision, as rounding errors add up over the steps of a loop."""


def choose_tolerance(exported: Exported) -> float:
    """The tolerance of a bundle's outputs, set by its least precise part."""
    return TOLERANCE * max((ROUNDED[part.precision] for part in exported.parts), default=1)


def run_example(exported: Exported) -> dict[str, Any]:
    """The outputs of a bundle of one call for its example inputs, computed with torch."""
    (part,) = exported.parts
    with use_device("cpu", "float32"), torch.no_grad():
        results = part.plan.function(*(port.example for port in part.plan.inputs))
    return dict(zip(part.plan.outputs, results, strict=True))


@dataclass
class PartCheck:
    """An observer of a bundle's run that compares each part with the torch function from which it was traced.

    worst: the largest difference of each output over all calls, by the names of part and output.
    """

    exported: Exported
    device: str = "cpu"
    worst: dict[tuple[str, str], Difference] = field(default_factory=dict)

    def __call__(self, part: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        plan = next(candidate.plan for candidate in self.exported.parts if candidate.plan.name == part)
        tensors = [torch.from_numpy(inputs[candidate.name]).to(self.device) for candidate in plan.inputs]
        with use_device(self.device, "float32"), torch.no_grad():
            expected = plan.function(*tensors)
        for name, tensor in zip(plan.outputs, expected, strict=True):
            deviation = compare_output(name, "tensor", outputs[name], to_array(tensor), TOLERANCE)
            before = self.worst.get((part, name))
            # Not `>`, so that NaN counts as the worst.
            if before is None or not deviation.absolute <= before.absolute:
                self.worst[part, name] = deviation


def to_array(value: Any) -> Any:
    """An output of the engine as an array, as the runtime returns it: a table of columns as a structured array."""
    if isinstance(value, Mapping):
        return make_table(value)
    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def compare_outputs(
    outputs: Mapping[str, Any], engine: Mapping[str, Any], kinds: Mapping[str, str], tolerance: float = TOLERANCE
) -> list[Difference]:
    """Compare each output of a bundle with the engine's."""
    return [compare_output(name, kinds[name], outputs[name], to_array(engine[name]), tolerance) for name in outputs]
