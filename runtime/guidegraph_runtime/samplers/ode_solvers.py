"""Solvers of dy/ds = ε in y = x/α and s = σ/α (Karras et al. 2022, eq. 1 with σ(t) = t), or of a flow in x and σ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

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
    FlowSteps,
    Level,
    Row,
    Variable,
    X,
    ancestral_levels,
    variable_of,
)

Polynomial: TypeAlias = Literal["log_sigma", "time"]


@sampler(RATIO, start="zero", rising=True, eta=0, steps=30)
def euler(levels: Sequence[Level]) -> list[Row]:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    # y′ = y + (s′ − s)ε = x0 + s′ε
    return [Row(a, _toward(b)) for a, b in pairwise(levels)]


@sampler(RATIO, start="zero", steps=30)
def euler_ancestral(levels: Sequence[Level], *, eta: Eta = 1.0, flow: FlowSteps = "diffusers") -> list[Row]:
    """Euler's method with fresh noise at every step; eta scales that noise.

    A step from s = σ/α goes to s_down, then noise of s_up leads back to s′, with s_down² + s_up² = s′².

    flow: comfyui is its rectified-flow form, in which a step of a flow goes down to σ′(1 + (σ′/σ − 1) eta).
    """
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_levels(a, b, eta, flow)
        rows.append(Row(a, b.alpha * (X0 + down * EPS + up * NOISE), score_gain=(b.alpha * up) ** 2))
    return rows


@sampler(RATIO, rising=True, eta=0, steps=30)
def heun(levels: Sequence[Level], *, flow: FlowSteps = "diffusers") -> list[Row]:
    """Heun's method, of second order (Karras et al. 2022, algorithm 1): 2·steps − 1 calls.

    flow: comfyui steps in x and σ of a flow, which is heun_flow.
    """
    return _heun(levels, variable_of(levels[0], flow))


@sampler(RATIO, start="zero", rising=True, eta=0, steps=30)
def heun_flow(levels: Sequence[Level]) -> list[Row]:
    """Heun's method along the straight path, of second order: dx/dσ = ε − x0 of x = (1 − σ)x0 + σε, 2·steps − 1 calls.

    A step from σ to σ′ is x′ = x + (σ′ − σ)/2 (u₁ + u₂), with u = ε − x0 at the step's start and at the end of an Euler
    step, as in the flow Heun scheduler of diffusers. On a variance-preserving schedule the path is that of x/(α + σ).
    """
    return _heun(levels, Variable(straight=True))


def _heun(levels: Sequence[Level], variable: Variable) -> list[Row]:
    rows = []
    for a, b in pairwise(levels):
        rows.append(Row(a, _toward(b), slots=(X / variable.scale(a), variable.slope)))
        if b.sigma > 0:
            change = variable.of(b) - variable.of(a)
            rows.append(Row(b, variable.scale(b) * (S1 + change / 2 * (S2 + variable.slope))))
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
def dpm2(levels: Sequence[Level], noise: NoiseSchedule, *, flow: FlowSteps = "diffusers") -> list[Row]:
    """DPM-Solver-2 (Lu et al. 2022, r₁ = ½) in x/α, of second order: 2·steps − 1 calls.

    The inner call of a step is at the midpoint of log σ/α. A step to σ = 0 is Euler's.

    flow: comfyui steps in x and σ of a flow, with the midpoint of log σ.
    """
    variable = variable_of(levels[0], flow)
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        middle = noise.near_of(variable, math.sqrt(variable.of(a) * variable.of(b)))
        rows.append(Row(a, _toward(middle), slots=(X / variable.scale(a),)))
        change = variable.of(b) - variable.of(a)
        rows.append(Row(middle, variable.scale(b) * (S1 + change * variable.slope)))
    return rows


@sampler(RATIO, steps=30)
def dpm2_ancestral(
    levels: Sequence[Level], noise: NoiseSchedule, *, eta: Eta = 1.0, flow: FlowSteps = "diffusers"
) -> list[Row]:
    """DPM-Solver-2 with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise.

    A step from s = σ/α goes to s_down, with its inner call at the midpoint of log s, then noise of s_up leads back to
    s′. A step to σ = 0 is Euler's.

    flow: comfyui is its rectified-flow form: as euler_ancestral, with the inner call at the midpoint of log σ.
    """
    variable = variable_of(levels[0], flow)
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_levels(a, b, eta, flow)
        if down == 0:
            rows.append(Row(a, _toward(b)))
            continue
        lower, scale = (down / (1 + down), 1 + down) if variable.straight else (down, 1.0)
        middle = noise.near_of(variable, math.sqrt(variable.of(a) * lower))
        rows.append(Row(a, _toward(middle), slots=(X / variable.scale(a),)))
        x = b.alpha * (scale * (S1 + (lower - variable.of(a)) * variable.slope) + up * NOISE)
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
def lms(
    levels: Sequence[Level],
    *,
    order: Annotated[int, Range(low=1, high=4)] = 4,
    flow: FlowSteps = "diffusers",
) -> list[Row]:
    """Linear multistep in x/α, of order up to 4: one call a step.

    ε between the last calls is the polynomial in σ/α through them, integrated exactly.

    flow: comfyui has the polynomial of ε − x0 in σ of a flow, and takes x̂0 in the step to σ = 0.
    """
    variable = variable_of(levels[0], flow)
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        if variable.straight and b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        past = [variable.of(level) for level in levels[i::-1][:order]]
        rows.append(_multistep(a, b, _integrals(past, variable.of(a), variable.of(b), np.ones_like), variable))
    return rows


@sampler(LAMBDA, eta=0, steps=20)
def deis(
    levels: Sequence[Level],
    skipped: int = 0,
    *,
    order: Annotated[int, Range(low=1, high=3)] = 3,
    lower_order_final: bool = True,
    polynomial: Polynomial = "log_sigma",
    flow: FlowSteps = "diffusers",
) -> list[Row]:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step.

    This is the log ρ variant: as LMS, with a polynomial in log σ/α. A step that lands at σ = 0 is of first order.

    lower_order_final: with fewer than 15 steps, the last is of first order and the one before of at most second order.
    polynomial: its variable, log σ/α as in diffusers, or as in ComfyUI the time t of the variance-preserving SDE whose
    σ/α goes from 0.002 at t = 0.001 to 80 at t = 1 (tAB). flow: comfyui steps in x and σ of a flow.
    """
    variable = variable_of(levels[0], flow)
    rows = []
    steps = len(levels) - 1
    lower = lower_order_final and steps + skipped < 15
    for i, (a, b) in enumerate(pairwise(levels)):
        used = min(order, steps - i) if lower else order
        if b.sigma == 0:
            rows.append(Row(a, _toward(b)))
            continue
        past = [variable.of(level) for level in levels[i::-1][:used]]
        if polynomial == "log_sigma":
            logs = [math.log(s) for s in past]
            weights = _integrals(logs, math.log(variable.of(a)), math.log(variable.of(b)), np.exp)
        else:
            times = [_time_of_sde(s) for s in past]
            weights = _integrals(times, _time_of_sde(variable.of(a)), _time_of_sde(variable.of(b)), _rate_of_sde)
        rows.append(_multistep(a, b, weights, variable))
    return rows


SDE_SLOPE, SDE_START = (
    float(value)
    for value in np.linalg.solve([[0.5 * 0.001**2, 0.001], [0.5, 1.0]], [math.log1p(0.002**2), math.log1p(80.0**2)])
)
"""The slope and the start of β(t) = start + slope · t, with log(1 + s²) = ½ slope t² + start t for s = σ/α at t."""


def _time_of_sde(s: float) -> float:
    return (math.sqrt(SDE_START**2 + 2 * SDE_SLOPE * math.log1p(s**2)) - SDE_START) / SDE_SLOPE


def _rate_of_sde(t: Array) -> Array:
    """ds/dt."""
    growth = 0.5 * SDE_SLOPE * t**2 + SDE_START * t
    rate: Array = (SDE_SLOPE * t + SDE_START) * np.exp(growth) / (2 * np.sqrt(np.expm1(growth)))
    return rate


def _multistep(a: Level, b: Level, weights: Sequence[float], variable: Variable) -> Row:
    slope = variable.slope
    change = sum(w * past for w, past in zip(weights, (slope, S1, S2, S3), strict=False))
    return Row(a, variable.scale(b) * (X / variable.scale(a) + change), slots=(slope, S1, S2))


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
