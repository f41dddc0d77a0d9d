"""FreeU (Si et al. 2023, arXiv 2309.11497)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Ge, Gt

from guidegraph import HookedDenoiser, Tensor, hookimpl, node, select_sites


@node("freeu.apply")
def apply(
    denoiser: HookedDenoiser,
    *,
    b: Annotated[float, Gt(0)] = 1.2,
    s: Annotated[float, Ge(0)] = 0.9,
    sites: str | list[str] = "skip.up.0",
    threshold: Annotated[int, Ge(1)] = 1,
) -> HookedDenoiser:
    """The denoiser with stronger features in the up path and weaker low frequencies in the skips (Si et al. 2023).

    At each site the first half of the channels of h is multiplied by α = (b − 1) x̄ + 1, where x̄ is the mean of h over
    its channels, brought to 0 … 1 in each sample; and the low frequencies of the skipped features by s.
    b, s: 1 leaves the features, or the skips, unchanged. sites: beginnings of the names of "skip" sites, as
    denoiser.sites lists them; the paper has one b and s for each of the two coarsest levels: one node after the other.
    threshold: low are the frequencies −threshold … threshold − 1 along both axes, as in the authors' code; the paper's
    text has a disc instead of this square.
    The authors' second version; diffusers has the first, in which α = b everywhere. In an exported graph the filter is
    products with two small matrices.
    Raises an error for a site that is not a skip, and for one that has a rule already.
    """
    chosen = select_sites(denoiser, sites)
    if wrong := [site.name for site in chosen if site.kind != "skip"]:
        raise ValueError(f"freeu acts where features are skipped, and not at {', '.join(wrong)}")

    def reweight(h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
        return strengthen(h, b), filter_skips(skipped, s, threshold)

    return denoiser.with_rules(dict.fromkeys(chosen, reweight))


def strengthen(h: Tensor, b: float) -> Tensor:
    """Features h (B, C, H, W) whose first ⌊C/2⌋ channels are multiplied by the map α (B, 1, H, W) of 1 … b."""
    import torch

    mean = h.mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    tiny = max(1e-12, torch.finfo(h.dtype).tiny)  # 1e-12 is 0 in float16
    alpha = (b - 1) * (mean - low) / (high - low).clamp(min=tiny) + 1
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * alpha, h[:, half:]], dim=1)


def filter_skips(skipped: Tensor, s: float, threshold: int) -> Tensor:
    """Features (B, C, H, W) plus (s − 1) times the real part of their low frequencies: IFFT(FFT · β), linear in them.

    With P = cosines + i sines, the projection of an axis onto its low frequencies, that part is Re(P_H X P_Wᵀ).
    """
    (rows, rows_i), (columns, columns_i) = (low_pass(skipped, n, threshold) for n in skipped.shape[2:])
    low = rows @ skipped @ columns.T - rows_i @ skipped @ columns_i.T
    return skipped + (s - 1) * low


def low_pass(like: Tensor, n: int, threshold: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of P (n, n), P_ab = 1/n Σ_f exp(2πi f (a − b)/n) over f = −threshold … threshold − 1.

    On a shorter axis, each of its n frequencies counts once.
    """
    import torch

    positions = torch.arange(n, device=like.device, dtype=torch.float32)
    distance = (positions[:, None] - positions[None, :]) * (2 * math.pi / n)
    frequencies = torch.arange(-threshold, threshold, device=like.device, dtype=torch.float32)[:, None, None]
    counts = (frequencies >= -torch.floor(positions[-1] / 2 + 0.5)) & (frequencies < torch.floor(positions[-1] / 2 + 1))
    angles = frequencies * distance
    cosines, sines = ((wave(angles) * counts).sum(0) / n for wave in (torch.cos, torch.sin))
    return cosines.to(like.dtype), sines.to(like.dtype)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [apply]
