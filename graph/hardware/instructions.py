"""The dtypes that a device multiplies in hardware; it emulates the others by conversions."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.graph import torch_private

if TYPE_CHECKING:
    import torch

AMPERE = 8
"""The lowest major compute capability of CUDA devices that multiply bfloat16."""

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""The environment variables that keep oneDNN from newer instructions; the first that is set counts."""

BELOW_AVX512 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"})
BELOW_BF16 = BELOW_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
BELOW_AMX = BELOW_BF16 | {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512"}
"""Values of these variables that leave out AVX-512, any multiplication of bfloat16, and AMX."""

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux describes the processor."""

AMD = "AuthenticAMD"
"""The vendor that AMD's processors give."""

X86 = frozenset({"x86_64", "AMD64", "i386", "i686"})


def is_present(device: torch.device) -> bool:
    """Whether torch can use a CUDA device on this machine; without an index, whether it can use any."""
    import torch

    return (device.index or 0) < torch.cuda.device_count()


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware, without emulation.

    A CPU does with AMX or AVX512-BF16, unless oneDNN is off or ``ONEDNN_MAX_CPU_ISA`` excludes them; a CUDA device does
    from compute capability 8.0. False for any other device.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    avx512 = torch_private.is_avx512_bf16_supported() and isa_limit() not in BELOW_BF16
    return device.type == "cpu" and uses_onednn() and (avx512 or has_amx())


def computes_fp16(device: torch.device) -> bool:
    """Whether a device has kernels for float16: CUDA devices, and CPUs for which oneDNN has some."""
    import torch

    if device.type == "cuda":
        return True
    supports = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return device.type == "cpu" and uses_onednn() and supports is not None and bool(supports())


@cache
def vectorises_in_avx512() -> bool:
    """Whether torch's own CPU kernels use AVX-512 (``ATEN_CPU_CAPABILITY`` can exclude it)."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def uses_onednn() -> bool:
    """Whether torch has oneDNN and it is on."""
    import torch

    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


def has_amx() -> bool:
    """Whether the CPU has AMX and oneDNN may use it."""

    return torch_private.is_amx_tile_supported() and isa_limit() not in BELOW_AMX


def multiplies_faster_in_bf16() -> bool:
    """Whether a CPU's products in bfloat16 are faster than in float32: with AMX, or with the AVX512-BF16 of AMD.

    Intel's AVX512-BF16 alone was measured to be slower than float32.
    """

    return has_amx() or (torch_private.is_avx512_bf16_supported() and isa_limit() not in BELOW_BF16 and is_amd())


@cache
def is_amd() -> bool:
    """Whether AMD made the CPU, as far as the system says."""
    try:
        described = CPU_INFO.read_text()
    except OSError:
        described = platform.processor()
    return AMD in described


def has_avx512() -> bool:
    """Whether the CPU has AVX-512 and oneDNN may use it."""

    return torch_private.is_avx512_supported() and isa_limit() not in BELOW_AVX512


def is_x86() -> bool:
    """Whether the CPU is one of the family whose instruction sets are told apart here."""
    return platform.machine() in X86


def isa_limit() -> str | None:
    """The newest instruction set that the environment lets oneDNN use, in capitals; ``None`` without a limit."""
    limit = next((os.environ[name] for name in ISA_LIMITS if os.environ.get(name)), None)
    return None if limit is None else limit.upper()
