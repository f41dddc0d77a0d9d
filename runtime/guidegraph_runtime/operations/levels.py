"""Noise levels for a sampler to visit, as the fields of a Levels: t and ratio (N + 1), float64, noisiest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from guidegraph_runtime.checks import check_array, check_choice, check_fields, check_flag, check_int, check_number
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.operation import operation
from guidegraph_runtime.operations.schedule import parse_schedule
from guidegraph_runtime.tables import spacings
from guidegraph_runtime.tables.noise_levels import (
    LANDING,
    Final,
    Levels,
    NoiseSchedule,
    Rule,
    Spacing,
    count_kept_steps,
    landing,
    polynomial,
    timesteps,
)
from guidegraph_runtime.tables.noise_levels import exponential as exponentially
from guidegraph_runtime.tables.rows import Array, Level
from guidegraph_runtime.tables.sampler_table import check_levels
from guidegraph_runtime.tables.spacings import Aligned

Fields: TypeAlias = dict[str, Array]
Listed: TypeAlias = Literal["one", "first", "listed"]


def _table_shape(steps: Any) -> tuple[int, ...]:
    return check_int("steps", steps, low=1), 2


@operation("levels.leading", shape=_table_shape)
def leading(schedule: Mapping[str, Any], *, steps: int = 30, offset: int = 0, final: Final = "one") -> Fields:
    """Every (T // steps)-th timestep from 0 + offset on (Lin et al. 2023, table 2)."""
    return _space_timesteps(schedule, "leading", steps, True, check_int("offset", offset, low=0), final)


@operation("levels.trailing", shape=_table_shape)
def trailing(schedule: Mapping[str, Any], *, steps: int = 30, final: Final = "one") -> Fields:
    """Every (T / steps)-th timestep from the last one down, rounded (Lin et al. 2023, table 2)."""
    return _space_timesteps(schedule, "trailing", steps, True, 0, final)


@operation("levels.linspace", shape=_table_shape)
def linspace(
    schedule: Mapping[str, Any],
    *,
    steps: int = 30,
    whole_times: bool = False,
    lands: bool = False,
    final: Final = "one",
) -> Fields:
    """Timesteps evenly from the last to the first, both included; with `lands`, the first is left to the landing."""
    return _space_timesteps(
        schedule, "linspace", steps, check_flag("whole_times", whole_times), 0, final, check_flag("lands", lands)
    )


@operation("levels.simple", shape=_table_shape)
def simple(schedule: Mapping[str, Any], *, steps: int = 30, final: Final = "one") -> Fields:
    """Whole timesteps from the last one down, T / steps apart and rounded up (ComfyUI's `simple`)."""
    noise, steps = parse_schedule(schedule), _steps(steps)
    if steps > noise.whole_times:
        raise ValueError(f"{steps} steps do not fit into the {noise.whole_times} timesteps that the model knows")
    return _at_times(noise, spacings.simple(math.ceil(noise.low), math.floor(noise.high), steps), final)


@operation("levels.sgm_uniform", shape=_table_shape)
def sgm_uniform(schedule: Mapping[str, Any], *, steps: int = 30, final: Final = "one") -> Fields:
    """Timesteps evenly from the last one toward the first, which is excluded (ComfyUI's `sgm_uniform`)."""
    noise, steps = parse_schedule(schedule), _steps(steps)
    return _at_times(noise, spacings.sgm_uniform(noise.low, noise.high, steps), final)


@operation("levels.beta", shape=_table_shape)
def beta(
    schedule: Mapping[str, Any], *, steps: int = 30, a: float = 0.6, b: float = 0.6, final: Final = "one"
) -> Fields:
    """Whole timesteps at the quantiles of Beta(a, b) (Lee et al. 2024); duplicates are visited once."""
    noise, steps = parse_schedule(schedule), _steps(steps)
    a, b = check_number("a", a, above=0), check_number("b", b, above=0)
    return _at_times(noise, spacings.beta(math.ceil(noise.low), math.floor(noise.high), steps, a, b), final)


@operation("levels.karras", shape=_table_shape)
def karras(
    schedule: Mapping[str, Any],
    *,
    steps: int = 30,
    rho: float = 7.0,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    final: Final = "one",
) -> Fields:
    """σ/α evenly spaced in the ρ-th root (Karras et al. 2022, eq. 5)."""
    noise, ramp = parse_schedule(schedule), np.linspace(0, 1, _steps(steps))
    first, last = _ends(noise, sigma_max, sigma_min)
    ratios = polynomial(first.ratio, last.ratio, ramp, check_number("rho", rho, above=0))
    return _between(noise, first, last, ratios, final)


@operation("levels.exponential", shape=_table_shape)
def exponential(
    schedule: Mapping[str, Any],
    *,
    steps: int = 30,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    final: Final = "one",
) -> Fields:
    """σ/α evenly spaced in the logarithm, and so in λ (Lu et al. 2022)."""
    noise, ramp = parse_schedule(schedule), np.linspace(0, 1, _steps(steps))
    first, last = _ends(noise, sigma_max, sigma_min)
    return _between(noise, first, last, exponentially(first.ratio, last.ratio, ramp), final)


@operation("levels.polyexponential", shape=_table_shape)
def polyexponential(
    schedule: Mapping[str, Any],
    *,
    steps: int = 30,
    rho: float = 1.0,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    final: Final = "one",
) -> Fields:
    """σ/α whose logarithm is a polynomial of degree ρ (k-diffusion's)."""
    noise, steps, rho = parse_schedule(schedule), _steps(steps), check_number("rho", rho, above=0)
    first, last = _ends(noise, sigma_max, sigma_min)
    return _between(noise, first, last, spacings.polyexponential(first.ratio, last.ratio, steps, rho), final)


@operation("levels.kl_optimal", shape=_table_shape)
def kl_optimal(
    schedule: Mapping[str, Any],
    *,
    steps: int = 30,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    final: Final = "one",
) -> Fields:
    """σ/α = tan of evenly spaced angles, the optimum for Gaussian data (Sabour et al. 2024)."""
    noise, steps = parse_schedule(schedule), _steps(steps)
    first, last = _ends(noise, sigma_max, sigma_min)
    return _between(noise, first, last, spacings.kl_optimal(first.ratio, last.ratio, steps), final)


@operation("levels.ays", shape=_table_shape)
def ays(schedule: Mapping[str, Any], *, steps: int = 10, model: Aligned = "sd1", final: Final = "one") -> Fields:
    """Align Your Steps (Sabour et al. 2024): σ/α optimised for a released model."""
    noise, steps = parse_schedule(schedule), _steps(steps)
    check_choice("model", model, get_args(Aligned))
    check_choice("final", final, get_args(Final))
    visited = [noise.near(float(ratio)) for ratio in spacings.align_your_steps(model, steps)]
    return _to_fields(Levels.of([*visited, landing(noise, final)]))


@operation("levels.timesteps")
def from_timesteps(schedule: Mapping[str, Any], *, timesteps: Sequence[float], final: Listed = "one") -> Fields:
    """The given timesteps, falling or rising; `final: listed` lands at the last of them."""
    noise = parse_schedule(schedule)
    times = [check_number(f"timesteps[{i}]", t, low=0, high=noise.last) for i, t in enumerate(timesteps)]
    return _with_landing(noise, [noise.at(t) for t in times], final)


@operation("levels.sigmas")
def from_sigmas(schedule: Mapping[str, Any], *, sigmas: Sequence[float], final: Listed = "one") -> Fields:
    """The given σ/α, unchanged; a 0 at the end is the landing, and `final: listed` lands at the last of them."""
    noise = parse_schedule(schedule)
    ratios = [check_number(f"sigmas[{i}]", ratio, low=0) for i, ratio in enumerate(sigmas)]
    if len(ratios) > 1 and ratios[-1] == 0:
        final = "listed"
    return _with_landing(noise, [noise.exactly(ratio) for ratio in ratios], final)


class Halves(NamedTuple):
    """The levels before a step and from it on; both contain the common level."""

    before: Fields
    after: Fields


@operation("levels.split")
def split(levels: Mapping[str, Any], *, at: int) -> Halves:
    """The levels of the first `at` steps, and of the remaining steps."""
    parsed = parse_levels(levels)
    steps = len(parsed.t) - 1
    if not 1 <= check_int("at", at) < steps:
        raise ValueError(
            f"at: expected a step from 1 to {steps - 1} of {steps}, so that both halves have one; found {at}"
        )
    return Halves(
        _fields_of_arrays(parsed.t[: at + 1], parsed.ratio[: at + 1]),
        _fields_of_arrays(parsed.t[at:], parsed.ratio[at:]),
    )


@operation("levels.start")
def start(levels: Mapping[str, Any], *, strength: float = 1.0) -> Fields:
    """Only the last fraction of the steps, rounded down but at least one, for a start from a picture."""
    parsed = parse_levels(levels)
    steps = len(parsed.t) - 1
    first = steps - count_kept_steps(steps, check_number("strength", strength, above=0, high=1))
    return _fields_of_arrays(parsed.t[first:], parsed.ratio[first:])


@operation("levels.reverse")
def reverse(levels: Mapping[str, Any], schedule: Mapping[str, Any]) -> Fields:
    """The levels in reverse order, from the data to the noise.

    A landing at σ = 0, where no network is called, becomes the first level of the model's trained range, unless the
    levels already visit it.
    """
    parsed, noise = parse_levels(levels), parse_schedule(schedule)
    visited = parsed.to_list()[::-1]
    if visited[-1].alpha == 0:
        raise ValueError("levels that start at α = 0 have no way back to it: leave the first one out")
    if visited[0].sigma == 0:
        lowest = noise.at(noise.low)
        visited = visited[1:] if visited[1].ratio <= lowest.ratio else [lowest, *visited[1:]]
    elif visited[0].ratio == visited[1].ratio:  # a last step of length zero
        visited = visited[1:]
    if len(visited) < 2:
        raise ValueError("one level has no other to go to: reverse levels of two steps or more")
    return _to_fields(Levels.of(visited))


@operation("levels.whole")
def whole_timesteps(levels: Mapping[str, Any], schedule: Mapping[str, Any]) -> Fields:
    """The levels at the nearest whole timesteps; duplicates are visited once. Landings stay."""
    parsed, noise = parse_levels(levels), parse_schedule(schedule)
    visited = [noise.at(float(np.round(level.t))) if level.sigma > 0 else level for level in parsed.to_list()]
    kept = [level for i, level in enumerate(visited) if i == 0 or level.ratio != visited[i - 1].ratio]
    return _to_fields(Levels.of(kept))


def parse_levels(levels: Mapping[str, Any]) -> Levels:
    """Parse the fields of a Levels for the tables. Raises ``ValueError`` for an invalid value."""
    values = check_fields("levels", levels, "t", "ratio")
    t, ratio = (check_array(f"levels.{name}", values[name], "(N+1)", "f").astype(np.float64) for name in ("t", "ratio"))
    return check_levels(Levels(t, ratio))


def _space_timesteps(
    schedule: Mapping[str, Any],
    spacing: Spacing,
    steps: int,
    rounds: bool,
    offset: int,
    final: Final,
    lands: bool = False,
) -> Fields:
    noise = parse_schedule(schedule)
    return _at_times(noise, timesteps(noise, Rule(rounds, lands, True), _steps(steps), spacing, offset), final)


def _steps(steps: int) -> int:
    steps = check_int("steps", steps, low=1)
    check_limit("steps", steps, f"there are {steps:,} steps")
    return steps


def _ends(noise: NoiseSchedule, sigma_max: float | None, sigma_min: float | None) -> tuple[Level, Level]:
    """The levels of the largest and smallest σ/α: by default, of the model's trained range where signal is left."""
    first = (
        noise.at(noise.with_signal().high)
        if sigma_max is None
        else noise.near(check_number("sigma_max", sigma_max, above=0))
    )
    last = noise.at(noise.low) if sigma_min is None else noise.near(check_number("sigma_min", sigma_min, above=0))
    if last.ratio >= first.ratio:
        raise ValueError(f"sigma_min {last.ratio:g} must be below sigma_max {first.ratio:g}")
    return first, last


def _at_times(noise: NoiseSchedule, times: Array, final: Final) -> Fields:
    check_choice("final", final, get_args(Final))
    return _to_fields(Levels.of([*(noise.at(float(t)) for t in times), landing(noise, final)]))


def _between(noise: NoiseSchedule, first: Level, last: Level, ratios: Array, final: Final) -> Fields:
    """Levels from `first` to `last` with the inner σ/α of `ratios`, whose ends belong to those two."""
    check_choice("final", final, get_args(Final))
    inner = [noise.near(float(ratio)) for ratio in ratios[1:-1]]
    return _to_fields(Levels.of([*[first, *inner, last][: len(ratios)], landing(noise, final)]))


def _with_landing(noise: NoiseSchedule, visited: list[Level], final: Listed) -> Fields:
    check_choice("final", final, get_args(Listed))
    if final == "one":
        visited = [*visited, Level.at(LANDING, 0.0)]
    elif final == "first":
        visited = [*visited, noise.at(0.0)]
    return _to_fields(Levels.of(visited))


def _to_fields(levels: Levels) -> Fields:
    return check_levels(levels)._asdict()


def _fields_of_arrays(t: Array, ratio: Array) -> Fields:
    return _to_fields(Levels(t, ratio))
