"""Memory for weights that a CPU reads again and again: in pages of 2 MiB where Linux has them."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from math import prod

from guidegraph.graph.hardware.policy import CPU_POLICY, HUGE_PAGE
from guidegraph.graph.late import torch


def allocate_weight(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Allocate a tensor on the CPU without values, in huge pages if the policy asks for them at its size.

    Other pages serve if the kernel cannot give huge ones. Raises ``RuntimeError`` if there is too little memory.
    """
    count = prod(shape)
    size = count * dtype.itemsize
    memory = _map_huge(size) if CPU_POLICY.takes_huge_pages(size) else None
    if memory is None:
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=_find_offset(memory)).view(tuple(shape))


def _map_huge(size: int) -> mmap.mmap | None:
    """Private memory in huge pages with room for ``size`` bytes after `_find_offset`; None if the system lacks them.

    Only whole pages within these bytes are huge, so that no more memory is taken than with small ones.
    """
    if sys.platform != "linux":
        return None
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE, _find_offset(memory), size // HUGE_PAGE * HUGE_PAGE)
    except OSError:  # a kernel without huge pages, or a limit of memory: torch's own allocator tells a person of that
        return None
    return memory


def _find_offset(memory: mmap.mmap) -> int:
    """Where the first huge page of mapped memory begins."""
    return -torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr() % HUGE_PAGE
