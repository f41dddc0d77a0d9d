"""Samplers of distilled models that jump straight to x̂0: latent consistency and trajectory consistency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from guidegraph_runtime.tables.rows import EPS, NOISE, X0, Level, Row, X

SIGMA_DATA = 0.5


def distillation_timesteps(train_steps: int, original_steps: int, steps: int) -> list[int]:
    """`steps` of the timesteps that a model was distilled at, evenly spaced by index, in decreasing order.

    The timesteps are k − 1, 2k − 1, … with k = ⌊T / original_steps⌋ (Luo et al. 2023, section 4.3), as in diffusers.
    """
    if original_steps > train_steps:
        raise ValueError(f"original_steps {original_steps} are more than the schedule's {train_steps} timesteps")
    if steps > original_steps:
        raise ValueError(
            f"{steps} steps are more than the {original_steps} that the model was distilled at: "
            "take fewer, or say in original_steps how many those were"
        )
    skip = train_steps // original_steps
    return [(original_steps - i * original_steps // steps) * skip - 1 for i in range(steps)]


def lcm(levels: Sequence[Level], timestep_scaling: float = 10.0) -> list[Row]:
    """Multistep consistency sampling of a latent consistency model (Luo et al. 2023, algorithm 3).

    f = c_skip x + c_out x̂0 with c_skip = σ_d²/(τ² + σ_d²), c_out = τ/√(τ² + σ_d²), σ_d = ½ and τ = timestep_scaling · t
    (appendix D); then x′ = α′f + σ′z.
    """
    rows = []
    for a, b in pairwise(levels):
        squared = (timestep_scaling * a.t) ** 2 + SIGMA_DATA**2
        f = SIGMA_DATA**2 / squared * X + timestep_scaling * a.t / math.sqrt(squared) * X0
        noise = b.sigma if b.t > 0 else 0.0  # a landing at ᾱ_0 draws no noise
        rows.append(Row(a, b.alpha * f + noise * NOISE, score_gain=noise**2))
    return rows


def tcd(levels: Sequence[Level], level_at: Callable[[float], Level], gamma: float = 0.3) -> list[Row]:
    """Strategic stochastic sampling of a trajectory consistency model (Zheng et al. 2024, algorithm 4).

    A DDIM step to s = ⌊(1 − γ)t′⌋, below the next time t′, then noise up to t′. γ = 0 draws no noise; γ = 1
    goes to the clean end each time. A landing at σ = 0 is a step to x̂0.
    """
    rows = []
    for a, b in pairwise(levels):
        s = level_at(math.floor((1 - gamma) * b.t)) if b.sigma > 0 else b
        up = b.alpha / s.alpha
        variance = max(1 - up**2, 0.0) if gamma > 0 else 0.0
        x = up * (s.alpha * X0 + s.sigma * EPS) + math.sqrt(variance) * NOISE
        rows.append(Row(a, x, score_gain=variance))
    return rows
