"""Universal guidance: any differentiable loss on the expected picture (Bansal et al. 2023, arXiv 2302.07121)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt

from guidegraph import (
    Autoencoder,
    Condition,
    Denoiser,
    Image,
    Prediction,
    Scale,
    Score,
    StepContext,
    Tensor,
    hookimpl,
    node,
    per_sample,
    predict,
    step_shape,
)
from guidegraph_universal.losses import Loss, colour, mask, text
from guidegraph_universal.recurrence import recur


class Guided(NamedTuple):
    """Of one forward: the prediction as it was, the score −s ∇ℓ (…x), and ℓ (B)."""

    prediction: Prediction
    score: Score
    loss: Tensor


@node(
    "universal.guide",
    shape=lambda context, condition, loss: step_shape(context, condition=condition, loss=loss),
)
def guide(
    denoiser: Denoiser,
    context: StepContext,
    loss: Loss,
    condition: Condition | None = None,
    autoencoder: Autoencoder | None = None,
    *,
    strength: Scale = 1.0,
) -> Guided:
    """Forward universal guidance: ε̂ = ε + s(t) ∇ ℓ(c, f(ẑ₀)), s(t) = s √(1 − ᾱ_t) (Bansal et al. 2023, eq. 6).

    ∇ is by z_t: through the denoiser and, where one is wired, the decoder. score: −s ∇ℓ, so that
    `guidance.shift_eps` gives the paper's ε̂ and `scheduler.step` takes it too; it adds to other scores.
    strength: s, a number or a tensor (B).
    """
    import torch

    with torch.enable_grad():
        context_in = replace(context, x=context.x.detach().requires_grad_())
        prediction = predict(denoiser, context_in.x, context_in.t, condition)
        losses = loss(_picture(context_in.x0(prediction), autoencoder))
        (gradient,) = torch.autograd.grad(losses.sum(), context_in.x)
    variance = None if prediction.variance is None else prediction.variance.detach()
    kept = Prediction(prediction.value.detach(), prediction.kind, variance)
    return Guided(kept, -per_sample(strength, gradient) * gradient, losses.detach())


@node("universal.backward")
def backward(
    prediction: Prediction,
    context: StepContext,
    loss: Loss,
    autoencoder: Autoencoder | None = None,
    *,
    steps: Annotated[int, Ge(1)] = 5,
    rate: Annotated[float, Gt(0)] = 0.1,
) -> Prediction:
    """Backward universal guidance: ε̂ − √(ᾱ/(1 − ᾱ)) Δz₀ (Bansal et al. 2023, eq. 9), in the kind of the prediction.

    Δz₀ is the result of `steps` of gradient descent from 0 on ℓ(c, f(ẑ₀ + Δz₀)) (eq. 7), `rate` times the gradient
    each; the gradient does not go through the denoiser. The prediction is the one with forward guidance, or without
    any.
    """
    import torch

    x0 = context.x0(prediction)
    change = torch.zeros_like(x0)
    for _ in range(steps):
        with torch.enable_grad():
            change_in = change.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(_picture(x0 + change_in, autoencoder)).sum(), change_in)
        change = change - rate * gradient
    # x = αẑ₀ + σε̂ stays, and ẑ₀ + Δz₀ replaces ẑ₀: ε̂ is then that of eq. 9.
    return context.convert(Prediction(x0 + change, "x0", prediction.variance), prediction.kind)


@node("universal.loss")
def value(loss: Loss, image: Image) -> Tensor:
    """ℓ (B) of pictures (B, 3, H, W) in [-1, 1]."""
    return loss(image)


def _picture(x0: Tensor, autoencoder: Autoencoder | None) -> Tensor:
    return x0 if autoencoder is None else autoencoder.decode(x0)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [guide, backward, recur, colour, text, mask, value]


@hookimpl
def guidegraph_types() -> list[type]:
    return [Loss]
