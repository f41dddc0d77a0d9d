"""Which noise levels a sampler visits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from guidegraph_runtime.tables.rows import Array, Level

Spacing: TypeAlias = Literal["leading", "trailing", "linspace"]
Sigmas: TypeAlias = Literal["schedule", "karras", "exponential"]
Final: TypeAlias = Literal["one", "first"]


@dataclass(frozen=True)
class Rule:
    """How a family of solvers reads `spacing`, as its reference implementations do.

    whole: timesteps are rounded. lands: leading and linspace divide [0, T−1] into steps + 1 points and leave the
    last, t = 0, to the landing. full: Karras and exponential levels span the whole schedule, not just the levels
    from the first to the last timestep of the spacing.
    """

    whole: bool
    lands: bool
    full: bool


SUBSEQUENCE = Rule(whole=True, lands=False, full=True)
"""DDPM, DDIM, PNDM: a subsequence of the timesteps of training."""
RATIO = Rule(whole=False, lands=False, full=False)
"""Solvers in σ/α (Karras et al. 2022): any real t."""
LAMBDA = Rule(whole=True, lands=True, full=True)
"""Solvers in λ = log(α/σ): DPM-Solver++, UniPC, DEIS."""


@dataclass(frozen=True, eq=False)
class Noise:
    """log(σ/α) at t = 0 … T−1, interpolated between: the schedule as the tables see it."""

    log_ratio: Array

    @classmethod
    def of(cls, alphas_bar: Array) -> Noise:
        with np.errstate(divide="ignore"):
            return cls(0.5 * (np.log1p(-alphas_bar) - np.log(alphas_bar)))

    @property
    def last(self) -> float:
        """T − 1."""
        return float(len(self.log_ratio) - 1)

    def at(self, t: float) -> Level:
        """The level at time t, rounded to float32 since a network is told t in float32: α and σ are those of that t."""
        t = float(np.float32(t))
        log_ratio = float(np.interp(t, np.arange(len(self.log_ratio)), self.log_ratio))
        if log_ratio == math.inf:
            return Level(t, 0.0, 1.0)
        return Level(t, 1 / math.sqrt(1 + math.exp(2 * log_ratio)), 1 / math.sqrt(1 + math.exp(-2 * log_ratio)))

    def at_ratio(self, ratio: float) -> Level:
        """The level where σ/α is `ratio`; beyond the schedule, its nearer end."""
        return self.at(float(np.interp(math.log(ratio), self.log_ratio, np.arange(len(self.log_ratio)))))


def levels(
    noise: Noise,
    rule: Rule,
    steps: int,
    spacing: Spacing = "leading",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    strength: float = 1.0,
) -> list[Level]:
    """The levels to visit, noisiest first, and where the last step lands: one more than steps.

    final: the landing's ᾱ is 1, or ᾱ_0, which makes a last step from t = 0 one of length zero. strength: only the
    last part of the steps, for a start from a picture.
    """
    if sigmas != "schedule" and rule.full:
        found = _respaced(sigmas, steps, noise.at(noise.last), noise.at(0.0), noise)
    else:
        found = [noise.at(float(t)) for t in timesteps(int(noise.last) + 1, rule, steps, spacing, offset)]
        if sigmas != "schedule":
            found = _respaced(sigmas, steps, found[0], found[-1], noise)
    landing = Level(-1.0, 1.0, 0.0) if final == "one" else noise.at(0.0)
    return [*found[steps - max(1, int(steps * strength + 1e-6)) :], landing]


def timesteps(train_steps: int, rule: Rule, steps: int, spacing: Spacing, offset: int = 0) -> Array:
    """Times in decreasing order (Lin et al. 2023, table 2)."""
    points = steps + rule.lands
    if points > train_steps and (rule.whole or spacing != "linspace"):
        raise ValueError(f"{steps} steps do not fit into the schedule's {train_steps} timesteps")
    if spacing == "leading":
        found = np.arange(points, dtype=np.float64)[::-1] * (train_steps // points) + offset
    elif spacing == "trailing":
        found = np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1
    else:
        found = np.linspace(0, train_steps - 1, points)[::-1] if points > 1 else np.array([train_steps - 1.0])
        found = np.round(found) if rule.whole else found
    found = found[:steps]
    if found[0] > train_steps - 1:
        raise ValueError(
            f"offset {offset} moves the first timestep to {found[0]:g}, past the schedule's last, {train_steps - 1}"
        )
    return found


def _respaced(sigmas: Sigmas, steps: int, first: Level, last: Level, noise: Noise) -> list[Level]:
    high, low = first.ratio, last.ratio
    if high == math.inf:
        raise ValueError(f"sigmas '{sigmas}' need a largest σ/α, and this schedule ends at α = 0: use 'schedule'")
    ramp = np.linspace(0, 1, steps)[1:-1]
    if sigmas == "karras":  # Karras et al. 2022, eq. 5, ρ = 7
        ratios = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    else:
        ratios = np.exp(math.log(high) + ramp * (math.log(low) - math.log(high)))
    return [first, *(noise.at_ratio(float(r)) for r in ratios), last][:steps]
