"""What all samplers share: the settings' checks, and the table with what is the same for all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from guidegraph_runtime.checks import choice, flag, number, whole
from guidegraph_runtime.tables import grid
from guidegraph_runtime.tables.grid import Final, Noise, Rule, Sigmas, Spacing
from guidegraph_runtime.tables.rows import Array, Level, Row, stack


class SamplerTable(NamedTuple):
    """R rows, one for each model call: matrix (R, 1+K, 4+K), log_variance (R, 2), the other columns (R); all float64.

    The rest is the same for all rows: how x̂0 is clipped, and what the table reads.
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


def drawing_none(eta: float) -> float:
    """The eta of a deterministic sampler, 0. Raises ``ValueError`` for any other."""
    if number("eta", eta) != 0:
        raise ValueError(
            "this sampler draws no noise, so eta is 0: use ddim, euler_ancestral or dpmpp_2m_sde for noise at each step"
        )
    return eta


def ancestral_eta(eta: float) -> float:
    """The eta of DDPM, 1. Raises ``ValueError`` for any other."""
    if number("eta", eta) != 1:
        raise ValueError("DDPM is ancestral sampling, so eta is 1: use ddim, which is DDPM at eta 1, for less noise")
    return eta


def noise_of(alphas_bar: Array) -> Noise:
    """The schedule of ᾱ (T) as the tables see it."""
    array = np.asarray(alphas_bar)
    if array.dtype.kind != "f" or array.ndim != 1 or len(array) < 2 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"expected ᾱ (T), two or more numbers from 0 to 1; found an array {array.shape} of {array.dtype}"
        )
    return Noise.of(array.astype(np.float64))


def visited_levels(
    noise: Noise,
    rule: Rule,
    steps: int,
    spacing: Spacing,
    offset: int,
    final: Final,
    sigmas: Sigmas,
    strength: float,
) -> list[Level]:
    """`grid.levels` of settings that are checked first."""
    for name, value, choices in (("spacing", spacing, Spacing), ("final", final, Final), ("sigmas", sigmas, Sigmas)):
        choice(name, value, get_args(choices))
    steps, offset = whole("steps", steps, low=1), whole("offset", offset, low=0)
    strength = number("strength", strength, above=0, high=1)
    return grid.levels(noise, rule, steps, spacing, offset, final, sigmas, strength)


def sampler_table(
    rows: Sequence[Row],
    clip: bool | float,
    threshold: float | None,
    rederive_eps: bool = True,
    learned: bool = False,
    threshold_max: float | None = None,
) -> SamplerTable:
    """The table of some rows and what goes with it; the settings are checked."""
    table = stack(rows)
    bound = (1.0 if clip else None) if isinstance(clip, (bool, np.bool_)) else number("clip", clip, above=0)
    return SamplerTable(
        *table,
        clip=bound,
        threshold=None if threshold is None else number("threshold", threshold, above=0, high=1),
        threshold_max=None if threshold_max is None else number("threshold_max", threshold_max, above=0),
        rederive_eps=flag("rederive_eps", rederive_eps),
        learned=learned,
        reads_eps=bool(table.matrix[:, :, 2].any()),
        reads_noise=bool(table.matrix[:, :, 3].any()),
        reads_score=bool(table.score_gain.any()),
        zero_snr=bool((table.alpha == 0).any()),
    )
