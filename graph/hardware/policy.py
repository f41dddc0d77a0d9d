"""One policy for each device: the layout of convolutions by dtype and size, and the cost of each dtype."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from guidegraph.graph.hardware import instructions

if TYPE_CHECKING:
    import torch

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
        import torch

        if not self.is_cpu or dtype not in (torch.float32, torch.bfloat16):
            return "as_given"
        if pixels <= PACKED_PIXELS:
            return "packed"
        return "channels_last" if dtype == torch.bfloat16 else "as_given"

    def spare_keys(self, dtype: torch.dtype, keys: int) -> int:
        """Keys to add, masked, so that attention without gradients takes the fast kernel."""
        import torch

        tail = keys % KEY_LANES
        if not self.is_cpu or dtype != torch.float32 or keys > PADDED_KEYS or tail < PADDED_TAIL:
            return 0
        return KEY_LANES - tail if instructions.vectorises_in_avx512() else 0

    def spare_width(self, dtype: torch.dtype, width: int, queries: int, keys: int) -> int:
        """Zeros to add to the width of heads so that attention without gradients takes the fast kernel."""
        import torch

        if not self.is_cpu or dtype != torch.float32 or width > NARROW_HEAD or queries * keys < PADDED_LOGITS:
            return 0
        return PADDED_HEAD - width if instructions.is_amd() else 0

    def multiplies_by_vector(self, dtype: torch.dtype, rows: int) -> bool:
        """Whether a linear layer without gradients is a product of its weight with a vector.

        It is for one row in bfloat16 with AMX, for which oneDNN rearranges the whole weight: layers of 57 and 113 MB
        were 1.5 to 1.6 times as fast. With AVX-512 alone they took up to 1.5 times as long, with AVX2 3.5 times.
        """
        import torch

        if not self.is_cpu or dtype != torch.bfloat16 or rows != 1:
            return False
        return instructions.vectorises_in_avx512() and instructions.uses_onednn() and instructions.has_amx()

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
        import torch

        device = torch.device(self.device)
        if not (instructions.is_present(device) if device.type == "cuda" else self.is_cpu and instructions.is_x86()):
            return False
        return not (instructions.computes_bf16(device) if dtype == "bfloat16" else instructions.computes_fp16(device))

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
        if not instructions.has_avx512():
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
        import torch

        device = torch.device(self.device)
        if not instructions.computes_bf16(device):
            return False
        return device.type == "cuda" or instructions.multiplies_faster_in_bf16()

    def trains_in_emulated_bf16(self) -> bool:
        """Whether training in bf16 is emulated on the device, as far as is known."""
        import torch

        return not instructions.computes_bf16(torch.device(self.device))

    def describe_training_cost(self) -> str:
        """The cost of a training step in emulated bf16 on the device."""
        if self.device.partition(":")[0] == "cuda":
            return (
                "CUDA devices compute in it from compute capability 8.0, and a training step takes longer than in fp32"
            )
        factor = TRAINING_AVX512 if instructions.has_avx512() else TRAINING_AVX2
        return f"a training step takes {factor} times as long as in fp32"


CPU_POLICY = ComputePolicy("cpu")
