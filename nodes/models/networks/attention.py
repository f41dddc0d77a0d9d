"""Scaled dot-product attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidegraph.graph.hardware.policy import CPU_POLICY, PADDED_KEYS
from guidegraph.nodes.shape_checks import has_values, is_transformed

NO_SPARE = (0, 0)


def training_kernel(query: Tensor) -> AbstractContextManager[None]:
    """Plain products for attention that is trained on the CPU, where the fused kernel's backward is much slower.

    Any other attention takes the kernel that torch chooses.
    """
    if query.requires_grad and query.device.type == "cpu":
        return cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH))
    return nullcontext()


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√D) V (B, heads, N, D) of a query (B, heads, N, D), and a key and a value (B, heads, L, D).

    `mask` (B, L) is true where a key may be attended to; every row needs at least one such key.
    """
    width, (more_keys, more_width) = query.shape[-1], _count_spare(query, key, value)
    if more_keys:
        mask = _mask_spare(key.shape[2], more_keys) if mask is None else F.pad(mask, (0, more_keys))
    if more_keys or more_width:
        padding = (0, more_width, 0, more_keys)
        key, value = F.pad(key, padding), F.pad(value, padding)
    if more_width:
        query = F.pad(query, (0, more_width))
    scale = width**-0.5 if more_width else None
    with training_kernel(query):
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :], scale=scale
        )
    return attended[..., :width] if more_width else attended


def _count_spare(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
    """How many masked keys, and how many zeros in the width of the heads, to add for a quick attention.

    They are what the CPU's policy says, if the tensors are plain ones without gradients.
    """
    if query.device.type != "cpu" or query.requires_grad or key.requires_grad or value.requires_grad:
        return NO_SPARE
    if not has_values(query, key, value):
        return NO_SPARE
    spare = decide_spare(query.dtype, query.shape[-1], query.shape[2], key.shape[2], key.shape == value.shape)
    return NO_SPARE if spare != NO_SPARE and is_transformed() else spare


@lru_cache(maxsize=1024)
def decide_spare(dtype: torch.dtype, width: int, queries: int, keys: int, alike: bool) -> tuple[int, int]:
    """The spare keys and the spare width by the CPU's policy, decided once for a dtype and a size.

    alike: whether the keys and the values have one shape; heads are widened only then.
    """
    spare_width = CPU_POLICY.spare_width(dtype, width, queries, keys) if alike else 0
    return CPU_POLICY.spare_keys(dtype, keys), spare_width


@lru_cache(maxsize=PADDED_KEYS)
def _mask_spare(keys: int, spare: int) -> Tensor:
    """The mask (1, keys + spare) float32 to add to logits that leaves out the spare keys."""
    with torch.inference_mode(False):
        # kept for the process, so torch's defaults of the moment must not count
        zeros = torch.zeros(1, keys, dtype=torch.float32, device="cpu")
        return F.pad(zeros, (0, spare), value=float("-inf"))


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√D) (B, heads, N, L), with the shapes of `attention`."""
    logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
    return torch.softmax(logits, dim=-1)
