"""DPM-Solver++ (Lu et al. 2022b): exponential integrators of x̂0 in λ = log(α/σ)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np

from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.samplers.sampler import Deterministic, Eta, sampler
from guidegraph_runtime.tables.noise_levels import LAMBDA, RATIO, NoiseSchedule
from guidegraph_runtime.tables.rows import (
    BY_RATIO,
    NOISE,
    S1,
    S2,
    S3,
    S4,
    X0,
    Array,
    FlowSteps,
    Level,
    Row,
    Variable,
    X,
    ancestral_levels,
    ancestral_split,
    variable_of,
)

Solver: TypeAlias = Literal["midpoint", "heun"]


@sampler(LAMBDA, start="zero", rising=True, rederives=False, steps=20)
def dpmpp_2m(
    levels: Sequence[Level],
    skipped: int = 0,
    *,
    eta: Deterministic = 0.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    flow: FlowSteps = "diffusers",
) -> list[Row]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): multistep, of second order, one call a step.

    The first step is of first order, and so is a last step to σ = 0.

    solver_type: weight x̂0's slope by half of a step (midpoint), or by its integral (heun). lower_order_final: the last
    step is of first order if there are fewer than 15 steps. euler_at_final: the last step is always of first order.
    flow: comfyui steps in log σ of a flow, where diffusers steps in λ.
    """
    # Over a step h of λ, the slope counts (1 − e^{−h})/2, or its exact integral 1 − (1 − e^{−h})/h. With η above 0
    # (dpmpp_2m_sde), h is (1 + η)h, and the noise has the variance σ′²(1 − e^{−2ηh}).
    rows = []
    last = len(levels) - 2
    euler = euler_at_final or (lower_order_final and last + 1 + skipped < 15)
    variable = variable_of(levels[0], flow)
    for i, (a, b) in enumerate(pairwise(levels)):
        change = _exponential(a, b, eta, variable)
        scale = variable.scale(b)
        x = change.keep * X + scale * change.gain * X0 + change.noise * NOISE
        if i > 0 and not (i == last and (b.sigma == 0 or euler)):
            slope = (X0 - S1) * _log_step(a, b, variable) / _log_step(levels[i - 1], a, variable)
            x = x + scale * _slope_weight(change, solver_type) * slope
        rows.append(Row(a, x, slots=(X0,), score_gain=change.noise**2))
    return rows


@sampler(LAMBDA, start="zero", rederives=False, steps=20)
def dpmpp_2m_sde(
    levels: Sequence[Level],
    skipped: int = 0,
    *,
    eta: Eta = 1.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> list[Row]:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022, appendix B): fresh noise at every step, scaled by eta.

    solver_type, lower_order_final, euler_at_final: as for dpmpp_2m.
    """
    return dpmpp_2m(
        levels,
        skipped,
        eta=eta,
        solver_type=solver_type,
        lower_order_final=lower_order_final,
        euler_at_final=euler_at_final,
    )


@sampler(LAMBDA, start="zero", rederives=False, steps=20)
def dpmpp_3m_sde(
    levels: Sequence[Level],
    skipped: int = 0,
    *,
    eta: Eta = 1.0,
    solver_type: Solver = "heun",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
) -> list[Row]:
    """DPM-Solver++(3M) for the reverse SDE, as in k-diffusion: one call a step; eta scales the fresh noise.

    x̂0 is a quadratic in λ through the last three calls, integrated exactly; of lower order in the first two steps,
    and of first order to σ = 0. As in k-diffusion, and in diffusers' third order, the quadratic term counts half (D₂ is
    a divided difference where the derivation has a derivative): at eta 0 the order of convergence is 2.

    solver_type: of a step of second order, as for dpmpp_2m; diffusers' default is midpoint. lower_order_final: with
    fewer than 15 steps, the last is of first order and the one before of second, as in diffusers. euler_at_final: as
    for dpmpp_2m.
    """
    rows = []
    last = len(levels) - 2
    lower = lower_order_final and last + 1 + skipped < 15
    for i, (a, b) in enumerate(pairwise(levels)):
        change = _exponential(a, b, eta)
        x = change.keep * X + b.alpha * change.gain * X0 + change.noise * NOISE
        if i > 0 and b.sigma > 0 and not (i == last and (lower or euler_at_final)):
            h = b.lam - a.lam
            h1 = a.lam - levels[i - 1].lam
            slope = (X0 - S1) * h / h1
            if i > 1 and not (i == last - 1 and lower):
                h2 = levels[i - 1].lam - levels[i - 2].lam
                bend = (slope - (S1 - S2) * h / h2) / (h1 + h2)
                slope = slope + h1 * bend
                x = x - b.alpha * _phi3(change.h) * h * bend + b.alpha * _phi2(change.h) * slope
            else:
                x = x + b.alpha * _slope_weight(change, solver_type) * slope
        rows.append(Row(a, x, slots=(X0, S1), score_gain=change.noise**2))
    return rows


@sampler(LAMBDA, eta=0, rederives=False, steps=20)
def dpmpp_2s(levels: Sequence[Level], skipped: int = 0, *, solver_type: Solver = "midpoint") -> list[Row]:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1): pairs of steps of second order, one call a step.

    The second step of a pair starts from the start of the first, whose end is the pair's inner point. A step that lands
    at σ = 0 is of first order.

    solver_type: as for dpmpp_2m. Pairs are those of the full run with `strength`, and start at the first of `levels`.
    """
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        if i > 0 and (skipped + i) % 2 and b.sigma > 0:
            start = levels[i - 1]
            slope = (X0 - S1) * (b.lam - start.lam) / (a.lam - start.lam)
            weight = _slope_weight(_exponential(start, b, eta=0.0), solver_type)
            rows.append(Row(a, integrate(S2, start, b, S1) + b.alpha * weight * slope))
        else:
            rows.append(Row(a, integrate(X, a, b, X0), slots=(X0, X)))
    return rows


@sampler(RATIO, rederives=False, steps=20)
def dpmpp_2s_ancestral(
    levels: Sequence[Level], noise: NoiseSchedule, *, eta: Eta = 1.0, flow: FlowSteps = "diffusers"
) -> list[Row]:
    """DPM-Solver++(2S) with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise.

    A step goes from s = σ/α to s_down, with its inner call at the midpoint of λ, then noise of s_up leads back to s′. A
    step to σ = 0 is Euler's.

    flow: comfyui is its rectified-flow form, as in euler_ancestral; the inner call of a step from σ = 1 is at 0.9999.
    """
    rows = []
    for a, b in pairwise(levels):
        down, up = ancestral_levels(a, b, eta, flow)
        if down == 0:
            rows.append(Row(a, integrate(X, a, b, X0)))
            continue
        middle = noise.near(math.sqrt(a.ratio * down)) if a.alpha > 0 else noise.near_sigma(FIRST_INNER)
        if a.alpha > 0:
            rows.append(Row(a, integrate(X, a, middle, X0), slots=(X / a.alpha,)))
            x = b.alpha * (down / a.ratio * S1 + (1 - down / a.ratio) * X0 + up * NOISE)
        else:
            lower = Level.at(b.t, down, b.form)
            rows.append(Row(a, integrate(X, a, middle, X0), slots=(X,)))
            x = b.alpha * (integrate(S1, a, lower, X0) / lower.alpha + up * NOISE)
        rows.append(Row(middle, x, score_gain=(b.alpha * up) ** 2))
    return rows


FIRST_INNER = 0.9999
"""σ of ComfyUI's inner call in a step of dpmpp_2s_ancestral from σ = 1, where λ has no midpoint."""


@sampler(RATIO, rederives=False, steps=20)
def dpmpp_sde(levels: Sequence[Level], noise: NoiseSchedule, *, eta: Eta = 1.0) -> list[Row]:
    """DPM-Solver++ (SDE) as in k-diffusion: 2·steps − 1 calls, with noise at each; eta scales the noise.

    An ancestral step leads to the midpoint in λ, then one from the start with the midpoint's x̂0. Both follow one
    Brownian path over s = σ/α: the second step's noise combines that of the first with fresh noise for the rest of the
    path. A step to σ = 0 is Euler's.
    """
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0 or b.ratio == a.ratio:
            rows.append(Row(a, integrate(X, a, b, X0)))
            continue
        middle = noise.near(math.sqrt(a.ratio * b.ratio))
        y = X / a.alpha
        rows.append(Row(a, _ancestral(y, a, middle, NOISE, eta), slots=(y, NOISE)))
        fraction = (a.ratio - middle.ratio) / (a.ratio - b.ratio)
        path = math.sqrt(fraction) * S2 + math.sqrt(1 - fraction) * NOISE
        rows.append(Row(middle, _ancestral(S1, a, b, path, eta)))
    return rows


def integrate(x: Array, a: Level, b: Level, x0: Array) -> Array:
    """The exact step for a constant x̂0: x′ = (σ′/σ) x + α′(1 − e^{−h}) x̂0, with e^{−h} = ασ′/(α′σ)."""
    return b.sigma / a.sigma * x + (b.alpha - a.alpha * b.sigma / a.sigma) * x0


def _ancestral(y: Array, a: Level, b: Level, noise: Array, eta: float) -> Array:
    """From y = x/α at a down to s_down with x̂0 constant, then up to s′ with noise."""
    down, up = ancestral_split(a.ratio, b.ratio, eta)
    x: Array = b.alpha * (down / a.ratio * y + (1 - down / a.ratio) * X0 + up * noise)
    return x


class _Change(NamedTuple):
    """x′ = keep·x + α′·gain·x̂0 + noise·z for a constant x̂0, gain = 1 − e^{−h}; h is (1 + η) times the step of λ."""

    keep: float
    gain: float
    noise: float
    h: float


def _exponential(a: Level, b: Level, eta: float, variable: Variable = BY_RATIO) -> _Change:
    # s′/s, which is e^{−h} of the step h of λ unless straight.
    decay = variable.scale(a) * b.sigma / (variable.scale(b) * a.sigma)
    return _Change(
        keep=b.sigma / a.sigma * decay**eta,
        gain=1 - decay ** (1 + eta),
        noise=b.sigma * math.sqrt(1 - decay ** (2 * eta)),
        h=-(1 + eta) * math.log(decay) if decay > 0 else math.inf,
    )


def _log_step(a: Level, b: Level, variable: Variable) -> float:
    """log s/s′: the step of λ unless straight."""
    return math.log(variable.of(a) / variable.of(b)) if variable.straight else b.lam - a.lam


def _slope_weight(change: _Change, solver_type: Solver) -> float:
    """The weight of x̂0's slope over a step: half of the gain, or the slope's exact integral."""
    return change.gain / 2 if solver_type == "midpoint" else _phi2(change.h)


def _phi2(h: float) -> float:
    """(e^{−h} − 1)/h + 1, the integral of a slope; its limits are 0 at h = 0 and 1 at infinity."""
    return 1 + math.expm1(-h) / h if h else 0.0


def _phi3(h: float) -> float:
    """φ₂/h − ½, minus the integral of a curvature."""
    return _phi2(h) / h - 0.5 if h else 0.0


B: TypeAlias = Literal["bh1", "bh2"]


@sampler(LAMBDA, start="flow", eta=0, rederives=False, steps=20)
def unipc(
    levels: Sequence[Level],
    *,
    order: Annotated[int, Range(low=1, high=3)] = 2,
    variant: B = "bh2",
    lower_order_final: bool = True,
) -> list[Row]:
    """UniPC (Zhao et al. 2023, algorithms 5 and 6) of x̂0: predictor and corrector of the same order, one call a step.

    The order is lower at the start, and 1 for a step to σ = 0. A call at α = 0, where λ is −∞, corrects the step that
    follows it, and no later one.

    variant: the paper's B(h), h for bh1 and e^h − 1 for bh2. lower_order_final: the last steps have orders p − 1, …, 1.
    """
    # Slots: the last three x̂0 and the last corrected sample. Between rows x is the prediction; a row corrects it first.
    rows = []
    used = 0
    steps = len(levels) - 1
    for i, (level, next_level) in enumerate(pairwise(levels)):
        x = X
        if i > 0:
            x = _update(S4, levels[i - 1 :: -1][:used], level, (S1, S2, S3), variant, corrector=X0)
        used = 1 if next_level.sigma == 0 else min(order, i + 1)
        if lower_order_final:
            used = min(used, steps - i)
        rows.append(
            Row(level, _update(x, levels[i::-1][:used], next_level, (X0, S1, S2), variant), slots=(X0, S1, S2, x))
        )
    return rows


def _update(
    x: Array, past: Sequence[Level], target: Level, x0s: Sequence[Array], b: B, corrector: Array | None = None
) -> Array:
    """From past[0] to target with x̂0 at the past levels, newest first, and, for the corrector, at the target."""
    base = integrate(x, past[0], target, x0s[0])
    h = target.lam - past[0].lam
    if h == 0:
        return base
    nodes = [((level.lam - past[0].lam) / h, x0) for level, x0 in zip(past[1:], x0s[1:], strict=False)]
    if corrector is not None:
        nodes.append((1.0, corrector))
    if not nodes:
        return base
    r = np.array([distance for distance, _ in nodes])
    basis = -h if b == "bh1" and h < math.inf else math.expm1(-h)
    rho = _weights(r, h, basis)
    return base - target.alpha * basis * sum(  # type: ignore[no-any-return]
        p * (x0 - x0s[0]) / q for p, q, (_, x0) in zip(rho, r, nodes, strict=True)
    )


def _weights(r: Array, h: float, basis: float) -> Array:
    """ρ with Σ_m ρ_m r_m^{k−1} = k! (−h) φ_{k+1}(−h) / B for k = 1, 2, …; ½ for one node, as the authors have it.

    A node at −∞ has the weight 0, and the others solve the first equations: the limit of the solutions.
    """
    if len(r) == 1:
        return np.array([0.5])
    finite = np.isfinite(r)
    phi = math.expm1(-h) / -h - 1
    factorial = 1
    right = []
    for k in range(1, int(finite.sum()) + 1):
        right.append(phi * factorial / basis)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    rho = np.zeros_like(r)
    rho[finite] = np.linalg.solve(r[None, finite] ** np.arange(len(right))[:, None], np.array(right))
    return rho
