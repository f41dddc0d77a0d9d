"""CFG-Zero*: guidance with an optimised scale and a still start (Fan et al. 2025, arXiv 2503.18886)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge

from guidegraph import Prediction, Scale, StepContext, Tensor, hookimpl, node, per_sample


@node("cfg_zero_star.guide")
def guide(
    cond: Prediction,
    uncond: Prediction,
    context: StepContext,
    *,
    scale: Scale = 4.0,
    zero_steps: Annotated[int, Ge(0)] = 1,
) -> Prediction:
    """Guidance with uncond scaled to fit cond, and the first steps still (Fan et al. 2025, section 4).

    û = s* u_∅ + ω (u_c − s* u_∅) with s* = ⟨u_c, u_∅⟩ / ‖u_∅‖² of each sample, which brings u_∅ closest to u_c; and
    û = 0 in the first K steps (zero-init, section 4.2).

    The paper is about flow matching, x̃ = (1 − τ)x0 + τε with the velocity u = ε − x0. A sample x = αx0 + σε is that
    one at τ = σ/(α + σ), x̃ = x/(α + σ), and a DDIM step is Euler's step there; so u = ε̂ − x̂0 of any prediction, and
    û = 0 keeps x̃. Zeroing ε̂ instead would keep x/α and let x grow. A sampler that clips x̂0 moves the still sample:
    leave its clip and threshold off, and put guidance.clip before this node.
    scale: ω, a number or a tensor (B); where s* = 1 it equals the scale of guidance.cfg. zero_steps: K, counted in
    model calls. Gives the prediction in the kind of cond.
    """
    import torch

    x, alpha, sigma, step = context.x, *map(context.along, (context.alpha, context.sigma, context.step))
    u_cond, u_uncond = (context.eps(prediction) - context.x0(prediction) for prediction in (cond, uncond))
    fitted = _dot(u_cond, u_uncond) / _dot(u_uncond, u_uncond).clamp(min=1e-12) * u_uncond
    difference = u_cond - fitted
    guided = fitted + per_sample(scale, difference) * difference
    velocity = torch.where(step < zero_steps, 0, guided)
    x0 = (x - sigma * velocity) / (alpha + sigma)
    return context.convert(replace(cond, value=x0, kind="x0"), cond.kind)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (B, 1, 1, 1)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The node of this package."""
    return [guide]
