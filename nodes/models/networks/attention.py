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
    if spare := _count_spare_keys(query, key, value):
        mask = _mask_spare(key.shape[2], spare) if mask is None else F.pad(mask, (0, spare))
        key, value = (F.pad(tensor, (0, 0, 0, spare)) for tensor in (key, value))
    with training_kernel(query):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :]
        )


def _count_spare_keys(query: Tensor, key: Tensor, value: Tensor) -> int:
    """How many masked keys to add by the CPU's policy, if the tensors are plain ones without gradients."""
    if query.device.type != "cpu":
        return 0
    if any(tensor.requires_grad or not has_values(tensor) for tensor in (query, key, value)):
        return 0
    spare = CPU_POLICY.spare_keys(query.dtype, key.shape[2])
    return 0 if spare and is_transformed() else spare


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
