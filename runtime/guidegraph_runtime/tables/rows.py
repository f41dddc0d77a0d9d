"""Rows of a sampler's table: linear maps [x′, s′] = M · [x, x0, ε, noise, s₁…s_K] at a noise level.

A quantity is written as its coefficients over those inputs, so that solvers read like their papers:
``b.alpha * X0 + b.sigma * EPS`` is one row of M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.tables.form import Form

K = 4
INPUTS = ("x", "x0", "eps", "noise", *(f"s{i + 1}" for i in range(K)))

Array: TypeAlias = NDArray[np.float64]

_basis = np.eye(4 + K)
_basis.setflags(write=False)
X, X0, EPS, NOISE = _basis[:4]
S1, S2, S3, S4 = _basis[4:]
NOTHING = np.zeros(4 + K)
NOTHING.setflags(write=False)


@dataclass(frozen=True)
class Level:
    """A noise level x = αx0 + σε at time t of the schedule, scaled by its form."""

    t: float
    alpha: float
    sigma: float
    form: Form = "variance_preserving"

    @classmethod
    def at(cls, t: float, ratio: float, form: Form = "variance_preserving") -> Level:
        """The level at time t where σ/α is `ratio`, which may be infinite."""
        if ratio == math.inf:
            return cls(t, 0.0, 1.0, form)
        scale = 1 + ratio if form == "flow" else math.hypot(1, ratio)
        return cls(t, 1 / scale, ratio / scale, form)

    @property
    def ratio(self) -> float:
        """σ/α, the σ of solvers in x/α; infinite if α = 0."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def lam(self) -> float:
        """λ = log(α/σ), half the log signal-to-noise ratio."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def power(self) -> float:
        """α² + σ², the variance of x if x0 has variance 1."""
        return self.alpha**2 + self.sigma**2 if self.form == "flow" else 1.0


FlowSteps: TypeAlias = Literal["diffusers", "comfyui"]
"""The software whose solver it is on a flow: diffusers steps in x/α and σ/α there too, ComfyUI in x and σ."""


class Variable(NamedTuple):
    """The variable s of a solver, which integrates y = x/scale with the slope dy/ds.

    y = x/α, s = σ/α and the slope ε; straight: y = x/(α + σ), s = σ/(α + σ) and ε − x0, which on a flow are x, σ and u.
    """

    straight: bool

    def of(self, level: Level) -> float:
        """s at a level; infinite at α = 0 unless straight."""
        return level.sigma / (level.alpha + level.sigma) if self.straight else level.ratio

    def scale(self, level: Level) -> float:
        return level.alpha + level.sigma if self.straight else level.alpha

    @property
    def slope(self) -> Array:
        slope: Array = EPS - X0 if self.straight else EPS
        return slope


BY_RATIO = Variable(straight=False)


def variable_of(level: Level, flow: FlowSteps) -> Variable:
    """The variable of a solver on the levels that `level` belongs to."""
    return Variable(straight=True) if level.form == "flow" and flow == "comfyui" else BY_RATIO


@dataclass(frozen=True, eq=False)
class Row:
    """One model call: the new x and slots (omitted slots become zero).

    score_gain: Σ in μ + Σ · score. log_variance: log β̃ and log β for a learned variance.
    """

    level: Level
    x: Array
    slots: tuple[Array, ...] = ()
    score_gain: float = 0.0
    log_variance: tuple[float, float] = field(default=(0.0, 0.0))


class Table(NamedTuple):
    """Rows as arrays: matrix (R, 1+K, 4+K), log_variance (R, 2), the others (R).

    position, length: int64, the number of each row and of all rows, which a row keeps in a table of several samplers.
    """

    matrix: Array
    alpha: Array
    sigma: Array
    t: Array
    score_gain: Array
    log_variance: Array
    position: NDArray[np.int64]
    length: NDArray[np.int64]


def stack_rows(rows: Sequence[Row]) -> Table:
    """Stack rows into a table. Raises ``ArithmeticError`` if a coefficient is not finite."""
    padded = [[row.x, *row.slots, *[NOTHING] * (K - len(row.slots))] for row in rows]
    table = Table(
        np.array(padded),
        np.array([row.level.alpha for row in rows]),
        np.array([row.level.sigma for row in rows]),
        np.array([row.level.t for row in rows]),
        np.array([row.score_gain for row in rows]),
        np.array([row.log_variance for row in rows]),
        np.arange(len(rows), dtype=np.int64),
        np.full(len(rows), len(rows), dtype=np.int64),
    )
    if not np.isfinite(table.matrix).all():
        raise ArithmeticError("the table has coefficients that are not finite: the noise levels are too close or equal")
    return table


def transition_variance(a: Level, b: Level) -> float:
    """The variance of x at level a given x at the less noisy level b: σ_a² − (α_a/α_b)² σ_b²."""
    return a.power - (a.alpha / b.alpha) ** 2 * b.power


def ancestral_split(start: float, end: float, eta: float) -> tuple[float, float]:
    """(s_down, s_up) of an ancestral step from σ/α = start to end: s_down² + s_up² = end², and η scales s_up."""
    up = min(eta * end * math.sqrt(1 - (end / start) ** 2), end)
    return math.sqrt(end**2 - up**2), up


def ancestral_levels(a: Level, b: Level, eta: float, flow: FlowSteps) -> tuple[float, float]:
    """(s_down, s_up) of an ancestral step from a to b in σ/α, as `ancestral_split`.

    ComfyUI's step of a flow goes down to σ = σ_b(1 + (σ_b/σ_a − 1) eta), by its rectified-flow samplers.
    """
    if not variable_of(a, flow).straight or b.sigma == 0:
        return ancestral_split(a.ratio, b.ratio, eta)
    sigma = b.sigma * (1 + (b.sigma / a.sigma - 1) * eta)
    down = sigma / (1 - sigma)
    return down, math.sqrt(max(b.ratio**2 - down**2, 0.0))
