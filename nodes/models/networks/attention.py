"""Scaled dot-product attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


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
    with training_kernel(query):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :]
        )


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√D) (B, heads, N, L), with the shapes of `attention`."""
    logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
    return torch.softmax(logits, dim=-1)
