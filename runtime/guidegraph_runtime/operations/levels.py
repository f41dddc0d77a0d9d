"""The noise levels that a sampler visits, as a value, so that any grid works with any solver.

All settings that several of them share:
steps: the number of steps. final: where the last step ends, at ᾱ = 1 (one) or at ᾱ_0 (first). sigma_max: the first
σ/α. sigma_min: the last σ/α before the end. Without them, levels stay in the range that the schedule's model was
trained on, as do all grids that are not listed level by level.

On a flow schedule, σ is the one in x = (1 − σ)x0 + σε, from 0 to 1, wherever these nodes speak of σ/α; evenly spaced
timesteps count down from T and are moved by the schedule's shift. The last σ of karras, exponential, polyexponential
and kl_optimal is the shifted 1/T, as in ComfyUI.
flow: the software whose levels a flow takes, comfyui or diffusers, if the two differ.

The fields of levels: t and ratio, σ/α (N + 1), float64, noisiest first; form, the schedule's.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from guidegraph_runtime.checks import check_int, check_number
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import (
    Fraction,
    Levels,
    NotEmpty,
    NotNegative,
    Offset,
    Positive,
    Range,
    Schedule,
    Steps,
)
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.noise_levels import (
    Aligned,
    Final,
    NoiseSchedule,
    Rule,
    Spacing,
    count_kept_steps,
    landing,
    parse_levels,
    parse_schedule,
    polynomial,
)
from guidegraph_runtime.tables.rows import Array, Level

Listed: TypeAlias = Literal["one", "first", "listed"]
Flow: TypeAlias = Literal["comfyui", "diffusers"]
Numbers: TypeAlias = Annotated[list[NotNegative], NotEmpty()]


def table_shape(steps: Any) -> tuple[int, ...]:
    """The shape of levels as one array."""
    return check_int("steps", steps, low=1), 2


@operation("levels.leading", shape=table_shape)
def leading(schedule: Schedule, *, steps: Steps = 30, offset: Offset = 0, final: Final = "one") -> Levels:
    """Every (T // steps)-th timestep from 0 on (Lin et al. 2023, table 2), the default of DDIM and PNDM.

    Those of a flow are T / steps apart, not rounded, and count down from T, like the trailing ones.
    offset: added to each timestep; Stable Diffusion has 1.
    """
    return _space_timesteps(schedule, "leading", steps, offset, final)


@operation("levels.trailing", shape=table_shape)
def trailing(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Every (T / steps)-th timestep from the last one down, rounded (Lin et al. 2023, table 2)."""
    return _space_timesteps(schedule, "trailing", steps, 0, final)


@operation("levels.linspace", shape=table_shape)
def linspace(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    whole_times: bool = False,
    lands: bool = False,
    final: Final = "one",
) -> Levels:
    """Evenly spaced timesteps from the last to the first, both visited: ComfyUI's `normal`, the default of Euler.

    On a flow, the last timestep before the shift is T times the shifted 1/T, as in ComfyUI and in diffusers' flow
    schedulers, so that the last σ is shifted twice.
    whole_times: round the timesteps, not on a flow. lands: do not visit the first timestep, because the last step ends
    there, as DPM-Solver++ and UniPC do by default.
    """
    noise = parse_schedule(schedule)
    if noise.form == "flow":
        return _at_times(noise, _even_times(noise, _count_steps(steps) + lands)[:steps], final)
    rule = Rule(whole_times, lands, True)
    return _at_times(noise, noise_levels.timesteps(noise, rule, _count_steps(steps), "linspace"), final)


@operation("levels.simple", shape=table_shape)
def simple(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Whole timesteps from the last one down, T / steps apart, rounded up: ComfyUI's `simple`."""
    noise, steps = parse_schedule(schedule).before_shift(), _count_steps(steps)
    if steps > noise.whole_times:
        message = f"{steps} steps do not fit into the {noise.whole_times} timesteps that the model knows"
        raise SettingError("steps", message)
    return _at_times(noise, noise_levels.simple(math.ceil(noise.low), math.floor(noise.high), steps), final)


@operation("levels.sgm_uniform", shape=table_shape)
def sgm_uniform(schedule: Schedule, *, steps: Steps = 30, final: Final = "one") -> Levels:
    """Evenly spaced timesteps from the last to the first, without the first: ComfyUI's `sgm_uniform`.

    On a flow, they are spaced down to the end of `levels.linspace`.
    """
    noise = parse_schedule(schedule)
    return _at_times(noise, _even_times(noise, _count_steps(steps) + 1)[:-1], final)


@operation("levels.beta", shape=table_shape)
def beta(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    a: Positive = 0.6,
    b: Positive = 0.6,
    final: Final = "one",
    flow: Flow = "comfyui",
) -> Levels:
    """Whole timesteps at the quantiles of a Beta(a, b) distribution (Lee et al. 2024): dense at both ends.

    a, b: shape parameters; values below 1 make the ends dense. Timesteps that round to the same one are visited once.
    flow: comfyui has whole timesteps on a flow too, before its shift. diffusers has the quantiles of σ between the ends
    of `levels.linspace`, both visited (`use_beta_sigmas`).
    """
    noise, steps = parse_schedule(schedule), _count_steps(steps)
    if noise.form == "flow" and flow == "diffusers":
        first, last = _ends(noise, None, None, flow)
        return _between(
            noise, first, last, noise_levels.beta_sigmas(*_sigmas_of(noise, first, last), steps, a, b), final
        )
    noise = noise.before_shift()
    return _at_times(noise, noise_levels.beta(math.ceil(noise.low), math.floor(noise.high), steps, a, b), final)


@operation("levels.karras", shape=table_shape)
def karras(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    rho: Positive = 7.0,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
    flow: Flow = "comfyui",
) -> Levels:
    """σ/α evenly spaced in the ρ-th root (Karras et al. 2022, eq. 5).

    rho: ρ, larger is denser near the data. flow: the last σ of a flow without sigma_min, the shifted 1/T (comfyui) or
    the last of `levels.flow_sd3`, which is shifted twice (diffusers, `use_karras_sigmas`).
    """
    noise, ramp = parse_schedule(schedule), np.linspace(0, 1, _count_steps(steps))
    first, last = _ends(noise, sigma_max, sigma_min, flow)
    return _between(noise, first, last, polynomial(*_sigmas_of(noise, first, last), ramp, rho), final)


@operation("levels.exponential", shape=table_shape)
def exponential(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
    flow: Flow = "comfyui",
) -> Levels:
    """σ/α evenly spaced in the logarithm, that is in λ = log(α/σ) (Lu et al. 2022).

    flow: as for `levels.karras`.
    """
    noise, ramp = parse_schedule(schedule), np.linspace(0, 1, _count_steps(steps))
    first, last = _ends(noise, sigma_max, sigma_min, flow)
    return _between(noise, first, last, noise_levels.exponential(*_sigmas_of(noise, first, last), ramp), final)


@operation("levels.polyexponential", shape=table_shape)
def polyexponential(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    rho: Positive = 1.0,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α whose logarithm is a polynomial (k-diffusion's). rho: its degree; 1 is exponential."""
    noise, steps = parse_schedule(schedule), _count_steps(steps)
    first, last = _ends(noise, sigma_max, sigma_min)
    return _between(
        noise, first, last, noise_levels.polyexponential(*_sigmas_of(noise, first, last), steps, rho), final
    )


@operation("levels.kl_optimal", shape=table_shape)
def kl_optimal(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Positive | None = None,
    sigma_min: Positive | None = None,
    final: Final = "one",
) -> Levels:
    """σ/α = tan of evenly spaced angles, optimal for Gaussian data (Sabour et al. 2024)."""
    noise, steps = parse_schedule(schedule), _count_steps(steps)
    first, last = _ends(noise, sigma_max, sigma_min)
    return _between(noise, first, last, noise_levels.kl_optimal(*_sigmas_of(noise, first, last), steps), final)


@operation("levels.ays", shape=table_shape)
def ays(schedule: Schedule, *, steps: Steps = 10, model: Aligned = "sd1", final: Final = "one") -> Levels:
    """Align Your Steps (Sabour et al. 2024): ten σ/α optimised for a released model, interpolated for other counts.

    model: Stable Diffusion 1, XL or Video.
    Raises an error for a flow schedule.
    """
    noise, steps = parse_schedule(schedule), _count_steps(steps)
    if noise.form == "flow":
        raise ValueError(
            "schedule: the levels of Align Your Steps are those of variance-preserving models, and this schedule is a "
            "flow: use levels.flow, levels.flow_sd3 or levels.karras"
        )
    visited = [noise.near(float(ratio)) for ratio in noise_levels.align_your_steps(model, steps)]
    return _to_fields(noise_levels.Levels.of([*visited, landing(noise, final)]))


@operation("levels.timesteps")
def from_timesteps(schedule: Schedule, *, timesteps: Numbers, final: Listed = "one") -> Levels:
    """A list of timesteps, falling, or rising to go from the data to the noise.

    timesteps: from 0 to T − 1, or to T of a flow, including fractions. The last step ends at a 0 at the end of a flow's
    list, where σ is 0. final: the end after any other list, ᾱ = 1, ᾱ_0, or the last timestep of the list (listed).
    """
    noise = parse_schedule(schedule)
    times = [check_number(f"timesteps[{i}]", t, low=0, high=noise.last) for i, t in enumerate(timesteps)]
    visited = [noise.at(t) for t in times]
    if len(visited) > 1 and visited[-1].sigma == 0:
        visited[-1], final = landing(noise, "one"), "listed"
    return _with_landing(noise, visited, final)


@operation("levels.sigmas")
def from_sigmas(schedule: Schedule, *, sigmas: Numbers, final: Listed = "one") -> Levels:
    """A list of exact σ/α, or σ of a flow schedule, falling, or rising to go from the data to the noise.

    sigmas: the last step ends at a 0 at the end of the list; beyond the schedule, the network gets the nearest
    timestep. final: the end of the last step if the list does not end in 0, ᾱ = 1, ᾱ_0, or the last σ of the list
    (listed).
    """
    noise = parse_schedule(schedule)
    visited = [check_number(f"sigmas[{i}]", sigma, low=0) for i, sigma in enumerate(sigmas)]
    if len(visited) > 1 and visited[-1] == 0:
        final = "listed"
    return _with_landing(noise, [noise.exactly(noise.ratio_of(sigma)) for sigma in visited], final)


class Halves(NamedTuple):
    """The levels before a step and from it on; both contain the common level."""

    before: Levels
    after: Levels


@operation("levels.split")
def split(levels: Levels, *, at: Annotated[int, Range(low=1)]) -> Halves:
    """Split levels after the first `at` steps, for two samplers or two models in turn."""
    parsed = parse_levels(levels)
    steps = len(parsed.t) - 1
    if steps < 2:
        raise ValueError("levels of a single step cannot be split: ask for two steps or more")
    if not at < steps:
        raise SettingError(
            "at", f"at: expected a step from 1 to {steps - 1} of {steps}, so that both halves have one; found {at}"
        )
    return Halves(
        _to_fields(_slice(parsed, slice(at + 1))),
        _to_fields(_slice(parsed, slice(at, None))),
    )


@operation("levels.start")
def start(levels: Levels, *, strength: Fraction = 1.0) -> Levels:
    """The last part of the steps, for a start from a picture. strength: the fraction to keep, at least one step."""
    parsed = parse_levels(levels)
    steps = len(parsed.t) - 1
    first = steps - count_kept_steps(steps, strength)
    return _to_fields(_slice(parsed, slice(first, None)))


@operation("levels.drop_penultimate")
def drop_penultimate(levels: Levels) -> Levels:
    """The levels without the one before the end, so that the last step is longer: ask for one step more than wanted.

    ComfyUI has such levels for its samplers dpm_2, dpm_2_ancestral and uni_pc, in few steps another picture.
    """
    parsed = parse_levels(levels)
    if len(parsed.t) < 3:
        raise ValueError("levels of a single step have none before the end to leave out: ask for two steps or more")
    kept = [*range(len(parsed.t) - 2), -1]
    return _to_fields(parsed._replace(t=parsed.t[kept], ratio=parsed.ratio[kept]))


@operation("levels.reverse")
def reverse(levels: Levels, schedule: Schedule) -> Levels:
    """The levels from the data to the noise, for inversion with a deterministic sampler.

    They start at the first level that the schedule's model was trained on, because no network is called at σ = 0.
    """
    parsed, noise = parse_levels(levels), parse_schedule(schedule)
    visited = parsed.to_list()[::-1]
    if visited[-1].alpha == 0:
        raise ValueError("levels that start at α = 0 have no way back: leave the first one out, with levels.split")
    if visited[0].sigma == 0:
        lowest = noise.at(noise.low)
        visited = visited[1:] if visited[1].ratio <= lowest.ratio else [lowest, *visited[1:]]
    elif visited[0].ratio == visited[1].ratio:  # a last step of length zero
        visited = visited[1:]
    if len(visited) < 2:
        raise ValueError("one level has no other to go to: reverse levels of two steps or more")
    return _to_fields(noise_levels.Levels.of(visited))


@operation("levels.whole")
def whole_timesteps(levels: Levels, schedule: Schedule) -> Levels:
    """The levels at the nearest whole timesteps, for networks trained on those alone; equal ones are visited once."""
    parsed, noise = parse_levels(levels), parse_schedule(schedule)
    visited = [noise.at(float(np.round(level.t))) if level.sigma > 0 else level for level in parsed.to_list()]
    kept = [level for i, level in enumerate(visited) if i == 0 or level.ratio != visited[i - 1].ratio]
    return _to_fields(noise_levels.Levels.of(kept))


def _space_timesteps(schedule: Schedule, spacing: Spacing, steps: int, offset: int, final: Final) -> Levels:
    noise, rule = parse_schedule(schedule), Rule(rounds=True, lands=False, full=True)
    return _at_times(noise, noise_levels.timesteps(noise, rule, _count_steps(steps), spacing, offset), final)


def _even_times(noise: NoiseSchedule, count: int) -> Array:
    """Evenly spaced times from the last trained one to the first, before the shift of a flow.

    Those of a whole flow end at T · σ of its lowest level, which the shift then moves once more.
    """
    low, high = noise.before_shift().low, noise.before_shift().high
    if noise.form == "flow" and noise.low == noise.first:
        low = noise.lowest.t
    return np.linspace(high, low, count)


def _count_steps(steps: int) -> int:
    check_limit("steps", steps, f"there are {steps:,} steps", "steps")
    return steps


def _ends(
    noise: NoiseSchedule, sigma_max: float | None, sigma_min: float | None, flow: Flow = "comfyui"
) -> tuple[Level, Level]:
    """The levels of the largest and smallest σ: by default, of the model's trained range where signal is left."""
    lowest = noise.lowest if flow == "comfyui" else noise.lowest_twice
    first = noise.at(noise.with_signal().high) if sigma_max is None else noise.near_sigma(sigma_max)
    last = lowest if sigma_min is None else noise.near_sigma(sigma_min)
    if last.ratio >= first.ratio:
        high, low = _sigmas_of(noise, first, last)
        raise ValueError(f"sigma_min {low:g} must be below sigma_max {high:g}")
    return first, last


def _sigmas_of(noise: NoiseSchedule, first: Level, last: Level) -> tuple[float, float]:
    return noise.sigma_of(first), noise.sigma_of(last)


def _at_times(noise: NoiseSchedule, times: Array, final: Final) -> Levels:
    visited = [noise.at_unshifted(float(t)) for t in times]
    return _to_fields(noise_levels.Levels.of([*visited, landing(noise, final)]))


def _between(noise: NoiseSchedule, first: Level, last: Level, sigmas: Array, final: Final) -> Levels:
    """Levels from `first` to `last` with the inner ones at `sigmas`, whose ends belong to those two."""
    inner = [noise.near_sigma(float(sigma)) for sigma in sigmas[1:-1]]
    return _to_fields(noise_levels.Levels.of([*[first, *inner, last][: len(sigmas)], landing(noise, final)]))


def _with_landing(noise: NoiseSchedule, visited: list[Level], final: Listed) -> Levels:
    if final == "one":
        visited = [*visited, landing(noise, "one")]
    elif final == "first":
        visited = [*visited, landing(noise, "first")]
    return _to_fields(noise_levels.Levels.of(visited))


def _to_fields(levels: noise_levels.Levels) -> Levels:
    return noise_levels.check_levels(levels)._asdict()


def _slice(levels: noise_levels.Levels, part: slice) -> noise_levels.Levels:
    return levels._replace(t=levels.t[part], ratio=levels.ratio[part])


Sigma: TypeAlias = Annotated[float, Range(above=0, below=1)]
FlowSolver: TypeAlias = Literal["dpm_solver", "unipc"]


@operation("levels.flow", shape=table_shape)
def flow(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Fraction = 1.0,
    sigma_min: Sigma | None = None,
    terminal: Sigma | None = None,
    final: Final = "one",
) -> Levels:
    """σ evenly from sigma_max to sigma_min, then moved by the schedule's shift: the levels of Flux and Z-Image.

    The shift moves σ to sσ/(1 + (s − 1)σ) (Esser et al. 2024, section 5.3.2). Flux has `schedule.flow_shift`.
    sigma_min: by default sigma_max / steps, so that the last step has the length of the others before the shift.
    terminal: stretch the levels, after the shift, so that the last is this σ: 1 − σ′ = (1 − σ)(1 − terminal)/(1 − σ_N),
    as LTX-Video and Qwen-Image do; it takes two steps or more.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    sigmas = np.linspace(sigma_max, sigma_max / steps if sigma_min is None else sigma_min, _count(steps))
    if steps > 1 and sigmas[-1] >= sigmas[0]:
        raise ValueError(f"sigma_min {sigmas[-1]:g} must be below sigma_max {sigmas[0]:g}")
    shifted = noise.shift_sigma(sigmas)
    if terminal is not None:
        if shifted[-1] >= 1:
            raise SettingError(
                "terminal", "terminal: levels that start at σ = 1 and have one step cannot be stretched: use two steps"
            )
        shifted = 1 - (1 - shifted) * (1 - terminal) / (1 - shifted[-1])
    return _at_sigmas(noise, shifted, final)


@operation("levels.flow_sd3", shape=table_shape)
def flow_sd3(schedule: Schedule, *, steps: Steps = 28, final: Final = "one") -> Levels:
    """σ evenly from 1 to the shifted 1/T, then moved by the shift: the levels of Stable Diffusion 3.

    So the last σ is shifted twice, as in the flow schedulers of diffusers without a list of σ.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    last = float(noise.shift_sigma(np.array(1 / noise.train_steps)))
    return _at_sigmas(noise, noise.shift_sigma(np.linspace(1, last, _count(steps))), final)


@operation("levels.flow_sigmas", shape=table_shape)
def flow_sigmas(
    schedule: Schedule, *, steps: Steps = 20, solver: FlowSolver = "dpm_solver", final: Final = "one"
) -> Levels:
    """σ as with `use_flow_sigmas` in diffusers, moved by the shift.

    solver: whose rule. dpm_solver (DPM-Solver++, DEIS, SA-Solver): evenly from 1 − 1/T to 0, without the 0. unipc:
    evenly from 1 to 1/T, without the 1/T; it starts at σ = 1, and diffusers' at 1 − 1e-6 to avoid log 0.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    step = 1 / noise.train_steps
    ends = (1 - step, 0.0) if solver == "dpm_solver" else (1.0, step)
    return _at_sigmas(noise, noise.shift_sigma(np.linspace(*ends, _count(steps) + 1)[:-1]), final)


def _parse_flow(schedule: Schedule) -> NoiseSchedule:
    noise = parse_schedule(schedule)
    if noise.form != "flow":
        raise ValueError("schedule: expected a flow schedule, as from schedule.flow; found a variance-preserving one")
    return noise


def _count(steps: int) -> int:
    check_limit("steps", steps, f"there are {steps:,} steps", "steps")
    return steps


def _at_sigmas(noise: NoiseSchedule, sigmas: Array, final: Final) -> Levels:
    visited = [noise.near_sigma(float(sigma)) for sigma in sigmas]
    levels = noise_levels.Levels.of([*visited, landing(noise, final)])
    return noise_levels.check_levels(levels)._asdict()
