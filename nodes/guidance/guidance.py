"""Guidance: predictions and scores that steer a sample toward its condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Le

from guidegraph.graph.device_context import read_on_host
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, is_tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_for
from guidegraph.nodes.sampling.scheduler_step import clip_x0
from guidegraph.nodes.shape_checks import check_compatible, expand_to_batch, has_values
from guidegraph.nodes.types import (
    Classifier,
    Label,
    Prediction,
    Sample,
    Scale,
    Schedule,
    Score,
    Timesteps,
    drop_trailing_axes,
    per_sample,
)
from guidegraph_runtime.declare.settings import Clip, Fraction, Positive, Range


@node(
    "guidance.cfg",
    needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"},
    identity=lambda scale: "cond" if scale == 1 else None,
)
def classifier_free_guidance(cond: Prediction, uncond: Prediction, *, scale: Scale = 7.5) -> Prediction:
    """Extrapolate from the unconditional to the conditional prediction (Ho & Salimans 2022, eq. 6).

    scale: 1 gives cond, 0 gives uncond; one number, or a tensor (B). The paper's (1 + w)·cond − w·uncond has
    scale = w + 1.
    """
    return uncond.extrapolate(cond, scale)


def _class_range(classifier: Classifier) -> dict[str, Range]:
    classes = getattr(classifier, "classes", None)
    return {"label": Range(low=0, high=classes - 1)} if isinstance(classes, int) else {}


@node("guidance.classifier", shape=port_shapes.guidance_shape, ranges=_class_range)
def classifier_guidance(classifier: Classifier, x: Sample, t: Timesteps, label: Label, *, scale: Scale = 1.0) -> Score:
    """scale · ∇ₓ log p(label | x_t) of a classifier of noisy samples (Dhariwal & Nichol 2021, section 4).

    x (B, C, H, W), t (1) or (B), label (1) or (B); scale: one number, or a tensor (B). The gradient is taken at x:
    wire x_t, as in OpenAI's code, or scheduler.mean, exactly as in the paper's algorithm 1.
    Raises an error for a label that is not int64, or that the classifier does not have.
    """
    if label.dtype != torch.int64:
        raise ValueError(
            f"the label has dtype {label.dtype}: expected class indices in int64, as from label.constant; "
            "label.argmax makes them of scores"
        )
    batch = x.shape[0]
    with torch.enable_grad():
        x_in = x.detach().requires_grad_()
        log_p = torch.log_softmax(classifier(x_in, expand_to_batch(t, batch, "t")), dim=-1)
        classes = expand_to_batch(label.to(log_p.device), batch, "the label")
        if has_values(label):
            indices = set(read_on_host(label).tolist())
            if not all(0 <= index < log_p.shape[1] for index in indices):
                raise ValueError(f"the classifier knows classes 0 … {log_p.shape[1] - 1}; found {sorted(indices)}")
        label_log_p = log_p.gather(1, classes.unsqueeze(1))
        (gradient,) = torch.autograd.grad(label_log_p.sum(), x_in)
    weighted: Score = per_sample(scale, gradient) * gradient
    return weighted


@node("guidance.add_scores")
def add_scores(scores: Sequence[Score]) -> Score:
    """The sum of scores (…x), which is the score of the product of their densities."""
    if not scores:
        raise ValueError("there are no scores to add: list at least one")
    check_compatible("the scores", *scores)
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    return total


@node("guidance.shift_eps")
def shift_eps(prediction: Prediction, score: Score, x: Sample, t: Timesteps, schedule: Schedule) -> Prediction:
    """ε̂ = ε − σ_t · score (Dhariwal & Nichol 2021, algorithm 2), returned in the kind of the prediction.

    x and score (B, C, H, W), t (1) or (B). For DDIM and ODE solvers; DDPM takes the score in scheduler.step.
    At α = 0 a prediction of x0, v or flow is unchanged: x is pure noise there, on which no condition depends.
    """
    check_compatible("the prediction, the score and x", prediction.value, score, x)
    level = schedule.level_at(x, t)
    eps = level.eps(prediction.value, prediction.kind) - level.sigma * score
    if prediction.kind == "eps":
        return replace(prediction, value=eps)
    value = level.convert(eps, "eps", prediction.kind)
    return replace(prediction, value=torch.where(level.alpha == 0, prediction.value, value))


@node("guidance.clip")
def clip_prediction(
    prediction: Prediction,
    x: Sample,
    t: Timesteps,
    schedule: Schedule,
    *,
    clip: Clip = True,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
) -> Prediction:
    """Clip the x̂0 of a prediction and return it in its kind: ε and v are derived from the clipped x̂0.

    x (B, C, H, W), t (1) or (B). Before guidance.shift_eps, and with a sampler that does not clip, this is the order of
    OpenAI's ddim_sample with clip_denoised and cond_fn: x̂0 is clipped, the classifier shifts the ε derived from it, and
    the resulting x̂0 is not clipped again. clip, threshold, threshold_max: as for the samplers.
    """
    check_compatible("the prediction and x", prediction.value, x)
    bound = (1.0 if clip else None) if isinstance(clip, bool) else clip
    x0 = clip_x0(schedule.to_x0(prediction, x, t), bound, threshold, threshold_max)
    return schedule.convert(Prediction(x0, "x0", prediction.variance), prediction.kind, x, t)


@node(
    "guidance.rescale",
    needs=lambda phi: {"guided"} if phi == 0 else {"guided", "cond"},
    identity=lambda phi: "guided" if phi == 0 else None,
)
def rescale(guided: Prediction, cond: Prediction, *, phi: Annotated[float, Ge(0), Le(1)] = 0.7) -> Prediction:
    """Rescale a guided prediction's standard deviation toward cond's (Lin et al. 2023, eq. 14–16).

    phi: 0 changes nothing, 1 gives it cond's deviation. The deviation is computed over all values of each sample.
    Raises an error for predictions of different kinds or shapes.
    """
    if guided.kind != cond.kind:
        raise ValueError(f"guided is of kind '{guided.kind}' and cond of kind '{cond.kind}': convert one first")
    check_compatible("guided and cond", guided.value, cond.value)
    axes = tuple(range(1, guided.value.ndim))
    target, deviation = (p.value.std(dim=axes, keepdim=True, correction=0) for p in (cond, guided))
    # float16's smallest normal number is larger than 1e-12, which it rounds to zero
    ratio = target / deviation.clamp(min=max(1e-12, torch.finfo(deviation.dtype).tiny))
    return replace(guided, value=guided.value * (phi * ratio + (1 - phi)))


@node_for("guidance.interval")
def interval(
    t: Timesteps,
    schedule: Schedule | None,
    *,
    scale: Scale,
    low: float,
    high: float,
) -> Scale:
    if not is_tensor(low) and not is_tensor(high) and low > high:
        raise ValueError(f"no noise level is from {low:g} to {high:g}: low must not be above high")
    is_number = t.numel() == 1 and not any(map(is_tensor, (scale, low, high))) and has_values(t)
    if is_number:  # no call of a network waits for the device
        t = read_on_host(t)
        schedule = schedule and replace(schedule, alphas_bar=read_on_host(schedule.alphas_bar))
    level: Any = t
    if schedule is not None:
        alpha, sigma = schedule.alpha_sigma(t)
        level = sigma if schedule.form == "flow" else sigma / alpha
    inside = (level >= low) & (level <= high)  # in the dtype of the level, so that an end such as 0.3 is included
    if is_number:
        return scale if bool(inside) else 1.0
    dtype = level.dtype if level.is_floating_point() else torch.float32
    scales = drop_trailing_axes(scale)
    if not is_tensor(scales):
        scales = torch.full((), scales, device=t.device, dtype=dtype)
    return torch.where(inside, scales.to(t.device, dtype), 1.0)


@node("classifier.predict")
def classify(classifier: Classifier, x: Sample, t: Timesteps) -> Tensor:
    """The logits (B, K) of samples x (B, C, H, W) at t (1) or (B)."""
    return classifier(x, expand_to_batch(t, x.shape[0], "t"))
