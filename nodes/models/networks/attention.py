"""Scaled dot-product attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple, cast

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
    width, spare = query.shape[-1], _count_spare(query, key, value)
    if spare.keys:
        mask = _mask_spare(key.shape[2], spare.keys) if mask is None else F.pad(mask, (0, spare.keys))
    if spare.keys or spare.width:
        padding = (0, spare.width, 0, spare.keys)
        key, value = F.pad(key, padding), F.pad(value, padding)
    if spare.width:
        query = F.pad(query, (0, spare.width))
    scale = width**-0.5 if spare.width else None
    with training_kernel(query) if query.requires_grad else nullcontext():
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :], scale=scale
        )
    return attended[..., :width] if spare.width else attended


class Spare(NamedTuple):
    """Numbers of masked keys, and of zeros in the width of the heads, to add for a quick attention."""

    keys: int = 0
    width: int = 0


NOTHING = Spare()


def _count_spare(query: Tensor, key: Tensor, value: Tensor) -> Spare:
    """The padding by the CPU's policy, if the tensors are plain ones without gradients."""
    if query.device.type != "cpu" or query.requires_grad or key.requires_grad or value.requires_grad:
        return NOTHING
    if torch.compiler.is_compiling() or not (type(query) is type(key) is type(value) is Tensor):
        return NOTHING
    spare = choose_spare(query.dtype, query.shape[-1], query.shape[2], key.shape[2], key.shape == value.shape)
    return spare if spare is NOTHING or (has_values(query) and not is_transformed()) else NOTHING


@lru_cache(maxsize=1024)
def choose_spare(dtype: torch.dtype, width: int, queries: int, keys: int, same_width: bool) -> Spare:
    """The padding for heads of a width by the CPU's policy, decided once for these sizes.

    same_width: whether keys and values have one shape.
    """
    spare_width = CPU_POLICY.spare_width(dtype, width, queries, keys) if same_width else 0
    spare = Spare(CPU_POLICY.spare_keys(dtype, keys), spare_width)
    return spare if any(spare) else NOTHING


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
