"""Noise schedules: how much of the picture remains at each timestep of the diffusion.

All settings that several schedules share:
train_steps: T, of t = 0 … T−1. beta_start: β at t = 0. beta_end: β at T−1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Lt

from guidegraph.graph.device_context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.shape_checks import check_compatible, expand_to_batch
from guidegraph.nodes.types import Prediction, PredictionKind, Sample, Schedule, Table, Timesteps
from guidegraph_runtime.operations import schedule as host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TrainSteps: TypeAlias = Annotated[int, Ge(2)]
Beta: TypeAlias = Annotated[float, Gt(0), Lt(1)]
EdmSigmas: TypeAlias = Literal["karras", "exponential"]


@node("schedule.linear", runtime=True)
def linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises linearly (Ho et al. 2020, section 4)."""
    return _to_schedule(host.linear(train_steps=train_steps, beta_start=beta_start, beta_end=beta_end))


@node("schedule.scaled_linear", runtime=True)
def scaled_linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 0.00085, beta_end: Beta = 0.012) -> Schedule:
    """√β rises linearly (the schedule of latent diffusion and Stable Diffusion)."""
    return _to_schedule(host.scaled_linear(train_steps=train_steps, beta_start=beta_start, beta_end=beta_end))


@node("schedule.sigmoid", runtime=True)
def sigmoid(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises along a sigmoid from −6 to 6 (Xu et al. 2022, GeoDiff)."""
    return _to_schedule(host.sigmoid(train_steps=train_steps, beta_start=beta_start, beta_end=beta_end))


@node("schedule.cosine", runtime=True)
def cosine(
    *,
    train_steps: TrainSteps = 1000,
    offset: Annotated[float, Ge(0)] = 0.008,
    beta_max: Annotated[float, Gt(0), Lt(1)] = 0.999,
) -> Schedule:
    """ᾱ falls as cos² (Nichol & Dhariwal 2021, eq. 17): β_t = min(1 − ᾱ_{t+1}/ᾱ_t, beta_max).

    offset: s, which keeps β above 0 near t = 0.
    """
    return _to_schedule(host.cosine(train_steps=train_steps, offset=offset, beta_max=beta_max))


@node("schedule.edm", runtime=True)
def edm(
    *,
    train_steps: TrainSteps = 1000,
    sigma_min: Annotated[float, Gt(0)] = 0.002,
    sigma_max: Annotated[float, Gt(0)] = 80.0,
    sigmas: EdmSigmas = "karras",
    rho: Annotated[float, Gt(0)] = 7.0,
) -> Schedule:
    """The noise levels of an EDM model, whose σ is σ/α here, from sigma_min at t = 0 to sigma_max at T − 1.

    sigmas: "karras", σ^(1/rho) linear in t (Karras et al. 2022, eq. 5), or "exponential", log σ linear in t. Samplers
    visit such levels by default, from sigma_max on, because the schedule declares the whole range as trained.
    `denoiser.edm` or `onnx.denoiser` passes the σ of a t to the network.
    Raises an error unless sigma_min is below sigma_max.
    """
    return _to_schedule(
        host.edm(train_steps=train_steps, sigma_min=sigma_min, sigma_max=sigma_max, sigmas=sigmas, rho=rho)
    )


@node("schedule.zero_terminal_snr", runtime=True)
def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with √ᾱ shifted and scaled so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).

    For models that predict v or x0: at α = 0 an ε prediction has no information about x0.
    """
    return _to_schedule(host.zero_terminal_snr({"alphas_bar": schedule.alphas_bar.cpu().numpy()}))


@node("schedule.trained", runtime=True)
def set_trained_range(
    schedule: Schedule, *, first: Annotated[float, Ge(0)] | None = None, last: Annotated[float, Ge(0)] | None = None
) -> Schedule:
    """The schedule of a model trained on the timesteps from `first` to `last`, within which samplers stay by default.

    first, last: null is the schedule's own end, where a sampler may then start even if no signal is left.
    Raises an error for timesteps beyond the schedule, or in the wrong order.
    """
    return _to_schedule(host.trained({"alphas_bar": schedule.alphas_bar.cpu().numpy()}, first=first, last=last))


@node("schedule.convert")
def convert(prediction: Prediction, x: Sample, t: Timesteps, schedule: Schedule, *, kind: PredictionKind) -> Prediction:
    """Convert a prediction at x_t to another kind: eps, x0 or v. x (B, C, H, W), t (1) or (B)."""
    return schedule.convert(prediction, kind, x, t)


@node("schedule.add_noise")
def add_noise(x0: Sample, noise: Sample, t: Timesteps, schedule: Schedule) -> Sample:
    """x_t = α_t x0 + σ_t noise; x0 and noise (B, C, H, W), t (1) or (B)."""
    check_compatible("x0 and noise", x0, noise)
    return schedule.add_noise(x0, noise, expand_to_batch(t, max(x0.shape[0], noise.shape[0]), "t"))


@node("schedule.table")
def schedule_table(schedule: Schedule) -> Table:
    """A noise schedule at every whole t: β, ᾱ, α, σ, σ/α and the log of the signal-to-noise ratio α²/σ²."""
    import torch

    alphas_bar = schedule.alphas_bar.double().cpu()
    previous = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    curves = {
        "t": torch.arange(len(alphas_bar)),
        "beta": 1 - alphas_bar / previous,
        "alpha_bar": alphas_bar,
        "alpha": alphas_bar.sqrt(),
        "sigma": (1 - alphas_bar).sqrt(),
        "sigma/alpha": ((1 - alphas_bar) / alphas_bar).sqrt(),
        "log_snr": torch.log(alphas_bar) - torch.log1p(-alphas_bar),
    }
    return Table({name: values.tolist() for name, values in curves.items()})


def from_betas(betas: NDArray[np.float64]) -> Schedule:
    """The schedule with ᾱ_t = Π_{s ≤ t} (1 − β_s)."""
    return _to_schedule(host.from_betas(betas))


def _to_schedule(fields: host.Fields) -> Schedule:
    import torch

    return Schedule(**fields | {"alphas_bar": torch.from_numpy(fields["alphas_bar"]).to(current_device())})
