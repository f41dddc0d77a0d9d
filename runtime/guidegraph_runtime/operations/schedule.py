"""Noise schedules: how much of the picture remains at each timestep of the diffusion.

All settings that several schedules share:
train_steps: T, of t = 0 … T−1. beta_start: β at t = 0. beta_end: β at T−1.

The fields of a schedule: alphas_bar, ᾱ = α²/(α² + σ²) (T), float64; trained_from and trained_to, the first and last
timestep that its model was trained on, or None if unknown; form, of x = αx0 + σε, variance_preserving or flow; shift,
of a flow's levels.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from guidegraph_runtime.admission import find_common_batch
from guidegraph_runtime.checks import check_array, check_fields, check_int, check_number, check_same_axes
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import (
    Count,
    Noise,
    NotNegative,
    Positive,
    Range,
    Sample,
    Schedule,
    Scheduler,
    SchedulerState,
)
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.tables.form import Form
from guidegraph_runtime.tables.noise_levels import parse_form
from guidegraph_runtime.tables.rows import Array

TrainSteps: TypeAlias = Annotated[int, Range(low=2)]
Beta: TypeAlias = Annotated[float, Range(above=0, below=1)]
EdmSigmas: TypeAlias = Literal["karras", "exponential"]


def _table_shape(train_steps: Any) -> tuple[int, ...]:
    return (check_int("train_steps", train_steps, low=1),)


def _flow_table_shape(train_steps: Any) -> tuple[int, ...]:
    return (check_int("train_steps", train_steps, low=1) + 1,)


@operation("schedule.linear", shape=_table_shape)
def linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises linearly (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(*_betas(beta_start, beta_end), _count_steps(train_steps)))


@operation("schedule.scaled_linear", shape=_table_shape)
def scaled_linear(*, train_steps: TrainSteps = 1000, beta_start: Beta = 0.00085, beta_end: Beta = 0.012) -> Schedule:
    """√β rises linearly (the schedule of latent diffusion and Stable Diffusion)."""
    low, high = _betas(beta_start, beta_end)
    return from_betas(np.linspace(low**0.5, high**0.5, _count_steps(train_steps)) ** 2)


@operation("schedule.sigmoid", shape=_table_shape)
def sigmoid(*, train_steps: TrainSteps = 1000, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Schedule:
    """β rises along a sigmoid from −6 to 6 (Xu et al. 2022, GeoDiff)."""
    low, high = _betas(beta_start, beta_end)
    return from_betas(low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, _count_steps(train_steps)))))


@operation("schedule.cosine", shape=_table_shape)
def cosine(*, train_steps: TrainSteps = 1000, offset: NotNegative = 0.008, beta_max: Beta = 0.999) -> Schedule:
    """ᾱ falls as cos² (Nichol & Dhariwal 2021, eq. 17): β_t = min(1 − ᾱ_{t+1}/ᾱ_t, beta_max).

    offset: s, which keeps β above 0 near t = 0.
    """
    t = np.arange(_count_steps(train_steps) + 1) / train_steps
    alphas_bar = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], beta_max))


@operation("schedule.edm", shape=_table_shape)
def edm(
    *,
    train_steps: TrainSteps = 1000,
    sigma_min: Positive = 0.002,
    sigma_max: Positive = 80.0,
    sigmas: EdmSigmas = "karras",
    rho: Positive = 7.0,
) -> Schedule:
    """The noise levels of an EDM model, whose σ is σ/α here, from sigma_min at t = 0 to sigma_max at T − 1.

    sigmas: "karras", σ^(1/rho) linear in t (Karras et al. 2022, eq. 5), or "exponential", log σ linear in t. Samplers
    visit such levels by default, from sigma_max on, because the schedule declares the whole range as trained.
    `denoiser.edm` or `onnx.denoiser` passes the σ of a t to the network.
    Raises an error unless sigma_min is below sigma_max.
    """
    low, high = sigma_min, sigma_max
    if low >= high:
        raise ValueError(f"sigma_min {low} must be below sigma_max {high}: noise only grows with t")
    ramp = np.linspace(0, 1, _count_steps(train_steps))
    if sigmas == "karras":
        power = 1 / rho
        ratio = (low**power + ramp * (high**power - low**power)) ** (1 / power)
    else:
        ratio = np.exp(np.log(low) + ramp * (np.log(high) - np.log(low)))
    return _to_fields(1 / (1 + ratio**2), 0.0, float(len(ratio) - 1))


@operation("schedule.flow", shape=_flow_table_shape)
def flow(*, train_steps: TrainSteps = 1000, shift: Positive = 1.0) -> Schedule:
    """The straight path of flow matching, x_t = (1 − σ)x0 + σε, at t = T · σ from 0 to T (Lipman et al. 2023).

    train_steps: T. shift: s, which moves evenly spaced σ to sσ/(1 + (s − 1)σ) (Esser et al. 2024, section 5.3.2), in
    sampling and in training; the σ of a t stays. Stable Diffusion 3 has 3. Samplers start at σ = 1, pure noise.
    """
    sigma = np.arange(_count_steps(train_steps) + 1) / train_steps
    bar = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return _to_fields(bar, 1.0, float(train_steps), "flow", shift)


@operation("schedule.flow_shift")
def flow_shift(
    schedule: Schedule,
    like: Sample,
    *,
    patch: Count = 2,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    base_tokens: Count = 256,
    max_tokens: Count = 4096,
) -> Schedule:
    """A flow schedule with the shift e^μ for the size of a sample, as in Flux: μ is linear in the number of tokens.

    μ = base_shift + (n − base_tokens)(max_shift − base_shift)/(max_tokens − base_tokens) for the n = (H/patch)(W/patch)
    tokens of `like` (B, C, H, W), the noise or latent to be sampled. It replaces the shift of the schedule.
    patch: the sides of a token. base_shift, max_shift: μ at base_tokens and at max_tokens.
    Raises an error for a schedule that is not a flow, and for base_tokens equal to max_tokens.
    """
    fields = check_fields("schedule", schedule, "alphas_bar")
    if parse_form("schedule", fields) != "flow":
        raise ValueError("schedule: expected a flow schedule, as from schedule.flow; found a variance-preserving one")
    if base_tokens == max_tokens:
        raise ValueError(f"base_tokens and max_tokens are both {base_tokens}: μ is a line through two points")
    height, width = check_array("like", like, "(B, C, H, W)", "f").shape[2:]
    tokens = (height // patch) * (width // patch)
    mu = base_shift + (tokens - base_tokens) * (max_shift - base_shift) / (max_tokens - base_tokens)
    return _to_fields(fields["alphas_bar"], fields.get("trained_from"), fields.get("trained_to"), "flow", math.exp(mu))


@operation("schedule.zero_terminal_snr")
def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with √ᾱ shifted and scaled so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).

    For models that predict v or x0: at α = 0 an ε prediction says nothing about x0.
    Raises an error for a flow schedule, whose last timestep is pure noise already, and for one whose noise does not
    grow, such as a single step's.
    """
    fields = check_fields("schedule", schedule, "alphas_bar")
    if parse_form("schedule", fields) == "flow":
        raise ValueError("schedule: a flow schedule ends in pure noise already: leave this node out")
    root = np.sqrt(check_array("schedule.alphas_bar", fields["alphas_bar"], "(T)", "f"))
    if root[0] <= root[-1]:
        raise ValueError(
            f"schedule: expected noise that grows with t; found ᾱ from {root[0] ** 2:g} to {root[-1] ** 2:g} in "
            f"{len(root)} steps: take a schedule of several steps whose ᾱ falls"
        )
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return _to_fields((root**2).astype(np.float64), None, float(len(root) - 1))


@operation("schedule.trained")
def trained(schedule: Schedule, *, first: NotNegative | None = None, last: NotNegative | None = None) -> Schedule:
    """The schedule of a model trained on the timesteps from `first` to `last`, within which samplers stay by default.

    first, last: null is the schedule's own end, where a sampler may then start even if no signal is left.
    On a flow, `first` may be 0 in training, and samplers stay at 1 or above, because σ is 0 at 0.
    Raises an error for timesteps beyond the schedule, or in the wrong order.
    """
    fields = check_fields("schedule", schedule, "alphas_bar")
    bar = check_array("schedule.alphas_bar", fields["alphas_bar"], "(T)", "f")
    form, end = parse_form("schedule", fields), float(len(bar) - 1)
    low = (1.0 if form == "flow" else 0.0) if first is None else check_number("first", first, low=0, high=end)
    high = end if last is None else check_number("last", last, low=0, high=end)
    if low >= high:
        raise ValueError(f"first {low:g} must be below last {high:g}")
    return _to_fields(bar.astype(np.float64), low, high, form, fields.get("shift", 1.0))


def from_betas(betas: Array) -> Schedule:
    """The schedule with ᾱ_t = Π_{s ≤ t} (1 − β_s)."""
    return _to_fields(np.cumprod(1 - np.asarray(betas), dtype=np.float64))


def _to_fields(
    alphas_bar: Array,
    trained_from: float | None = None,
    trained_to: float | None = None,
    form: Form = "variance_preserving",
    shift: float = 1.0,
) -> Schedule:
    return {
        "alphas_bar": alphas_bar,
        "trained_from": trained_from,
        "trained_to": trained_to,
        "form": form,
        "shift": shift,
    }


def _count_steps(train_steps: int) -> int:
    check_limit("steps", train_steps, f"the schedule has {train_steps:,} steps", "train_steps")
    return train_steps


def _betas(low: float, high: float) -> tuple[float, float]:
    if low > high:
        raise ValueError(f"beta_start {low} must not be above beta_end {high}: noise only grows with t")
    return low, high


@operation("steps.is_due", output_help="for a choice")
def is_due(index: int, *, every: Count = 2) -> bool:
    """Whether a step is one of those that come every n steps, from the first: 0, n, 2n, …

    index: of the step, with loop.index wired to it. every: n; 1 is every step. Raises an error for an index below 0.
    """
    return check_int("index", index, low=0) % every == 0


def noisy_shape(x0: Any, noise: Any) -> tuple[int, ...]:
    """The shape of the result of `scheduler.add_noise`: one picture is broadcast to a batch of noise."""
    longer = noise.shape if len(noise.shape) >= len(x0.shape) else x0.shape
    return find_common_batch("x0 and noise", x0.shape[0], noise.shape[0]), *longer[1:]


@operation("scheduler.add_noise", shape=noisy_shape)
def add_noise(scheduler: Scheduler, x0: Sample, noise: Noise, state: SchedulerState | None = None) -> Sample:
    """Noise x0 to the level where the sampler starts: the start of an image-to-image loop (with `strength`).

    state: a sampler's state from `scheduler.step`, to use the level of its next model call instead; after the last
    call, x0 is returned without noise. float64 if x0 is float64, otherwise float32.
    """
    check_fields("scheduler", scheduler, "alpha", "sigma")
    check_same_axes(
        "x0 and noise", check_array("x0", x0, "(B, C, H, W)", "f"), check_array("noise", noise, "(B, C, H, W)", "f")
    )
    dtype = np.float64 if x0.dtype == np.float64 else np.float32
    row = 0
    if state is not None:
        row = int(check_array("state.index", check_fields("state", state, "index")["index"], "(1)", "i").item())
    levels = [
        np.append(check_array(f"scheduler.{name}", scheduler[name], "(R)", "f"), end).astype(dtype)
        for name, end in (("alpha", 1), ("sigma", 0))
    ]
    if not 0 <= row < len(levels[0]):
        raise ValueError(f"state.index: expected a row from 0 to {len(levels[0]) - 1}; found {row}")
    alpha, sigma = (level[row] for level in levels)
    noisy: Sample = alpha * x0.astype(dtype) + sigma * noise.astype(dtype)
    return noisy
