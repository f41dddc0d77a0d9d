"""Noise schedules, each as its fields.

alphas_bar: ᾱ (T), float64. trained_from, trained_to: the trained timesteps of the schedule's model, or None if unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from guidegraph_runtime.checks import check_array, check_choice, check_fields, check_int, check_number
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.operation import operation
from guidegraph_runtime.tables.noise_levels import NoiseSchedule
from guidegraph_runtime.tables.rows import Array
from guidegraph_runtime.tables.sampler_table import check_alphas_bar

Fields: TypeAlias = dict[str, Any]


def _table_shape(train_steps: Any) -> tuple[int, ...]:
    return (check_int("train_steps", train_steps, low=1),)


@operation("schedule.linear", shape=_table_shape)
def linear(*, train_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Fields:
    """β rises linearly (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(*_betas(beta_start, beta_end), _steps(train_steps)))


@operation("schedule.scaled_linear", shape=_table_shape)
def scaled_linear(*, train_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Fields:
    """√β rises linearly (the schedule of latent diffusion and Stable Diffusion)."""
    low, high = _betas(beta_start, beta_end)
    return from_betas(np.linspace(low**0.5, high**0.5, _steps(train_steps)) ** 2)


@operation("schedule.sigmoid", shape=_table_shape)
def sigmoid(*, train_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Fields:
    """β rises along a sigmoid from −6 to 6 (Xu et al. 2022, GeoDiff)."""
    low, high = _betas(beta_start, beta_end)
    return from_betas(low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, _steps(train_steps)))))


@operation("schedule.cosine", shape=_table_shape)
def cosine(*, train_steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Fields:
    """ᾱ falls as cos² (Nichol & Dhariwal 2021, eq. 17): β_t = min(1 − ᾱ_{t+1}/ᾱ_t, beta_max)."""
    train_steps, offset = _steps(train_steps), check_number("offset", offset, low=0)
    t = np.arange(train_steps + 1) / train_steps
    alphas_bar = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], _beta("beta_max", beta_max)))


@operation("schedule.edm", shape=_table_shape)
def edm(
    *,
    train_steps: int = 1000,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigmas: str = "karras",
    rho: float = 7.0,
) -> Fields:
    """σ/α from sigma_min to sigma_max (Karras et al. 2022, eq. 5, or even in log σ): ᾱ = 1/(1 + (σ/α)²)."""
    low, high = (
        check_number(name, value, above=0) for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max))
    )
    if low >= high:
        raise ValueError(f"sigma_min {low} must be below sigma_max {high}: noise only grows with t")
    ramp = np.linspace(0, 1, _steps(train_steps))
    if check_choice("sigmas", sigmas, ("karras", "exponential")) == "karras":
        power = 1 / check_number("rho", rho, above=0)
        ratio = (low**power + ramp * (high**power - low**power)) ** (1 / power)
    else:
        ratio = np.exp(np.log(low) + ramp * (np.log(high) - np.log(low)))
    return _fields(1 / (1 + ratio**2), 0.0, float(len(ratio) - 1))


@operation("schedule.zero_terminal_snr")
def zero_terminal_snr(schedule: Mapping[str, Any]) -> Fields:
    """The schedule with √ᾱ shifted and scaled so that its end is pure noise (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(
        check_array("schedule.alphas_bar", check_fields("schedule", schedule, "alphas_bar")["alphas_bar"], "(T)", "f")
    )
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return _fields((root**2).astype(np.float64), None, float(len(root) - 1))


@operation("schedule.trained")
def trained(schedule: Mapping[str, Any], *, first: float | None = None, last: float | None = None) -> Fields:
    """The schedule of a model trained at the timesteps from `first` to `last`; None is the schedule's own end."""
    bar = check_array("schedule.alphas_bar", check_fields("schedule", schedule, "alphas_bar")["alphas_bar"], "(T)", "f")
    end = float(len(bar) - 1)
    low = 0.0 if first is None else check_number("first", first, low=0, high=end)
    high = end if last is None else check_number("last", last, low=0, high=end)
    if low >= high:
        raise ValueError(f"first {low:g} must be below last {high:g}")
    return _fields(bar.astype(np.float64), low, high)


def parse_schedule(schedule: Mapping[str, Any]) -> NoiseSchedule:
    """Parse the fields of a Schedule for the tables. Raises ``ValueError`` for an invalid value."""
    values = check_fields("schedule", schedule, "alphas_bar")
    bar = check_alphas_bar(check_array("schedule.alphas_bar", values["alphas_bar"], "(T)", "f"))
    return NoiseSchedule.of(bar, values.get("trained_from"), values.get("trained_to"))


def from_betas(betas: Array) -> Fields:
    """ᾱ_t = Π_{s ≤ t} (1 − β_s)."""
    return _fields(np.cumprod(1 - np.asarray(betas), dtype=np.float64))


def _fields(alphas_bar: Array, trained_from: float | None = None, trained_to: float | None = None) -> Fields:
    return {"alphas_bar": alphas_bar, "trained_from": trained_from, "trained_to": trained_to}


def _steps(train_steps: int) -> int:
    train_steps = check_int("train_steps", train_steps, low=2)
    check_limit("steps", train_steps, f"the schedule has {train_steps:,} steps")
    return train_steps


def _beta(name: str, value: float) -> float:
    if (beta := check_number(name, value, above=0)) < 1:
        return beta
    raise ValueError(f"{name}: expected a number above 0 and below 1; found {value!r}")


def _betas(beta_start: float, beta_end: float) -> tuple[float, float]:
    low, high = _beta("beta_start", beta_start), _beta("beta_end", beta_end)
    if low > high:
        raise ValueError(f"beta_start {low} must not be above beta_end {high}: noise only grows with t")
    return low, high
