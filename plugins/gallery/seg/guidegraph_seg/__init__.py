"""Smoothed energy guidance (Hong 2024, arXiv 2408.00760)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Gt

from guidegraph import AttentionCall, HookedDenoiser, Prediction, Scale, Tensor, hookimpl, node, select_sites


@node("seg.perturb")
def perturb(
    denoiser: HookedDenoiser, *, sigma: Annotated[float, Gt(0)] = math.inf, sites: str | list[str] = "self.middle"
) -> HookedDenoiser:
    """The denoiser with a Gaussian blur over the queries of some self-attentions (Hong 2024, section 4).

    softmax(G(Q) Kᵀ/√d) V: the blur G over the map of queries is one of the attention's logits G(QKᵀ) along the queries,
    since QKᵀ is linear in Q; it lowers the curvature of the attention's energy. Wire it outside of the loop.
    sigma: of the blur, in pixels of the map; infinite, all queries are their mean. sites: beginnings of the names of
    "self" sites, as denoiser.sites lists them. Raises an error for a site without self-attention, or with a rule
    already.
    """
    chosen = select_sites(denoiser, sites)
    if wrong := [site.name for site in chosen if site.kind != "self"]:
        raise ValueError(f"a blur over the pixels smooths a map among the pixels alone, and not {', '.join(wrong)}")

    def blur_queries(call: AttentionCall) -> Tensor:
        return call.attend(query=blur(call.query, call.size, sigma))

    return denoiser.with_rules(dict.fromkeys(chosen, blur_queries))


def blur(query: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Queries (…, h · w, D), row by row of a map of size (h, w), after a Gaussian blur of the map: G_h Q G_wᵀ."""
    if math.isinf(sigma):
        return query.mean(-2, keepdim=True).expand_as(query)
    rows, columns = (kernel(query, n, sigma) for n in size)
    along_rows = columns @ query.unflatten(-2, size)
    blurred: Tensor = (rows @ along_rows.transpose(-3, -2)).transpose(-3, -2).flatten(-3, -2)
    return blurred


def kernel(like: Tensor, n: int, sigma: float) -> Tensor:
    """The matrix (n, n) of a Gaussian blur along n pixels, as in the author's code.

    The Gaussian is cut off at ±3σ, or at half of the map if that is less, and the map is reflected at its ends
    without repeating them: pixel i takes g(i − j) of pixel j, and g(i + j) and g(2(n − 1) − i − j) of its reflections.
    """
    import torch

    positions = torch.arange(n, device=like.device, dtype=like.dtype)
    last = positions[-1:]
    radius = torch.floor((last + 1) / 2).clamp(max=math.ceil(6 * sigma) // 2)

    def g(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= radius)

    i, j = positions[:, None], positions[None, :]
    weights = g(i - j) + g(i + j) * (j > 0) + g(2 * last - i - j) * (j < last)
    return weights / weights.sum(1, keepdim=True)


@node(
    "seg.guide",
    needs=lambda scale: {"guided"} if scale == 0 else {"guided", "cond", "smoothed"},
    identity=lambda scale: "guided" if scale == 0 else None,
)
def guide(guided: Prediction, cond: Prediction, smoothed: Prediction, *, scale: Scale = 3.0) -> Prediction:
    """Away from the prediction of a smoothed denoiser: ε̃ = ε̂ + γ (ε_c − ε_seg) (Hong 2024, section 4).

    guided: ε̂, the prediction so far. With ε̂ = ε_c it is the paper's guidance alone; with the result of
    guidance.cfg, ε_u + s (ε_c − ε_u), it adds to classifier-free guidance. cond, smoothed: of one condition, which may
    be the null condition. scale: γ, a number or a tensor (B); 0 gives guided itself.
    """
    return guided + scale * (cond - smoothed)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [perturb, guide]
