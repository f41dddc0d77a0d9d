"""Diffusion posterior sampling: pictures that agree with a measurement (Chung et al. 2023, arXiv 2209.14687)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from guidegraph import (
    Autoencoder,
    Condition,
    Denoiser,
    Prediction,
    Sample,
    Scale,
    StepContext,
    Tensor,
    hookimpl,
    node,
    per_sample,
    predict,
    step_shape,
)
from guidegraph_dps.measurements import Measurement, downsampled, masked


class Guided(NamedTuple):
    """Of one forward: the prediction as it was, ζ_i ∇‖y − A(x̂₀)‖² (…x), and ‖y − A(x̂₀)‖ (B)."""

    prediction: Prediction
    correction: Tensor
    distance: Tensor


@node("dps.guide", shape=lambda context, condition: step_shape(context, condition=condition))
def guide(
    denoiser: Denoiser,
    context: StepContext,
    measurement: Measurement,
    condition: Condition | None = None,
    autoencoder: Autoencoder | None = None,
    *,
    zeta: Scale = 1.0,
) -> Guided:
    """ζ_i ∇_{x_i} ‖y − A(x̂₀)‖² with ζ_i = ζ/‖y − A(x̂₀)‖ (Chung et al. 2023, algorithm 1, line 7, and section 4).

    `dps.correct` takes it from the sample after the step. The gradient goes through the denoiser and, where one is
    wired, the decoder. zeta: ζ, a number or a tensor (B); its effect adds up over the steps, and the paper takes 1,000.
    The norm is taken over each sample. The authors' code steps by ζ ∇‖y − A(x̂₀)‖, which is half of it, with one norm
    for the whole batch.
    """
    import torch

    with torch.enable_grad():
        context_in = replace(context, x=context.x.detach().requires_grad_())
        prediction = predict(denoiser, context_in.x, context_in.t, condition)
        x0 = context_in.x0(prediction)
        square = measurement(x0 if autoencoder is None else autoencoder.decode(x0)).square().flatten(1).sum(1)
        (gradient,) = torch.autograd.grad(square.sum(), context_in.x)
    variance = None if prediction.variance is None else prediction.variance.detach()
    distance = square.detach().sqrt()
    correction = per_sample(zeta, gradient) * gradient / per_sample(distance.clamp(min=1e-12), gradient)
    return Guided(Prediction(prediction.value.detach(), prediction.kind, variance), correction, distance)


@node("dps.correct")
def correct(x: Sample, correction: Tensor) -> Sample:
    """x_{i−1} = x′_{i−1} − ζ_i ∇‖y − A(x̂₀)‖² (Chung et al. 2023, algorithm 1, line 7); x is that after the step."""
    return x - correction.to(x)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [guide, correct, masked, downsampled]


@hookimpl
def guidegraph_types() -> list[type]:
    return [Measurement]
