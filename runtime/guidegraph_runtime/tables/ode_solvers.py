"""Solvers of dy/ds = ε in y = x/α and s = σ/α (Karras et al. 2022, eq. 1 with σ(t) = t)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from guidegraph_runtime.tables.rows import (
    EPS,
    NOISE,
    S1,
    S2,
    S3,
    X0,
    Array,
    Level,
    Row,
    X,
    ancestral_split,
    require_signal,
)


def euler(levels: Sequence[Level]) -> list[Row]:
    """Euler's method: y′ = y + (s′ − s)ε = x0 + s′ε, the same as DDIM."""
    return [Row(a, _toward(b)) for a, b in pairwise(levels)]


def euler_ancestral(levels: Sequence[Level], eta: float = 1.0) -> list[Row]:
    """Euler to s_down, then noise of s_up back to s′, with s_down² + s_up² = s′². η scales s_up."""
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_split(a.ratio, b.ratio, eta)
        rows.append(Row(a, b.alpha * (X0 + down * EPS + up * NOISE), score_gain=(b.alpha * up) ** 2))
    return rows


def heun(levels: Sequence[Level]) -> list[Row]:
    """Heun's method (Karras et al. 2022, algorithm 1): two calls a step, one for a step to σ = 0."""
    require_signal(levels, "heun")
    rows = []
    for a, b in pairwise(levels):
        rows.append(Row(a, _toward(b), slots=(X / a.alpha, EPS)))
        if b.sigma > 0:
            rows.append(Row(b, b.alpha * (S1 + (b.ratio - a.ratio) / 2 * (S2 + EPS))))
    return rows


def dpm2(levels: Sequence[Level], at_ratio: Callable[[float], Level]) -> list[Row]:
    """DPM-Solver-2 (Lu et al. 2022, r₁ = ½; Karras et al. 2022): a midpoint in log s; Euler to σ = 0."""
    require_signal(levels, "dpm2")
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = at_ratio(math.sqrt(a.ratio * b.ratio))
        rows.append(Row(a, _toward(middle), slots=(X / a.alpha,)))
        rows.append(Row(middle, b.alpha * (S1 + (b.ratio - a.ratio) * EPS)))
    return rows


def dpm2_ancestral(levels: Sequence[Level], at_ratio: Callable[[float], Level], eta: float = 1.0) -> list[Row]:
    """DPM-Solver-2 to s_down, then noise of s_up back to s′ (k-diffusion's sample_dpm_2_ancestral); η scales s_up.

    The inner call is at the midpoint of log s between s and s_down. Euler to σ = 0.
    """
    require_signal(levels, "dpm2_ancestral")
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_split(a.ratio, b.ratio, eta)
        if down == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = at_ratio(math.sqrt(a.ratio * down))
        rows.append(Row(a, _toward(middle), slots=(X / a.alpha,)))
        x = b.alpha * (S1 + (down - a.ratio) * EPS + up * NOISE)
        rows.append(Row(middle, x, score_gain=(b.alpha * up) ** 2))
    return rows


def edm(
    levels: Sequence[Level],
    at_ratio: Callable[[float], Level],
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> list[Row]:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): Heun's method with fresh noise before each step.

    A step's noise raises s to ŝ = (1 + γ)s and belongs to the previous row. The first step has no previous row, so the
    table starts at its ŝ, the level that adding the noise would reach. No ŝ exceeds the schedule's end.
    """
    require_signal(levels, "edm")
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)

    def lift(level: Level) -> Level:
        is_churned = gamma > 0 and level.sigma > 0 and s_min <= level.ratio <= s_max
        higher = at_ratio(level.ratio * (1 + gamma)) if is_churned else level
        return higher if higher.ratio > level.ratio else level

    rows = []
    hat = lift(levels[0])
    for b, after in zip(levels[1:], [lift(b) for b in levels[1:]], strict=True):
        fresh = math.sqrt(max(after.ratio**2 - b.ratio**2, 0)) * s_noise * NOISE
        if b.sigma > 0:
            rows.append(Row(hat, _toward(b), slots=(X / hat.alpha, EPS)))
            rows.append(Row(b, after.alpha * (S1 + (b.ratio - hat.ratio) / 2 * (S2 + EPS) + fresh)))
        else:
            rows.append(Row(hat, _toward(b)))
        hat = after
    return rows


def lms(levels: Sequence[Level], order: int = 4) -> list[Row]:
    """Linear multistep: ε between the last calls is the polynomial in s through them, integrated exactly."""
    require_signal(levels, "lms")
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        past = [level.ratio for level in levels[i::-1][:order]]
        rows.append(_multistep(a, b, _integrals(past, a.ratio, b.ratio, np.ones_like)))
    return rows


def deis(levels: Sequence[Level], order: int = 3, lower_order_final: bool = True, skipped: int = 0) -> list[Row]:
    """DEIS, log ρ variant (Zhang & Chen 2023): as LMS, with a polynomial in u = log s.

    A step that lands at σ = 0 is of first order. lower_order_final: with fewer than 15 steps the last is of first
    order too, and the one before at most of second. skipped: as for `dpm.dpmpp_2m`.
    """
    require_signal(levels, "deis")
    rows = []
    steps = len(levels) - 1
    lower = lower_order_final and steps + skipped < 15
    for i, (a, b) in enumerate(pairwise(levels)):
        used = min(order, steps - i) if lower else order
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        past = [math.log(level.ratio) for level in levels[i::-1][:used]]
        rows.append(_multistep(a, b, _integrals(past, math.log(a.ratio), math.log(b.ratio), np.exp)))
    return rows


def _multistep(a: Level, b: Level, weights: Sequence[float]) -> Row:
    change = sum(w * eps for w, eps in zip(weights, (EPS, S1, S2, S3), strict=False))
    return Row(a, b.alpha * (X / a.alpha + change), slots=(EPS, S1, S2))


def _toward(b: Level) -> Array:
    x: Array = b.alpha * X0 + b.sigma * EPS
    return x


def _integrals(nodes: Sequence[float], start: float, end: float, measure: Callable[[Array], Array]) -> list[float]:
    """∫ from start to end of each Lagrange polynomial of the nodes times a measure, by 12 Gauss points."""
    points, weights = np.polynomial.legendre.leggauss(12)
    u = (start + end) / 2 + (end - start) / 2 * points
    integrals = []
    for j, node in enumerate(nodes):
        factors = [(u - other) / (node - other) for k, other in enumerate(nodes) if k != j]
        integrals.append(float((end - start) / 2 * weights @ np.prod([measure(u), *factors], axis=0)))
    return integrals
