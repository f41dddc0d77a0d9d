"""Noise schedules: how much of the picture is left at each time of the diffusion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from annotated_types import Ge, Gt, Lt

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.shapes import check_alike, for_batch
from guidegraph.nodes.types import Prediction, PredictionKind, Sample, Schedule, Timesteps

if TYPE_CHECKING:
    from numpy.typing import NDArray

TrainSteps: TypeAlias = Annotated[int, Ge(2)]
Beta: TypeAlias = Annotated[float, Gt(0), Lt(1)]


@node("schedule.linear")
def linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises linearly (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(*_ordered(beta_start, beta_end), train_steps))


@node("schedule.scaled_linear")
def scaled_linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 0.00085, beta_end: Beta = 0.012) -> Schedule:
    """√β rises linearly (the schedule of latent diffusion and Stable Diffusion)."""
    low, high = _ordered(beta_start, beta_end)
    return from_betas(np.linspace(low**0.5, high**0.5, train_steps) ** 2)


@node("schedule.sigmoid")
def sigmoid(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises along a sigmoid from −6 to 6 (Xu et al. 2022, GeoDiff)."""
    low, high = _ordered(beta_start, beta_end)
    return from_betas(low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, train_steps))))


@node("schedule.cosine")
def cosine(
    *,
    train_steps: TrainSteps = 1000,
    offset: Annotated[float, Ge(0)] = 0.008,
    beta_max: Annotated[float, Gt(0), Lt(1)] = 0.999,
) -> Schedule:
    """ᾱ falls as cos² (Nichol & Dhariwal 2021, eq. 17): β_t = min(1 − ᾱ_{t+1}/ᾱ_t, beta_max)."""
    t = np.arange(train_steps + 1) / train_steps
    alphas_bar = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], beta_max))


@node("schedule.zero_terminal_snr")
def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with √ᾱ shifted and scaled so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).

    For models that predict v or x0: at α = 0 an ε prediction says nothing of x0.
    """
    root = np.sqrt(schedule.alphas_bar.cpu().numpy())
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return _schedule(root**2)


@node("schedule.convert")
def convert(prediction: Prediction, x: Sample, t: Timesteps, schedule: Schedule, *, kind: PredictionKind) -> Prediction:
    """A prediction at x_t as another kind: eps, x0 or v. x (B, C, H, W), t (1) or (B)."""
    return schedule.convert(prediction, kind, x, t)


@node("schedule.add_noise")
def add_noise(x0: Sample, noise: Sample, t: Timesteps, schedule: Schedule) -> Sample:
    """x_t = α_t x0 + σ_t noise; x0 and noise (B, C, H, W), t (1) or (B)."""
    check_alike("x0 and noise", x0, noise)
    return schedule.add_noise(x0, noise, for_batch(t, max(x0.shape[0], noise.shape[0]), "t"))


def from_betas(betas: NDArray[np.float64]) -> Schedule:
    """The schedule with ᾱ_t = Π_{s ≤ t} (1 − β_s)."""
    return _schedule(np.cumprod(1 - np.asarray(betas, dtype=np.float64)))


def _schedule(alphas_bar: NDArray[np.floating]) -> Schedule:
    import torch

    return Schedule(torch.from_numpy(alphas_bar.astype(np.float64)).to(current_device()))


def _ordered(beta_start: float, beta_end: float) -> tuple[float, float]:
    if beta_start > beta_end:
        raise ValueError(f"beta_start {beta_start} must not be above beta_end {beta_end}: noise only grows with t")
    return beta_start, beta_end
