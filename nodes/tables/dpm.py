"""DPM-Solver++ (Lu et al. 2022b): exponential integrators of x̂0 in λ = log(α/σ)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from guidegraph.nodes.tables.rows import S1, X0, Array, Level, Row, X


def dpmpp_2m(levels: Sequence[Level]) -> list[Row]:
    """DPM-Solver++(2M), algorithm 2, with the midpoint rule; first order at the start and at the end.

    The last step is of first order where it lands at σ = 0, or where there are fewer than 15 steps.
    """
    rows = []
    last = len(levels) - 2
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = X0
        if i > 0 and not (i == last and (b.sigma == 0 or last < 14)):
            half = (b.lam - a.lam) / (a.lam - levels[i - 1].lam) / 2  # 1/(2r)
            estimate = X0 + half * (X0 - S1)
        rows.append(Row(a, integrate(X, a, b, estimate), slots=(X0,)))
    return rows


def integrate(x: Array, a: Level, b: Level, x0: Array) -> Array:
    """The exact step for a constant x̂0: x′ = (σ′/σ) x + α′(1 − e^{−h}) x̂0, with e^{−h} = ασ′/(α′σ)."""
    return b.sigma / a.sigma * x + (b.alpha - a.alpha * b.sigma / a.sigma) * x0
