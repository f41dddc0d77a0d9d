"""Attention in operators that ONNX has: fewer than torch's exporter takes, and a softmax without guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Any:
    """softmax(QKᵀ/√d + mask) V; zero for a query whose keys are all hidden, as in torch's kernels.

    query: (..., N, d), key: (..., M, d), value: (..., M, e), attn_mask: broadcastable to (..., N, M), True for the keys
    that count, or added to the scores. multiply: of matrices; torch.matmul broadcasts the axes before theirs, and
    torch.bmm takes fewer operators where there is one that is equal in all. Returns (..., N, e). NotImplemented for
    other options, which torch converts.
    """
    if dropout_p or is_causal or enable_gqa:
        return NotImplemented
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    products = multiply(query * scale, key.transpose(-2, -1))
    if attn_mask is None:
        return multiply(torch.softmax(products, -1), value)
    bias, counts = _make_bias(torch.atleast_2d(attn_mask), products.dtype)
    if attn_mask.dtype == torch.float16:
        products = products.float()  # the sum of a score and the lowest float16 can be -inf
    weights = torch.softmax(products + bias, -1).to(value.dtype)
    is_same_for_queries = isinstance(counts.shape[-2], int) and counts.shape[-2] == 1
    if is_same_for_queries and counts.ndim == value.ndim:
        return multiply(weights, value * counts)
    return multiply(weights, value) * counts


def _make_bias(attn_mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A number that is added to each product, and 1 for queries (..., N, 1) that have a key, 0 for others.

    The products of a query without a key stay as they are, so that its weights have no NaN.
    """
    if attn_mask.dtype == torch.bool:
        counts = attn_mask.any(-1, keepdim=True)
        return torch.where(attn_mask | ~counts, 0.0, -torch.inf).to(dtype), counts.to(dtype)
    counts = (attn_mask != -torch.inf).any(-1, keepdim=True)
    return torch.where(counts, attn_mask, torch.zeros_like(attn_mask)), counts.to(dtype)
