"""Pseudo numerical methods (Liu et al. 2022): linear multistep ε with DDIM's transfer from level to level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from guidegraph_runtime.tables.rows import EPS, NOTHING, S1, S2, S3, S4, Array, Level, Row, X, need_signal


def plms(levels: Sequence[Level]) -> list[Row]:
    """PLMS (eq. 12), started as the first latent diffusion code does: the first step is done twice.

    One row more than steps: the second timestep repeats.
    """
    need_signal(levels, "pndm")
    first, second, *_ = levels
    if len(levels) == 2:
        return [Row(first, _transfer(X / first.alpha, first, second, EPS))]
    rows = [
        Row(first, _transfer(X / first.alpha, first, second, EPS), slots=(EPS, NOTHING, NOTHING, X / first.alpha)),
        Row(second, _transfer(S4, first, second, (EPS + S1) / 2), slots=(S1,)),
    ]
    return rows + _multistep(levels, start=1)


def runge_kutta(levels: Sequence[Level], at: Callable[[float], Level]) -> list[Row]:
    """F-PNDM (algorithm 2): three pseudo Runge-Kutta steps of four calls each (eq. 13), then PLMS."""
    need_signal(levels, "pndm")
    if len(levels) < 5:
        raise ValueError("three Runge-Kutta steps are followed by multistep ones: use at least 4 steps")
    rows = []
    for a, b in list(pairwise(levels))[:3]:
        middle = at((a.t + b.t) / 2)
        half, whole = middle.ratio - a.ratio, b.ratio - a.ratio
        y = X / a.alpha
        rows.append(Row(a, middle.alpha * (y + half * EPS), slots=(EPS, S1, S2)))
        # The slots keep the ε of three steps and the sum so far, which leaves none for y: x tells it.
        y = X / middle.alpha - half * S1
        rows.append(Row(middle, middle.alpha * (y + half * EPS), slots=(S1, S2, S3, y + whole / 6 * (S1 + 2 * EPS))))
        share = whole / (3 * half)  # of the second ε in the sum, whose other part is y itself
        y = (S4 - whole / 6 * S1 - share * X / middle.alpha) / (1 - share)
        rows.append(Row(middle, b.alpha * (y + whole * EPS), slots=(S1, S2, S3, S4 + whole / 3 * EPS)))
        rows.append(Row(b, b.alpha * (S4 + whole / 6 * EPS), slots=(S1, S2, S3)))
    return rows + _multistep(levels, start=3)


def _multistep(levels: Sequence[Level], start: int) -> list[Row]:
    """Adams-Bashforth rows for the steps from `start` on, of up to the fourth order."""
    rows = []
    for i, (a, b) in list(enumerate(pairwise(levels)))[start:]:
        eps = (
            (3 * EPS - S1) / 2,
            (23 * EPS - 16 * S1 + 5 * S2) / 12,
            (55 * EPS - 59 * S1 + 37 * S2 - 9 * S3) / 24,
        )[min(i, 3) - 1]
        rows.append(Row(a, _transfer(X / a.alpha, a, b, eps), slots=(EPS, S1, S2)))
    return rows


def _transfer(y: Array, a: Level, b: Level, eps: Array) -> Array:
    """Eq. 11 for y = x/α: the same as DDIM's step from a to b."""
    return b.alpha * (y + (b.ratio - a.ratio) * eps)
