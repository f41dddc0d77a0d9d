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
    edge = torch.quantile(x0.abs().flatten(1), threshold, dim=1).clamp(min=bound)
    if threshold_max is not None:
        edge = edge.clamp(max=threshold_max)
    edge = edge.reshape(-1, *(1,) * (x0.ndim - 1))
    return torch.maximum(torch.minimum(x0, edge), -edge) * (bound / edge)
