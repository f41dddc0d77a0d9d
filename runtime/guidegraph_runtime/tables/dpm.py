"""DPM-Solver++ (Lu et al. 2022b): exponential integrators of x̂0 in λ = log(α/σ)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from guidegraph_runtime.tables.rows import NOISE, S1, S2, X0, Array, Level, Row, X, need_signal


def dpmpp_2m(levels: Sequence[Level], stochastic: bool = False) -> list[Row]:
    """DPM-Solver++(2M), algorithm 2, with the midpoint rule; first order at the start and at the end.

    The last step is of first order where it lands at σ = 0, or where there are fewer than 15 steps. Stochastic: the
    same for the reverse SDE (SDE-DPM-Solver++, appendix B).
    """
    rows = []
    last = len(levels) - 2
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = X0
        if i > 0 and not (i == last and (b.sigma == 0 or last < 14)):
            half = (b.lam - a.lam) / (a.lam - levels[i - 1].lam) / 2  # 1/(2r)
            estimate = X0 + half * (X0 - S1)
        if stochastic:
            decay = a.alpha * b.sigma / (b.alpha * a.sigma)  # e^{−h}
            variance = b.sigma**2 * (1 - decay**2)
            x = b.sigma / a.sigma * decay * X + b.alpha * (1 - decay**2) * estimate + math.sqrt(variance) * NOISE
            rows.append(Row(a, x, slots=(X0,), score_gain=variance))
        else:
            rows.append(Row(a, integrate(X, a, b, estimate), slots=(X0,)))
    return rows


def dpmpp_2s(levels: Sequence[Level]) -> list[Row]:
    """DPM-Solver++(2S), algorithm 1: pairs of steps, the second again from where the first started.

    The pair's first landing is its inner point. A step that lands at σ = 0 is of first order.
    """
    need_signal(levels, "dpmpp_2s")
    rows = []
    for i, (a, b) in enumerate(pairwise(levels)):
        if i % 2 and b.sigma > 0:
            start = levels[i - 1]
            half = (b.lam - start.lam) / (a.lam - start.lam) / 2  # 1/(2r)
            rows.append(Row(a, integrate(S2, start, b, S1 + half * (X0 - S1))))
        else:
            rows.append(Row(a, integrate(X, a, b, X0), slots=(X0, X)))
    return rows


def dpmpp_sde(levels: Sequence[Level], at_ratio: Callable[[float], Level], eta: float = 1.0) -> list[Row]:
    """DPM-Solver++ (SDE): an ancestral step to the midpoint in λ, then one from the start with the midpoint's x̂0.

    Both steps follow one Brownian path over s = σ/α, as in k-diffusion: the second one's noise is made of the first
    one's and of fresh noise for the rest of the path. Euler to σ = 0.
    """
    need_signal(levels, "dpmpp_sde")
    rows = []
    for a, b in pairwise(levels):
        if b.sigma == 0 or b.ratio == a.ratio:
            rows.append(Row(a, integrate(X, a, b, X0)))
            continue
        middle = at_ratio(math.sqrt(a.ratio * b.ratio))
        y = X / a.alpha
        rows.append(Row(a, _ancestral(y, a, middle, NOISE, eta), slots=(y, NOISE)))
        share = (a.ratio - middle.ratio) / (a.ratio - b.ratio)
        path = math.sqrt(share) * S2 + math.sqrt(1 - share) * NOISE
        rows.append(Row(middle, _ancestral(S1, a, b, path, eta)))
    return rows


def integrate(x: Array, a: Level, b: Level, x0: Array) -> Array:
    """The exact step for a constant x̂0: x′ = (σ′/σ) x + α′(1 − e^{−h}) x̂0, with e^{−h} = ασ′/(α′σ)."""
    return b.sigma / a.sigma * x + (b.alpha - a.alpha * b.sigma / a.sigma) * x0


def _ancestral(y: Array, a: Level, b: Level, noise: Array, eta: float) -> Array:
    """From y = x/α at a down to s_down with x̂0 constant, then up to s′ with noise."""
    up = min(eta * b.ratio * math.sqrt(1 - (b.ratio / a.ratio) ** 2), b.ratio)
    down = math.sqrt(b.ratio**2 - up**2)
    x: Array = b.alpha * (down / a.ratio * y + (1 - down / a.ratio) * X0 + up * noise)
    return x
