"""Code shared by all samplers: checks of settings, and the table with its properties."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np

from guidegraph_runtime.checks import check_choice, check_flag, check_int, check_number
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.noise_levels import Final, Levels, NoiseSchedule, Rule, Sigmas, Spacing
from guidegraph_runtime.tables.rows import Array, Level, Row, stack_rows

SHORTHAND = ("steps", "spacing", "offset", "final", "sigmas", "strength", "original_steps")
"""The settings of a sampler that choose its levels."""


class SamplerTable(NamedTuple):
    """R rows, one for each model call: matrix (R, 1+K, 4+K), log_variance (R, 2), the other columns (R); all float64.

    The other fields apply to all rows: the clipping of x̂0, and the inputs that the table reads.
    """

    matrix: Array
    alpha: Array
    sigma: Array
    t: Array
    score_gain: Array
    log_variance: Array
    clip: float | None
    threshold: float | None
    threshold_max: float | None
    rederive_eps: bool
    learned: bool
    reads_eps: bool
    reads_noise: bool
    reads_score: bool
    zero_snr: bool


def check_eta_is_zero(eta: float) -> float:
    """Check that the eta of a deterministic sampler is 0. Raises ``ValueError``."""
    if check_number("eta", eta) != 0:
        raise ValueError(
            "this sampler draws no noise, so eta is 0: use ddim, euler_ancestral or dpmpp_2m_sde for noise at each step"
        )
    return eta


def check_eta_is_one(eta: float) -> float:
    """Check that the eta of DDPM is 1. Raises ``ValueError``."""
    if check_number("eta", eta) != 1:
        raise ValueError("DDPM is ancestral sampling, so eta is 1: use ddim, which is DDPM at eta 1, for less noise")
    return eta


def as_noise_schedule(schedule: Array | NoiseSchedule) -> NoiseSchedule:
    """Convert ᾱ (T) to a noise schedule; return a noise schedule unchanged."""
    return schedule if isinstance(schedule, NoiseSchedule) else NoiseSchedule.of(check_alphas_bar(schedule))


def check_alphas_bar(alphas_bar: Array) -> Array:
    """Check ᾱ (T) and return it in float64. Raises ``ValueError``."""
    array = np.asarray(alphas_bar)
    if array.dtype.kind != "f" or array.ndim != 1 or len(array) < 2 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"expected ᾱ (T), two or more numbers from 0 to 1; found an array {array.shape} of {array.dtype}"
        )
    return array.astype(np.float64)


def choose_levels(
    noise: NoiseSchedule,
    levels: Levels | None,
    rule: Rule,
    steps: int,
    spacing: Spacing,
    offset: int,
    final: Final,
    sigmas: Sigmas,
    strength: float,
    *,
    rising: bool = False,
) -> list[Level]:
    """Return the given levels, or `grid.levels` of the settings, after checking them.

    rising: whether the solver can go from the data to the noise. Raises ``ValueError`` for unordered levels, and for
    rising ones if the solver does not support them.
    """
    if levels is not None:
        return check_levels(levels, rising).to_list()
    for name, value, choices in (("spacing", spacing, Spacing), ("final", final, Final), ("sigmas", sigmas, Sigmas)):
        check_choice(name, value, get_args(choices))
    steps, offset = check_int("steps", steps, low=1), check_int("offset", offset, low=0)
    strength = check_number("strength", strength, above=0, high=1)
    chosen = noise_levels.levels(noise, rule, steps, spacing, offset, final, sigmas, strength)
    return Levels.of(chosen).to_list()


def count_skipped_steps(visited: Sequence[Level], levels: Levels | None, steps: int) -> int:
    """The number of steps skipped by a start in the middle (strength); 0 if levels are wired."""
    return 0 if levels is not None else steps - (len(visited) - 1)


def check_levels(levels: Levels, rising: bool = True) -> Levels:
    """Check that levels fall, or rise if allowed, and return them. Raises ``ValueError``."""
    ratio = levels.ratio
    if levels.t.shape != ratio.shape or ratio.ndim != 1 or len(ratio) < 2:
        raise ValueError(
            f"levels have one t and one σ/α each, two or more; found shapes {levels.t.shape}, {ratio.shape}"
        )
    if np.isnan(ratio).any() or (ratio < 0).any() or np.isnan(levels.t).any():
        raise ValueError("levels have σ/α of at least 0; one of them is negative or not a number")
    is_falling = (ratio[:-1] > ratio[1:]).all() or ((ratio[:-2] > ratio[1:-1]).all() and ratio[-2] == ratio[-1])
    if is_falling and ratio[-2] > 0:
        return levels
    if (ratio[:-1] < ratio[1:]).all() and ratio[0] > 0 and np.isfinite(ratio[-1]):
        if rising:
            return levels
        raise ValueError(
            "the levels go from the data to the noise, which this solver cannot: use ddim with eta 0, euler, heun, "
            "dpm2 or dpmpp_2m"
        )
    text = ", ".join(f"{value:.4g}" for value in ratio[:8]) + (", …" if len(ratio) > 8 else "")
    raise ValueError(f"the σ/α of levels fall, or rise, from one to the next and are 0 at the landing alone: {text}")


def check_shorthand(table_of: Callable[..., object], levels: Levels | None, settings: Mapping[str, object]) -> None:
    """Raise ``ValueError`` if levels are wired and a setting that chooses levels is changed too."""
    if levels is None:
        return
    defaults = {name: parameter.default for name, parameter in inspect.signature(table_of).parameters.items()}
    steps = len(levels.ratio) - 1
    for name in SHORTHAND:
        value = settings.get(name, defaults.get(name))
        if value != defaults.get(name) and not (name == "steps" and value == steps):
            raise ValueError(
                f"the sampler's levels are wired, so its setting {name} = {value!r} would change nothing: leave it "
                f"out, or set it at the levels' node (there are {steps} steps)"
            )


def make_sampler_table(
    rows: Sequence[Row],
    clip: bool | float,
    threshold: float | None,
    threshold_max: float | None,
    rederive_eps: bool = True,
    learned: bool = False,
) -> SamplerTable:
    """Build the table of a sampler from its rows and settings, which are checked."""
    table = stack_rows(rows)
    bound = (1.0 if clip else None) if isinstance(clip, (bool, np.bool_)) else check_number("clip", clip, above=0)
    return SamplerTable(
        *table,
        clip=bound,
        threshold=None if threshold is None else check_number("threshold", threshold, above=0, high=1),
        threshold_max=None if threshold_max is None else check_number("threshold_max", threshold_max, above=0),
        rederive_eps=check_flag("rederive_eps", rederive_eps),
        learned=learned,
        reads_eps=bool(table.matrix[:, :, 2].any()),
        reads_noise=bool(table.matrix[:, :, 3].any()),
        reads_score=bool(table.score_gain.any()),
        zero_snr=bool((table.alpha == 0).any()),
    )
