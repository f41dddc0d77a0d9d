"""The precision of a training, from the workflow's setting and the policy of the device.

bf16 is mixed precision: weights, optimisers and averages stay in float32, and products and convolutions of the body
are computed in bfloat16. It is faster on CUDA devices that multiply bfloat16, on CPUs with AMX, and on AMD's with
AVX512-BF16. On Intel's with AVX512-BF16 alone a step was measured to take longer than in fp32. Elsewhere oneDNN and
torch emulate bfloat16 by conversions, and a step takes many times as long.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias, get_args

from guidegraph.graph.hardware.policy import ComputePolicy
from guidegraph.graph.late import torch

PrecisionSetting: TypeAlias = Literal["auto", "fp32", "bf16"]
"""The values of the setting in a workflow."""

PRECISIONS = get_args(PrecisionSetting)
DEFAULT_PRECISION: PrecisionSetting = "fp32"


def resolve_precision(setting: str, device: torch.device, *, emulated: bool, gains: bool) -> Literal["fp32", "bf16"]:
    """The precision to train in on a device.

    emulated: whether the device of any process only emulates bf16. gains: whether bf16 is faster on the devices of all
    processes; then ``auto`` is bf16, else fp32. An explicit ``bf16`` is kept, with a warning if it is emulated. Raises
    ``ValueError`` for another name.
    """
    if setting not in PRECISIONS:
        raise ValueError(f"there is no precision '{setting}'; precisions: {', '.join(PRECISIONS)}")
    if setting == "fp32" or (setting == "auto" and not gains):
        return "fp32"
    if emulated:
        cost = ComputePolicy(str(device)).describe_training_cost()
        warnings.warn(
            f"bf16 is only emulated here: {cost}; write 'precision: auto' to train in fp32 on machines like this one",
            stacklevel=2,
        )
    return "bf16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context manager in which a training's body computes in a precision, fp32 or bf16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """The context in which operators keep the dtypes of their inputs, also inside ``autocast``.

    Where autocast is off nothing is entered. Leaving a context of autocast empties its cache, which all threads share,
    behind a lock. A thread that prepares batches would wait for the interpreter in there, and the training, which has
    the interpreter, for that lock: both for good.
    """
    if not (torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
