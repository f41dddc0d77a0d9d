"""Bounds of x̂0: clipping, and dynamic thresholding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def clip_x0(x0: Tensor, clip: float | None, threshold: float | None, threshold_max: float | None = None) -> Tensor:
    """Clip x̂0 (B, …) to [−clip, clip]. With a threshold p, first scale each sample so that quantile p of |x̂0| fits.

    clip: None does not clip, or counts as 1 with a threshold. threshold_max: upper bound of the quantile. The scale
    factor is at most 1 (Saharia et al. 2022, section 2.3), unless threshold_max is below clip.
    """
    import torch

    if threshold is None:
        return x0 if clip is None else x0.clamp(-clip, clip)
    bound = 1.0 if clip is None else clip
    edge = torch.quantile(_magnitudes(x0), threshold, dim=1).clamp(min=bound)
    if threshold_max is not None:
        edge = edge.clamp(max=threshold_max)
    edge = edge.reshape(-1, *(1,) * (x0.ndim - 1))
    return (torch.maximum(torch.minimum(x0, edge), -edge) * (bound / edge)).to(x0.dtype)


def clip_each(x0: Tensor, clip: Tensor, threshold: Tensor, threshold_max: Tensor) -> tuple[Tensor, Tensor]:
    """As `clip_x0`, with bounds (B), or (1) for all samples, that are NaN for none; and whether a sample has bounds."""
    import torch

    unbounded, fixed = clip.isnan() & threshold.isnan(), threshold.isnan()
    bound = torch.where(unbounded, torch.inf, torch.where(clip.isnan(), 1.0, clip))
    magnitudes = _magnitudes(x0)
    quantiles = torch.quantile(magnitudes, threshold.nan_to_num(1.0).to(magnitudes), dim=1)  # (B or 1, B)
    quantile = quantiles[0] if threshold.shape[0] == 1 else quantiles.diagonal()
    limited = torch.minimum(torch.maximum(quantile, bound), threshold_max.nan_to_num(torch.inf))
    edge = torch.where(fixed, bound, limited)
    factor = torch.where(unbounded, 1.0, bound / edge)
    edge, factor = (value.reshape(-1, *(1,) * (x0.ndim - 1)) for value in (edge, factor))
    return (torch.maximum(torch.minimum(x0, edge), -edge) * factor).to(x0.dtype), ~unbounded


def _magnitudes(x0: Tensor) -> Tensor:
    """|x̂0| (B, N) for quantiles, which torch computes in float32 and float64 alone."""
    import torch

    wide: Tensor = x0.to(torch.promote_types(x0.dtype, torch.float32)).abs().flatten(1)
    return wide
