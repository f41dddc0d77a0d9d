"""Attention guided away from some of its tokens (Chen et al. 2025, arXiv 2505.21179, section 3)."""

from __future__ import annotations

from guidegraph import AttentionCall, AttentionRule, Scale, Tensor, per_sample


def make_rule(count: int, joint: bool, scale: Scale, tau: float, alpha: float) -> AttentionRule:
    """A rule of attention to tokens of which the last `count` are negative; joint: to the pixels and the tokens."""
    import torch

    def attend(call: AttentionCall) -> Tensor:
        pixels = call.size[0] * call.size[1] if joint else 0
        end = call.key.shape[2] - count
        positive, negative = (attend_to(call, pixels, part) for part in (slice(pixels, end), slice(end, None)))
        if not joint:
            return guide(positive, negative, scale, tau, alpha)
        guided = guide(positive[:, :, :pixels], negative[:, :, :pixels], scale, tau, alpha)
        return torch.cat([guided, positive[:, :, pixels:], negative[:, :, pixels:]], 2)

    return attend


def attend_to(call: AttentionCall, pixels: int, part: slice) -> Tensor:
    """The attention to the first `pixels` keys and to a part of them; of the same queries, if there are pixels."""
    import torch

    def take(values: Tensor) -> Tensor:
        return torch.cat([values[:, :, :pixels], values[:, :, part]], 2) if pixels else values[:, :, part]

    query = take(call.query) if pixels else call.query
    mask = None if call.mask is None else take(call.mask[:, None, :, None])[:, 0, :, 0]
    return AttentionCall(query, take(call.key), take(call.value), mask, call.size).attend()


def guide(positive: Tensor, negative: Tensor, scale: Scale, tau: float, alpha: float) -> Tensor:
    """α Ẑ + (1 − α) Z⁺ (B, heads, N, D), where Ẑ is Z̃ = φ Z⁺ − (φ − 1) Z⁻ with an L1 norm of at most τ ‖Z⁺‖₁.

    The norm is taken over the heads and channels of a pixel (Chen et al. 2025, eqs. 7 to 10; φ = s + 1 there).
    It is computed in float32 at least and has the dtype of Z⁺.
    """
    import torch

    own, away = (values.to(torch.promote_types(values.dtype, torch.float32)) for values in (positive, negative))
    phi = per_sample(scale, own)
    extrapolated = phi * own - (phi - 1) * away
    norm, own_norm = (values.abs().sum((1, 3), keepdim=True) for values in (extrapolated, own))
    limited = extrapolated * (tau * own_norm / norm.clamp(min=1e-12)).clamp(max=1)
    blended: Tensor = alpha * limited + (1 - alpha) * own
    return blended.to(positive.dtype)
