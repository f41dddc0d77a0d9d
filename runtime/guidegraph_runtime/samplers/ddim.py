"""Samplers that predict x̂0 and add noise again: DDPM, DDIM, and latent and trajectory consistency (LCM, TCD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from guidegraph_runtime.declare.settings import Fraction, Offset, Positive, Steps
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.samplers.sampler import Eta, sampler
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.noise_levels import SUBSEQUENCE, Final, NoiseSchedule, Rule, Sigmas
from guidegraph_runtime.tables.rows import EPS, NOISE, X0, Level, Row, X, transition_variance

SIGMA_DATA = 0.5

DistilledSpacing: TypeAlias = Literal["distilled", "leading", "trailing", "linspace"]


def distillation_timesteps(train_steps: int, original_steps: int, steps: int) -> list[int]:
    """`steps` of the timesteps that a model was distilled at, evenly spaced by index, in decreasing order.

    The timesteps are k − 1, 2k − 1, … with k = ⌊T / original_steps⌋ (Luo et al. 2023, section 4.3), as in diffusers.
    """
    if original_steps > train_steps:
        raise ValueError(f"original_steps {original_steps} are more than the schedule's {train_steps} timesteps")
    if steps > original_steps:
        raise SettingError(
            "steps",
            f"{steps} steps are more than the {original_steps} that the model was distilled at: "
            "take fewer, or say in original_steps how many those were",
        )
    skip = train_steps // original_steps
    return [(original_steps - i * original_steps // steps) * skip - 1 for i in range(steps)]


def choose_distilled_levels(
    noise: NoiseSchedule,
    rule: Rule,
    steps: Steps = 4,
    original_steps: Steps = 50,
    spacing: DistilledSpacing = "distilled",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    strength: Fraction = 1.0,
) -> list[Level]:
    """The levels of `noise_levels.levels`, or, with the spacing `distilled`, at timesteps of the distillation.

    Like those of `noise_levels.timesteps`, they are mapped into the trained range of the model if they would leave it.
    """
    if spacing != "distilled" or sigmas != "schedule":
        fallback = "trailing" if spacing == "distilled" else spacing
        return noise_levels.levels(noise, rule, steps, fallback, offset, final, sigmas, strength)
    times = np.array(distillation_timesteps(noise.train_steps, original_steps, steps), dtype=np.float64) + noise.first
    in_range = noise_levels.fit_times(times, noise.before_shift(), rounds=noise.form != "flow")
    remaining = in_range[steps - noise_levels.count_kept_steps(steps, strength) :]
    return [*(noise.at_unshifted(float(t)) for t in remaining), noise_levels.landing(noise, final)]


@sampler(SUBSEQUENCE, choose_distilled_levels, start="zero", rederives=False)
def lcm(levels: Sequence[Level], noise: NoiseSchedule, *, timestep_scaling: Positive = 10.0) -> list[Row]:
    """Latent consistency models (Luo et al. 2023, algorithm 3): the consistency function, then noise of the next level.

    f = c_skip x + c_out x̂0 with c_skip = σ_d²/(τ² + σ_d²), c_out = τ/√(τ² + σ_d²), σ_d = ½ and τ = timestep_scaling · t
    (appendix D); then x′ = α′f + σ′z.

    timestep_scaling: factor of t in the consistency function's c_skip and c_out. original_steps: number of timesteps in
    the model's distillation. spacing: by default evenly by index among those.
    """
    rows = []
    for a, b in pairwise(levels):
        squared = (timestep_scaling * a.t) ** 2 + SIGMA_DATA**2
        f = SIGMA_DATA**2 / squared * X + timestep_scaling * a.t / math.sqrt(squared) * X0
        std = b.sigma if b.t > noise.first else 0.0  # a landing at ᾱ_0 draws no noise
        rows.append(Row(a, b.alpha * f + std * NOISE, score_gain=std**2))
    return rows


@sampler(SUBSEQUENCE, choose_distilled_levels, start="zero", final="first")
def tcd(levels: Sequence[Level], noise: NoiseSchedule, *, eta: Eta = 0.3) -> list[Row]:
    """Trajectory consistency distillation (Zheng et al. 2024, algorithm 4): DDIM to below the next level, then noise.

    A DDIM step goes to s = ⌊(1 − γ)t′⌋, below the next time t′, then noise leads up to t′. A landing, at σ = 0 or ᾱ_0,
    is a step of DDIM. The s of a flow is not rounded.

    eta: the paper's γ, from 0 (DDIM) to 1 (multistep consistency sampling). original_steps: number of timesteps in the
    model's distillation. spacing: by default evenly by index among those.
    """
    rows = []
    for a, b in pairwise(levels):
        below = (1 - eta) * b.t
        s = noise.at(below if noise.form == "flow" else math.floor(below)) if b.t > noise.first else b
        up = b.alpha / s.alpha
        variance = max(transition_variance(b, s), 0.0) if eta > 0 else 0.0
        x = up * (s.alpha * X0 + s.sigma * EPS) + math.sqrt(variance) * NOISE
        rows.append(Row(a, x, score_gain=variance))
    return rows


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
