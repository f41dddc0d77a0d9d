"""UniPC (Zhao et al. 2023): DPM-Solver++ steps, each corrected when the next call's x̂0 is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import numpy as np

from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.samplers.dpm_solver import integrate
from guidegraph_runtime.samplers.sampler import sampler
from guidegraph_runtime.tables.noise_levels import LAMBDA
from guidegraph_runtime.tables.rows import S1, S2, S3, S4, X0, Array, Level, Row, X

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
