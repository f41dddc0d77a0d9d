"""Solvers of dy/ds = ε in y = x/α and s = σ/α (Karras et al. 2022, eq. 1 with σ(t) = t)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from guidegraph.nodes.tables.rows import EPS, NOISE, S1, S2, S3, X0, Array, Level, Row, X, need_signal


def euler(levels: Sequence[Level]) -> list[Row]:
    """Euler's method: y′ = y + (s′ − s)ε = x0 + s′ε, the same as DDIM."""
    return [Row(a, _toward(b)) for a, b in pairwise(levels)]


def euler_ancestral(levels: Sequence[Level], eta: float = 1.0) -> list[Row]:
    """Euler to s_down, then noise of s_up back to s′, with s_down² + s_up² = s′². η scales s_up."""
    rows = []
    for a, b in pairwise(levels):
        up = min(eta * b.ratio * math.sqrt(1 - (b.ratio / a.ratio) ** 2), b.ratio)
        down = math.sqrt(b.ratio**2 - up**2)
        rows.append(Row(a, b.alpha * (X0 + down * EPS + up * NOISE), score_gain=(b.alpha * up) ** 2))
    return rows


def heun(levels: Sequence[Level]) -> list[Row]:
    """Heun's method (Karras et al. 2022, algorithm 1): two calls a step, one for a step to σ = 0."""
    need_signal(levels, "heun")
    rows = []
    for a, b in pairwise(levels):
        rows.append(Row(a, _toward(b), slots=(X / a.alpha, EPS)))
        if b.sigma > 0:
            rows.append(Row(b, b.alpha * (S1 + (b.ratio - a.ratio) / 2 * (S2 + EPS))))
    return rows


def dpm2(levels: Sequence[Level], at_ratio: Callable[[float], Level]) -> list[Row]:
    """DPM-Solver-2 (Lu et al. 2022, r₁ = ½; Karras et al. 2022): a midpoint in log s; Euler to σ = 0."""
    need_signal(levels, "dpm2")
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = at_ratio(math.sqrt(a.ratio * b.ratio))
        rows.append(Row(a, _toward(middle), slots=(X / a.alpha,)))
        rows.append(Row(middle, b.alpha * (S1 + (b.ratio - a.ratio) * EPS)))
    return rows


def lms(levels: Sequence[Level], order: int = 4) -> list[Row]:
    """Linear multistep: ε between the last calls is the polynomial in s through them, integrated exactly."""
    need_signal(levels, "lms")
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        used = min(i + 1, order)
        weights = _integrate([levels[i - j].ratio for j in range(used)], a.ratio, b.ratio)
        change = sum(w * e for w, e in zip(weights, (EPS, S1, S2, S3), strict=False))
        rows.append(Row(a, b.alpha * (X / a.alpha + change), slots=(EPS, S1, S2)))
    return rows


def _toward(b: Level) -> Array:
    x: Array = b.alpha * X0 + b.sigma * EPS
    return x


def _integrate(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """∫ from start to end of each Lagrange polynomial of up to four nodes; two Gauss points are exact to degree 3."""
    points, weights = np.polynomial.legendre.leggauss(2)
    s = (start + end) / 2 + (end - start) / 2 * points
    found = []
    for j, node in enumerate(nodes):
        factors = [(s - other) / (node - other) for k, other in enumerate(nodes) if k != j]
        found.append(float((end - start) / 2 * weights @ np.prod([np.ones(2), *factors], axis=0)))
    return found
