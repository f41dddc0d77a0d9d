"""One policy for each device: the layout of convolutions by dtype and size, and the cost of each dtype."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.graph import torch_private
from guidegraph.graph.late import torch

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
    return (device.index or 0) < torch.cuda.device_count()


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware, without emulation.

    A CPU does with AMX or AVX512-BF16, unless oneDNN is off or ``ONEDNN_MAX_CPU_ISA`` excludes them; a CUDA device does
    from compute capability 8.0. False for any other device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    avx512 = torch_private.is_avx512_bf16_supported() and isa_limit() not in BELOW_BF16
    return device.type == "cpu" and uses_onednn() and (avx512 or has_amx())


def computes_fp16(device: torch.device) -> bool:
    """Whether a device has kernels for float16: CUDA devices, and CPUs for which oneDNN has some."""
    if device.type == "cuda":
        return True
    supports = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return device.type == "cpu" and uses_onednn() and supports is not None and bool(supports())


@cache
def vectorises_in_avx512() -> bool:
    """Whether torch's own CPU kernels use AVX-512 (``ATEN_CPU_CAPABILITY`` can exclude it)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def uses_onednn() -> bool:
    """Whether torch has oneDNN and it is on."""
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


Layout: TypeAlias = Literal["packed", "channels_last", "as_given"]
"""Packed: channels-last maps, and a weight that is kept in the layout of oneDNN's kernels. Channels-last: such maps
alone. As given: the memory format of the input."""

PACKED_PIXELS = 1024
"""The largest map, in pixels of a sample, for which a weight is packed: above it, arithmetic hides the reordering."""

KEY_LANES, PADDED_KEYS, PADDED_TAIL = 16, 160, 8
"""With AVX-512, torch's attention handles the keys beyond a multiple of 16 one by one. Up to 160 keys are padded if 8
of them or more are left over: this was up to 2.9 times as fast. With more keys, or fewer left over, it was slower."""

NARROW_HEAD, PADDED_HEAD, PADDED_LOGITS = 8, 16, 16_384
"""On AMD's processors, torch's attention multiplies heads of up to 8 numbers slowly. Padded to 16 they were 1.2 to 1.4
times as fast where a head has this many pairs of a query and a key, and slower in smaller maps; wider heads gained
nothing. On an Intel Xeon padded heads took 1.2 times as long (benchmarks/attention.py)."""

HUGE_PAGE = 2 << 20
"""Bytes of a huge page."""
HUGE_WEIGHT = 2 * HUGE_PAGE
"""The smallest weight in bytes that gets huge pages."""

STEP_AVX2, STEP_AVX512 = "8 to 37", "9 to 46"
"""The factor by which a sampling step is slower in an emulated dtype than in float32, on latents of 16 × 16 to 32 × 32
(docs/understand/benchmarks.md)."""
STEP_BF16_AVX512 = "1.8 to 2.6"
"""The same for bfloat16 with AVX-512, where oneDNN converts inside its kernels."""

TRAINING_AVX2, TRAINING_AVX512 = "6 to 18", "1.5 to 3"
"""The factor by which a training step is slower in emulated bf16 than in fp32 (docs/do/training.md)."""


@dataclass(frozen=True)
class ComputePolicy:
    """The policy of a device. device: its name as torch has it, such as ``cpu`` or ``cuda:1``."""

    device: str

    def layout(self, dtype: torch.dtype, pixels: int) -> Layout:
        """The layout of a convolution without gradients, by the dtype and the pixels of a sample's map.

        On a CPU, in float32 and bfloat16, small maps are packed. Larger ones are channels-last in bfloat16, in which
        a step was measured to be up to 1.27 times as fast; in float32 that gained nothing. On other devices nothing
        was measured, and maps stay as given.
        """
        if not self.is_cpu or dtype not in (torch.float32, torch.bfloat16):
            return "as_given"
        if pixels <= PACKED_PIXELS:
            return "packed"
        return "channels_last" if dtype == torch.bfloat16 else "as_given"

    def spare_keys(self, dtype: torch.dtype, keys: int) -> int:
        """Keys to add, masked, so that attention without gradients takes the fast kernel."""
        tail = keys % KEY_LANES
        if not self.is_cpu or dtype != torch.float32 or keys > PADDED_KEYS or tail < PADDED_TAIL:
            return 0
        return KEY_LANES - tail if vectorises_in_avx512() else 0

    def spare_width(self, dtype: torch.dtype, width: int, queries: int, keys: int) -> int:
        """Zeros to add to the width of heads so that attention without gradients takes the fast kernel."""
        if not self.is_cpu or dtype != torch.float32 or width > NARROW_HEAD or queries * keys < PADDED_LOGITS:
            return 0
        return PADDED_HEAD - width if is_amd() else 0

    def multiplies_by_vector(self, dtype: torch.dtype, rows: int) -> bool:
        """Whether a linear layer without gradients is a product of its weight with a vector.

        It is for one row in bfloat16 with AMX, for which oneDNN rearranges the whole weight: layers of 57 and 113 MB
        were 1.5 to 1.6 times as fast. With AVX-512 alone they took up to 1.5 times as long, with AVX2 3.5 times.
        """
        if not self.is_cpu or dtype != torch.bfloat16 or rows != 1:
            return False
        return vectorises_in_avx512() and uses_onednn() and has_amx()

    def takes_huge_pages(self, size: int) -> bool:
        """Whether memory for a weight of this size in bytes belongs in huge pages.

        With few tokens, a layer on a CPU reads a large weight once for little arithmetic, and with pages of 4 KiB
        the translation of addresses is a part of that time: a linear layer of 132 MB in bfloat16 took 1.17 times as
        long with 64 tokens, 1.14 with 128 and 1.03 with 320 (docs/understand/benchmarks.md).
        """
        return self.is_cpu and size >= HUGE_WEIGHT

    @cached_property
    def is_cpu(self) -> bool:
        """Whether the device is the CPU."""
        return self.device.partition(":")[0] == "cpu"

    def emulates(self, dtype: str) -> bool:
        """Whether the device is known to lack instructions or kernels for a dtype, by its name.

        Only 16-bit dtypes are ever emulated. CUDA devices of this machine are known, and CPUs of the x86 family.
        """
        if dtype not in ("float16", "bfloat16"):
            return False
        device = torch.device(self.device)
        if not (is_present(device) if device.type == "cuda" else self.is_cpu and is_x86()):
            return False
        return not (computes_bf16(device) if dtype == "bfloat16" else computes_fp16(device))

    def describe_emulation(self, dtype: str) -> str:
        """The cost of a run in an emulated dtype, and the dtypes to choose in its place; empty for other dtypes."""
        if not self.emulates(dtype):
            return ""
        if not self.is_cpu:
            return f"{dtype} is only emulated on {self.device}: choose float16 or float32"
        factor = self._step_factor(dtype)
        choices = "float32, the default"
        if dtype == "float16" and not self.emulates("bfloat16"):
            choices += ", or bfloat16, which this processor computes in"
        return (
            f"{dtype} is only emulated on this processor: a step takes {factor} times as long as in "
            f"float32; choose {choices}"
        )

    def _step_factor(self, dtype: str) -> str:
        if not has_avx512():
            return STEP_AVX2
        return STEP_BF16_AVX512 if dtype == "bfloat16" else STEP_AVX512

    def warn_of_emulation(self, dtype: str) -> None:
        """Warn if a run in a dtype is only emulated."""
        if note := self.describe_emulation(dtype):
            warnings.warn(note, stacklevel=3)

    def trains_faster_in_bf16(self) -> bool:
        """Whether training is known to be faster in bf16 than in fp32.

        It is on CUDA devices that compute in bf16, with AMX, and with AVX512-BF16 on AMD's processors. Raises
        ``RuntimeError`` for a CUDA device that this machine does not have.
        """
        device = torch.device(self.device)
        if not computes_bf16(device):
            return False
        return device.type == "cuda" or multiplies_faster_in_bf16()

    def trains_in_emulated_bf16(self) -> bool:
        """Whether training in bf16 is emulated on the device, as far as is known."""
        return not computes_bf16(torch.device(self.device))

    def describe_training_cost(self) -> str:
        """The cost of a training step in emulated bf16 on the device."""
        if self.device.partition(":")[0] == "cuda":
            return (
                "CUDA devices compute in it from compute capability 8.0, and a training step takes longer than in fp32"
            )
        factor = TRAINING_AVX512 if has_avx512() else TRAINING_AVX2
        return f"a training step takes {factor} times as long as in fp32"


CPU_POLICY = ComputePolicy("cpu")
