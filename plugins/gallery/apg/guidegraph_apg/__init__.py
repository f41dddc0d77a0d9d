"""Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt

from guidegraph import Prediction, Sample, Scale, StepContext, Tensor, hookimpl, node, per_sample


class Guided(NamedTuple):
    prediction: Prediction
    momentum: Sample


@node("apg.start")
def start(x: Sample) -> Sample:
    """The running difference before the first step: zeros in the shape of x (B, C, H, W), the start of a carry."""
    import torch

    zeros: Sample = torch.zeros_like(x)
    return zeros


@node("apg.guide")
def guide(
    cond: Prediction,
    uncond: Prediction,
    context: StepContext,
    momentum: Sample,
    *,
    scale: Scale = 7.5,
    eta: Annotated[float, Ge(0), Le(1)] = 0.0,
    radius: Annotated[float, Gt(0)] = 5.0,
    beta: Annotated[float, Gt(-1), Lt(1)] = -0.5,
) -> Guided:
    """Guidance along the part of the difference that is orthogonal to cond (Sadat et al. 2024, section 4).

    With D the denoised predictions x̂0, whatever kind the model predicts:
    ΔD̄_t = (D_c − D_u) + β ΔD̄_{t+1}, the reverse momentum; ΔD = ΔD̄_t · min(1, r / ‖ΔD̄_t‖), the rescaling;
    ΔD_∥ = ⟨ΔD, D_c⟩ / ‖D_c‖² · D_c and ΔD_⊥ = ΔD − ΔD_∥, the projection;
    D̂ = D_c + (s − 1)(ΔD_⊥ + η ΔD_∥). Norms and products are taken over each sample.

    scale: s, a number or a tensor (B); the paper's w. eta: η; 1 keeps the parallel part, which saturates. radius: r, in
    the scale of x̂0 and growing with its size as √(C·H·W); one that no norm reaches does not rescale. beta: β, negative
    to push away from the steps before; 0 is none. momentum: ΔD̄ of the step before, a carry that starts as apg.start.
    With η = 1, β = 0 and a large r it is guidance.cfg. Gives the prediction in the kind of cond, and ΔD̄_t.
    """
    denoised = context.x0(cond)
    running = denoised - context.x0(uncond) + beta * momentum
    difference = running * (radius / _dot(running, running).sqrt().clamp(min=1e-12)).clamp(max=1)
    parallel = _dot(difference, denoised) / _dot(denoised, denoised).clamp(min=1e-12) * denoised
    update = difference - parallel + eta * parallel
    guided = denoised + per_sample(scale - 1, update) * update
    return Guided(context.convert(replace(cond, value=guided, kind="x0"), cond.kind), running)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (B, 1, 1, 1)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [start, guide]
