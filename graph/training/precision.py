"""The precision of a training, from the workflow's setting and the capabilities of the machine.

bf16 is mixed precision: weights, optimisers and averages stay in float32, and products and convolutions of the body
are computed in bfloat16. It is faster on CUDA devices that multiply bfloat16, and on CPUs with AMX. On a CPU with
AVX512-BF16 but without AMX a step was measured to take longer than in fp32. Elsewhere oneDNN and torch emulate bfloat16
by conversions, and a step takes many times as long.
"""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    import torch

PrecisionSetting: TypeAlias = Literal["auto", "fp32", "bf16"]
"""The values of the setting in a workflow."""

PRECISIONS = get_args(PrecisionSetting)
DEFAULT_PRECISION: PrecisionSetting = "fp32"

AMPERE = 8
"""The lowest major compute capability of CUDA devices that multiply bfloat16."""

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""The environment variables that keep oneDNN from newer instructions; the first that is set counts."""

BELOW_AVX512 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"})
BELOW_BF16 = BELOW_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
BELOW_AMX = BELOW_BF16 | {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512"}
"""Values of these variables that leave out AVX-512, any multiplication of bfloat16, and AMX."""

SLOWDOWN_AVX2 = "6 to 18"
SLOWDOWN_AVX512 = "1.5 to 3"
"""The factor by which a training step is slower in emulated bf16 than in fp32 (docs/do/training.md)."""


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware, without emulation.

    A CPU does with AMX or AVX512-BF16, unless oneDNN is off or ``ONEDNN_MAX_CPU_ISA`` excludes them; a CUDA device does
    from compute capability 8.0. False for any other device.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    avx512 = torch.cpu._is_avx512_bf16_supported() and _isa_limit() not in BELOW_BF16
    return device.type == "cpu" and _uses_onednn() and (avx512 or _has_amx())


def is_faster_in_bf16(device: torch.device) -> bool:
    """Whether training is known to be faster in bf16 than in fp32: on CUDA devices that compute in it, and with AMX."""
    return computes_bf16(device) and (device.type == "cuda" or _has_amx())


def _uses_onednn() -> bool:
    import torch

    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


def _has_amx() -> bool:
    import torch

    return torch.cpu._is_amx_tile_supported() and _isa_limit() not in BELOW_AMX


def _isa_limit() -> str | None:
    limit = next((os.environ[name] for name in ISA_LIMITS if os.environ.get(name)), None)
    return None if limit is None else limit.upper()


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
        warnings.warn(
            f"bf16 is only emulated here: {_cost_of_emulation(device)}; write 'precision: auto' to train in fp32 on "
            "machines like this one",
            stacklevel=2,
        )
    return "bf16"


def _cost_of_emulation(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return "CUDA devices compute in it from compute capability 8.0, and a training step takes longer than in fp32"
    avx512 = torch.cpu._is_avx512_supported() and _isa_limit() not in BELOW_AVX512
    return f"a training step takes {SLOWDOWN_AVX512 if avx512 else SLOWDOWN_AVX2} times as long as in fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context manager in which a training's body computes in a precision, fp32 or bf16."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
