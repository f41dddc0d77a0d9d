"""Lossy compression by a diffusion model, step by step (Ho et al. 2020, section 4.3, algorithms 3 and 4).

The sender transmits x_t for falling t. The receiver knows p(x_T) and p(x_s | x_t), so each step costs the divergence of
the true posterior from the receiver's distribution (relative entropy coding; no bits are actually written).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import check_compatible
from guidegraph.nodes.types import Prediction, Sample, Schedule, Table, Timesteps
from guidegraph_lab.metrics.metrics import Resamples, Seed, bootstrap_interval, draw_counts

Variance: TypeAlias = Literal["small", "large"]
Spacing: TypeAlias = Literal["log_snr", "timesteps"]
LEVELS = 256
HALF_RANGE = 127.5
"""Half the range of pixel values 0 … 255: the factor from [-1, 1] to 255ths of the range."""


class CodingStep(NamedTuple):
    """Per sample (B), float64: the cost of a step in bits per dimension, and the squared error of x̂0 in 255ths²."""

    bits: Tensor
    squared_error: Tensor


@node("coding.steps")
def coding_steps(
    schedule: Schedule, *, steps: Annotated[int, Ge(2)] | None = None, spacing: Spacing = "log_snr"
) -> Timesteps:
    """The timesteps (R) to transmit, from T − 1 down to 0; without `steps` all T whole timesteps, as in the paper.

    Those of a flow schedule are T … 1. Fewer steps make a coarser chain with a higher rate, because it predicts x_s
    less well. spacing: even in the log of the signal-to-noise ratio, at fractional t, or even in t (`timesteps`).
    """
    first, last = schedule.first, schedule.last
    grid = np.linspace(last, first, schedule.train_steps if steps is None else steps)
    if steps is not None and spacing == "log_snr":
        bar = schedule.alphas_bar.cpu().numpy()[int(first) :]
        falling = np.log(bar[bar > 0]) - np.log1p(-bar[bar > 0])
        levels = np.linspace(falling[-1], falling[0], steps)
        grid = first + np.interp(-levels, -falling, np.arange(len(falling)))
        grid[0] = last  # also if the last ᾱ is 0
    return torch.from_numpy(grid).to(device=schedule.alphas_bar.device, dtype=torch.float32)


@node("coding.prior")
def coding_prior(x0: Sample, schedule: Schedule, steps: Timesteps) -> Tensor:
    """L_T in bits per dimension (B), the divergence of q(x_T | x0) from the standard normal; x0 (B, C, H, W)."""
    alpha, sigma = (level.double() for level in schedule.alpha_sigma(steps[:1].double()))
    nats = ((alpha * x0.double()).square() + sigma**2 - 1 - 2 * sigma.log()) / 2
    return nats.flatten(1).mean(1) / math.log(2)


@node("coding.step")
def coding_step(
    prediction: Prediction,
    x: Sample,
    x0: Sample,
    schedule: Schedule,
    steps: Timesteps,
    index: int,
    *,
    variance: Variance = "small",
    clip: bool = True,
) -> CodingStep:
    """The cost of the step from x_t to the next of `steps`, and the error of x̂0 at x_t (Ho et al. 2020, eq. 5).

    x is x_t = α_t x0 + σ_t ε at t = steps[index], all (B, C, H, W), and the prediction is made there. The cost is
    KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)), both Gaussian, with p's variance β̃ (small) or β (large, section 3.2). At the
    last step it is −log p(x0 | x_t) of the discretised decoder (eq. 13), with x0 rounded to one of 256 levels in
    [-1, 1]. The decoder's variance is σ_t²/α_t²; the paper's depends on the chain. clip: x̂0 is clipped to [-1, 1].
    """
    check_compatible("x, x0 and the prediction", x, x0, prediction.value)
    if not 0 <= index < len(steps):
        raise ValueError(f"there is no step {index} of {len(steps)}: wire loop.index of the loop over these steps")
    truth, t = x0.double(), steps[index : index + 1].double()
    x0_hat = schedule.to_x0(Prediction(prediction.value.double(), prediction.kind), x.double(), t)
    x0_hat = x0_hat.clamp(-1, 1) if clip else x0_hat
    error = (x0_hat - truth).square()
    if index + 1 < len(steps):
        nats = _divergence(error, schedule, t, steps[index + 1 : index + 2].double(), variance)
    else:
        alpha, sigma = schedule.alpha_sigma(t)
        nats = -log_mass_of_bin(truth, x0_hat, sigma / alpha)
    bits, squared = (values.flatten(1).mean(1) for values in (nats / math.log(2), error * HALF_RANGE**2))
    return CodingStep(bits, squared)


def _variances(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """β̃ and β of the step from t to s < t: the variances of q(x_s | x_t, x0) and of q(x_t | x_s) (eq. 7)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    return beta * (sigma_s / sigma_t) ** 2, beta


def _divergence(error: Tensor, schedule: Schedule, t: Tensor, s: Tensor, variance: Variance) -> Tensor:
    """The divergence in nats, element by element; the means differ by √ᾱ_s β / σ_t² (x0 − x̂0) (eq. 7)."""
    alpha_s, _ = schedule.alpha_sigma(s)
    _, sigma_t = schedule.alpha_sigma(t)
    posterior, beta = _variances(schedule, t, s)
    model = posterior if variance == "small" else beta
    ratio = posterior / model
    return (ratio - 1 - ratio.log() + (alpha_s * beta / sigma_t**2).square() * error / model) / 2


def log_mass_of_bin(x0: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The log mass of a normal in x0's bin, one of 256 from −1 to 1. The outer bins reach to infinity (eq. 13)."""
    half = 1 / (LEVELS - 1)
    level = ((x0 + 1) / (2 * half)).round().clamp(0, LEVELS - 1)
    away = level * 2 * half - 1 - mean
    # Mirror both ends of a bin to one side of the mean: its mass is a difference of tails, whose logarithms are exact.
    near, far = (torch.special.log_ndtr((half * side - away.abs()) / scale) for side in (1, -1))
    inner = near + torch.log(-torch.expm1(far - near))
    outer = torch.special.log_ndtr((half + torch.where(level == 0, away, -away)) / scale)
    return torch.where((level == 0) | (level == LEVELS - 1), outer, inner)


@node("metric.rate_distortion")
def rate_distortion(
    bits: Tensor,
    squared_error: Tensor,
    prior: Tensor,
    steps: Timesteps,
    *,
    resamples: Resamples = 200,
    seed: Seed = 0,
) -> Table:
    """Rate against distortion of progressive coding (Ho et al. 2020, section 4.3, figure 5), over all samples.

    seed: of the resampling for the intervals.
    bits and squared_error (R, B), or (batches, R, B) from a loop over batches, are the outputs of `coding.step` at each
    of the steps (R); prior (B) or (batches, B) is from `coding.prior`. Columns: t; bits, the cost of the step from
    x_t; rate, the total received up to x_t, in bits per dimension; rmse of x̂0 at x_t, from 0 to 255; the ends of their
    95 % intervals over the samples, resampled with replacement `resamples` times, NaN for one sample. The last row has
    no t: everything is received, the error is 0, and the rate bounds the negative log-likelihood.
    """
    b, e = (_by_step(values, len(steps), name) for values, name in ((bits, "bits"), (squared_error, "squared_error")))
    first = prior.double().cpu().flatten()
    _check_same_samples(b, e, first)
    rate = torch.cat([first[None], b]).cumsum(0)
    mse = torch.cat([e, torch.zeros_like(e[:1])])
    draws = draw_counts(seed, len(first), resamples if len(first) > 1 else 0)
    weights = [torch.from_numpy(c).double() / len(first) for c in draws]
    rates, errors = ([m @ w for w in weights] for m in (rate, mse))
    return Table(
        {
            "t": [*steps.tolist(), None],
            "bits": [*b.mean(1).tolist(), None],
            **_interval_columns("rate", rate.mean(1), rates),
            **_interval_columns("rmse", mse.mean(1).sqrt(), [m.sqrt() for m in errors]),
        }
    )


def _check_same_samples(bits: Tensor, squared_error: Tensor, prior: Tensor) -> None:
    """Raise ``ValueError`` unless bits (R, B), errors (R, B) and the prior (B) fit together and are finite."""
    if bits.shape != squared_error.shape or prior.shape[0] != bits.shape[1]:
        raise ValueError(
            f"bits and squared_error of shapes {tuple(bits.shape)} and {tuple(squared_error.shape)} and a prior of "
            f"{len(prior)} are not of the same samples"
        )
    if not all(bool(values.isfinite().all()) for values in (bits, squared_error, prior)):
        raise ValueError("bits, errors or the prior are not finite: look at what the denoiser predicts at each step")


def _interval_columns(name: str, values: Tensor, resampled: Sequence[Tensor]) -> dict[str, list[float]]:
    """The columns of values (R) and the ends of their 95 % intervals, from resampled values (R)."""
    intervals = [bootstrap_interval(float(v), (float(a[i]) for a in resampled), low=0.0) for i, v in enumerate(values)]
    return {
        name: [interval.value for interval in intervals],
        f"{name}_low": [interval.low for interval in intervals],
        f"{name}_high": [interval.high for interval in intervals],
    }


def _by_step(values: Tensor, steps: int, name: str) -> Tensor:
    """Reshape (R, B) or (batches, R, B) to (R, all samples), float64."""
    v = values.detach().double().cpu()
    v = v.transpose(0, 1).flatten(1) if v.ndim == 3 else v
    if v.ndim != 2 or v.shape[0] != steps:
        raise ValueError(f"expected {name} (R, B) or (batches, R, B) of {steps} steps, found {tuple(values.shape)}")
    return v
