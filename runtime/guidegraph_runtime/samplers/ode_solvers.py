"""Solvers of dy/ds = ε in y = x/α and s = σ/α (Karras et al. 2022, eq. 1 with σ(t) = t)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np

from guidegraph_runtime.declare.settings import NotNegative, Positive, Range
from guidegraph_runtime.samplers.sampler import Eta, sampler
from guidegraph_runtime.tables.noise_levels import LAMBDA, RATIO, NoiseSchedule
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
)


@sampler(RATIO, start="zero", rising=True, eta=0, steps=30)
def euler(levels: Sequence[Level]) -> list[Row]:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    # y′ = y + (s′ − s)ε = x0 + s′ε
    return [Row(a, _toward(b)) for a, b in pairwise(levels)]


@sampler(RATIO, start="zero", steps=30)
def euler_ancestral(levels: Sequence[Level], *, eta: Eta = 1.0) -> list[Row]:
    """Euler's method with fresh noise at every step; eta scales that noise.

    A step from s = σ/α goes to s_down, then noise of s_up leads back to s′, with s_down² + s_up² = s′².
    """
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_split(a.ratio, b.ratio, eta)
        rows.append(Row(a, b.alpha * (X0 + down * EPS + up * NOISE), score_gain=(b.alpha * up) ** 2))
    return rows


@sampler(RATIO, rising=True, eta=0, steps=30)
def heun(levels: Sequence[Level]) -> list[Row]:
    """Heun's method, of second order (Karras et al. 2022, algorithm 1): 2·steps − 1 calls."""
    rows = []
    for a, b in pairwise(levels):
        rows.append(Row(a, _toward(b), slots=(X / a.alpha, EPS)))
        if b.sigma > 0:
            rows.append(Row(b, b.alpha * (S1 + (b.ratio - a.ratio) / 2 * (S2 + EPS))))
    return rows


@sampler(RATIO, start="zero", rising=True, eta=0, steps=30)
def heun_flow(levels: Sequence[Level]) -> list[Row]:
    """Heun's method along the straight path, of second order: dx/dσ = ε − x0 of x = (1 − σ)x0 + σε, 2·steps − 1 calls.

    A step from σ to σ′ is x′ = x + (σ′ − σ)/2 (u₁ + u₂), with u = ε − x0 at the step's start and at the end of an Euler
    step, as in the flow Heun scheduler of diffusers. On a variance-preserving schedule the path is that of x/(α + σ).
    """
    rows = []
    for a, b in pairwise(levels):
        rows.append(Row(a, _toward(b), slots=(X / (a.alpha + a.sigma), EPS - X0)))
        if b.sigma > 0:
            end = b.alpha + b.sigma
            change = b.sigma / end - a.sigma / (a.alpha + a.sigma)
            rows.append(Row(b, end * (S1 + change / 2 * (S2 + EPS - X0))))
    return rows


@sampler(RATIO, start="zero", steps=30)
def euler_stochastic(levels: Sequence[Level], *, eta: Eta = 1.0) -> list[Row]:
    """Euler's method with a part of the noise replaced by fresh noise: x′ = α′x0 + σ′(√(1 − η²) ε + ηz).

    At eta 1 all noise is fresh: multistep consistency sampling (Song et al. 2023, algorithm 1), which is the stochastic
    sampling of flow schedulers, x′ = (1 − σ′)x0 + σ′z. For models distilled to few steps: many such steps of another
    model leave the data's distribution, unlike those of euler_ancestral and ddpm. eta 0 is Euler's method.
    """
    rows = []
    for a, b in pairwise(levels):
        std = eta * b.sigma
        rows.append(Row(a, b.alpha * X0 + math.sqrt(b.sigma**2 - std**2) * EPS + std * NOISE, score_gain=std**2))
    return rows


@sampler(RATIO, rising=True, eta=0, steps=30)
def dpm2(levels: Sequence[Level], noise: NoiseSchedule) -> list[Row]:
    """DPM-Solver-2 (Lu et al. 2022, r₁ = ½) in x/α, of second order: 2·steps − 1 calls.

    The inner call of a step is at the midpoint of log σ/α. A step to σ = 0 is Euler's.
    """
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = noise.near(math.sqrt(a.ratio * b.ratio))
        rows.append(Row(a, _toward(middle), slots=(X / a.alpha,)))
        rows.append(Row(middle, b.alpha * (S1 + (b.ratio - a.ratio) * EPS)))
    return rows


@sampler(RATIO, steps=30)
def dpm2_ancestral(levels: Sequence[Level], noise: NoiseSchedule, *, eta: Eta = 1.0) -> list[Row]:
    """DPM-Solver-2 with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise.

    A step from s = σ/α goes to s_down, with its inner call at the midpoint of log s, then noise of s_up leads back to
    s′. A step to σ = 0 is Euler's.
    """
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_split(a.ratio, b.ratio, eta)
        if down == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = noise.near(math.sqrt(a.ratio * down))
        rows.append(Row(a, _toward(middle), slots=(X / a.alpha,)))
        x = b.alpha * (S1 + (down - a.ratio) * EPS + up * NOISE)
        rows.append(Row(middle, x, score_gain=(b.alpha * up) ** 2))
    return rows


@sampler(RATIO, steps=20, sigmas="karras")
def edm(
    levels: Sequence[Level],
    noise: NoiseSchedule,
    *,
    churn: NotNegative = 0.0,
    s_min: NotNegative = 0.0,
    s_max: Positive = math.inf,
    s_noise: Positive = 1.0,
) -> list[Row]:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): 2·steps − 1 calls; churn 0 is Heun's method.

    A step's noise raises s = σ/α to ŝ = (1 + γ)s and belongs to the previous row. The first step has none, so the
    table starts at its ŝ, the level that adding the noise would reach. No ŝ exceeds the schedule's end, and the last
    step adds none, as no call follows it.

    churn: S_churn; s_min, s_max: the σ/α between which noise is added; s_noise: S_noise.
    """
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)

    def lift(level: Level) -> Level:
        is_churned = gamma > 0 and level.sigma > 0 and s_min <= level.ratio <= s_max
        higher = noise.at_ratio(level.ratio * (1 + gamma)) if is_churned else level
        return higher if higher.ratio > level.ratio else level

    rows = []
    hat = lift(levels[0])
    for b, after in zip(levels[1:], [*map(lift, levels[1:-1]), levels[-1]], strict=True):
        fresh = math.sqrt(max(after.ratio**2 - b.ratio**2, 0)) * s_noise * NOISE
        if b.sigma > 0:
            rows.append(Row(hat, _toward(b), slots=(X / hat.alpha, EPS)))
            rows.append(Row(b, after.alpha * (S1 + (b.ratio - hat.ratio) / 2 * (S2 + EPS) + fresh)))
        else:
            rows.append(Row(hat, _toward(b)))
        hat = after
    return rows


@sampler(RATIO, eta=0, steps=30)
def lms(levels: Sequence[Level], *, order: Annotated[int, Range(low=1, high=4)] = 4) -> list[Row]:
    """Linear multistep in x/α, of order up to 4: one call a step.

    ε between the last calls is the polynomial in σ/α through them, integrated exactly.
    """
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        past = [level.ratio for level in levels[i::-1][:order]]
        rows.append(_multistep(a, b, _integrals(past, a.ratio, b.ratio, np.ones_like)))
    return rows


@sampler(LAMBDA, eta=0, steps=20)
def deis(
    levels: Sequence[Level],
    skipped: int = 0,
    *,
    order: Annotated[int, Range(low=1, high=3)] = 3,
    lower_order_final: bool = True,
) -> list[Row]:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step.

    This is the log ρ variant: as LMS, with a polynomial in log σ/α. A step that lands at σ = 0 is of first order.

    lower_order_final: with fewer than 15 steps, the last is of first order and the one before of at most second order.
    """
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
