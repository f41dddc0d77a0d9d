"""DDPM and DDIM: samplers on a subsequence of the timesteps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from guidegraph_runtime.samplers.sampler import Eta, sampler
from guidegraph_runtime.tables.noise_levels import SUBSEQUENCE
from guidegraph_runtime.tables.rows import EPS, NOISE, X0, Level, Row, X, transition_variance

Variance: TypeAlias = Literal["fixed_small", "fixed_large", "learned"]


@sampler(SUBSEQUENCE, start="trained", eta=1, rederives=False, steps=None, spacing="leading")
def ddpm(levels: Sequence[Level], *, variance: Variance = "fixed_small") -> list[Row]:
    """Ancestral sampling (Ho et al. 2020, eq. 6–7), by default at every timestep.

    A step that lands at σ = 0 draws no noise; it takes log β̃ from the previous one, and also Σ for β (as in OpenAI's
    code). A step of length zero draws none either.

    variance: β̃, β, or learned between the two in log space (Nichol & Dhariwal 2021, eq. 15).
    """
    rows: list[Row] = []
    floor = 0.0
    for a, b in pairwise(levels):
        beta = transition_variance(a, b)
        small = beta * (b.sigma / a.sigma) ** 2
        mean = b.alpha * beta / a.sigma**2 * X0 + a.alpha / b.alpha * (b.sigma / a.sigma) ** 2 * X
        floor = small or floor or beta or 1e-20
        lands = b.sigma == 0
        if variance == "fixed_small":
            rows.append(Row(a, mean + math.sqrt(small) * NOISE, score_gain=small))
        elif variance == "fixed_large":
            gain = floor if lands else beta
            rows.append(Row(a, mean + (0 if lands else math.sqrt(beta)) * NOISE, score_gain=gain))
        else:
            bounds = (math.log(floor), math.log(max(beta, floor)))
            draws = small > 0
            rows.append(Row(a, mean + draws * NOISE, score_gain=float(draws or lands), log_variance=bounds))
    return rows


@sampler(SUBSEQUENCE, start="trained", rising=True, steps=50, spacing="leading")
def ddim(levels: Sequence[Level], *, eta: Eta = 0.0) -> list[Row]:
    """DDIM (Song et al. 2021, eq. 12 and 16): deterministic at eta 0, as random as DDPM at eta 1."""
    rows = []
    for a, b in pairwise(levels):
        std = eta * b.sigma / a.sigma * math.sqrt(max(transition_variance(a, b), 0))
        direction = math.sqrt(max(b.sigma**2 - std**2, 0))
        rows.append(Row(a, b.alpha * X0 + direction * EPS + std * NOISE, score_gain=std**2))
    return rows
