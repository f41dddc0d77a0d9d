"""Samplers: each node computes a table, once, that scheduler.step applies row by row.

All settings that several samplers share:
steps: steps of the solver; some take several model calls, and rows, for each. spacing: which timesteps (Lin et al.
2023, table 2), by default as the sampler's reference implementation has it. offset: added to leading timesteps.
final: ᾱ after the last step, 1 or ᾱ_0. sigmas: levels of σ/α as the schedule has them at those timesteps, or spaced
as Karras et al. (2022) do, or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile
of dynamic thresholding (Saharia et al. 2022). rederive_eps: ε follows the clipped x̂0. strength: only this last part
of the steps, rounded down but at least one, for a start from a picture (scheduler.add_noise). eta: how much of DDPM's
noise a step adds, where the sampler has a choice; the others take only the value that they have anyway, so that one can
stand in for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, Le

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.tables import ancestral, dpm, multistep, ratio
from guidegraph.nodes.tables import unipc as uni
from guidegraph.nodes.tables.ancestral import Variance
from guidegraph.nodes.tables.grid import LAMBDA, RATIO, SUBSEQUENCE, Final, Noise, Sigmas, Spacing, levels
from guidegraph.nodes.tables.rows import K, Row, stack
from guidegraph.nodes.tables.settings import AncestralEta, Clip, Eta, Fraction, NoEta, Offset, Steps
from guidegraph.nodes.types import Schedule, Scheduler, SchedulerState, Timesteps


class Sampler(NamedTuple):
    scheduler: Scheduler
    steps: Timesteps
    state: SchedulerState


@node("scheduler.ddpm")
def ddpm(
    schedule: Schedule,
    *,
    steps: Steps | None = None,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: AncestralEta = 1.0,
    variance: Variance = "fixed_small",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """Ancestral sampling (Ho et al. 2020), by default at every timestep; variance: β̃, β, or learned between the two."""
    count = steps or schedule.train_steps
    visited = levels(_noise(schedule), SUBSEQUENCE, count, spacing, offset, final, sigmas, strength)
    return _sampler(ancestral.ddpm(visited, variance), clip, threshold, learned=variance == "learned")


@node("scheduler.ddim")
def ddim(
    schedule: Schedule,
    *,
    steps: Steps = 50,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DDIM (Song et al. 2021): deterministic at eta 0, as random as DDPM at eta 1."""
    visited = levels(_noise(schedule), SUBSEQUENCE, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ancestral.ddim(visited, eta), clip, threshold, rederive_eps)


@node("scheduler.pndm")
def pndm(
    schedule: Schedule,
    *,
    steps: Steps = 50,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    warmup: Literal["plms", "runge_kutta"] = "plms",
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """PNDM (Liu et al. 2022): PLMS, or Runge-Kutta for the first three steps (four calls each) and PLMS after it."""
    noise = _noise(schedule)
    visited = levels(noise, SUBSEQUENCE, steps, spacing, offset, final, sigmas, strength)
    rows = multistep.plms(visited) if warmup == "plms" else multistep.runge_kutta(visited, noise.at)
    return _sampler(rows, clip, threshold, rederive_eps)


@node("scheduler.euler")
def euler(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    visited = levels(_noise(schedule), RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.euler(visited), clip, threshold, rederive_eps)


@node("scheduler.euler_ancestral")
def euler_ancestral(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method with fresh noise at every step; eta scales that noise."""
    visited = levels(_noise(schedule), RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.euler_ancestral(visited, eta), clip, threshold, rederive_eps)


@node("scheduler.heun")
def heun(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Heun's method, of second order (Karras et al. 2022): 2·steps − 1 calls."""
    visited = levels(_noise(schedule), RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.heun(visited), clip, threshold, rederive_eps)


@node("scheduler.dpm2")
def dpm2(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver-2 (Lu et al. 2022) in x/α, of second order: 2·steps − 1 calls."""
    noise = _noise(schedule)
    visited = levels(noise, RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.dpm2(visited, noise.at_ratio), clip, threshold, rederive_eps)


@node("scheduler.lms")
def lms(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(4)] = 4,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Linear multistep in x/α, of order up to 4: one call a step."""
    visited = levels(_noise(schedule), RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.lms(visited, order), clip, threshold, rederive_eps)


@node("scheduler.dpmpp_2m")
def dpmpp_2m(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022): multistep, of second order, one call a step."""
    visited = levels(_noise(schedule), LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return _sampler(dpm.dpmpp_2m(visited), clip, threshold)


@node("scheduler.dpmpp_2m_sde")
def dpmpp_2m_sde(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022): fresh noise at every step."""
    visited = levels(_noise(schedule), LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return _sampler(dpm.dpmpp_2m(visited, stochastic=True), clip, threshold)


@node("scheduler.dpmpp_2s")
def dpmpp_2s(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2S) (Lu et al. 2022): pairs of steps of second order, one call a step."""
    visited = levels(_noise(schedule), LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return _sampler(dpm.dpmpp_2s(visited), clip, threshold)


@node("scheduler.dpmpp_sde")
def dpmpp_sde(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++ (SDE) as in k-diffusion: 2·steps − 1 calls, with noise at each; eta scales the noise."""
    noise = _noise(schedule)
    visited = levels(noise, RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(dpm.dpmpp_sde(visited, noise.at_ratio, eta), clip, threshold)


@node("scheduler.unipc")
def unipc(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(3)] = 2,
    variant: uni.B = "bh2",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """UniPC (Zhao et al. 2023) of x̂0: predictor and corrector of the same order, one call a step."""
    visited = levels(_noise(schedule), LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return _sampler(uni.unipc(visited, order, variant), clip, threshold)


@node("scheduler.deis")
def deis(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(3)] = 3,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step."""
    visited = levels(_noise(schedule), LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.deis(visited, order), clip, threshold, rederive_eps)


@node("scheduler.edm")
def edm(
    schedule: Schedule,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "karras",
    churn: Annotated[float, Ge(0)] = 0.0,
    s_min: Annotated[float, Ge(0)] = 0.0,
    s_max: Annotated[float, Gt(0)] = math.inf,
    s_noise: Annotated[float, Gt(0)] = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): 2·steps − 1 calls; churn 0 is Heun's method.

    churn: S_churn; s_min, s_max: the σ/α between which noise is added; s_noise: S_noise.
    """
    noise = _noise(schedule)
    visited = levels(noise, RATIO, steps, spacing, offset, final, sigmas, strength)
    return _sampler(ratio.edm(visited, noise.at_ratio, churn, s_min, s_max, s_noise), clip, threshold, rederive_eps)


def _noise(schedule: Schedule) -> Noise:
    return Noise.of(schedule.alphas_bar.double().cpu().numpy())


def _sampler(
    rows: Sequence[Row],
    clip: bool | float,
    threshold: float | None,
    rederive_eps: bool = True,
    learned: bool = False,
) -> Sampler:
    import torch

    table = stack(rows)
    device = current_device()
    columns = {name: torch.from_numpy(column).to(device) for name, column in table._asdict().items()}
    scheduler = Scheduler(
        **columns,
        clip=(1.0 if clip else None) if isinstance(clip, bool) else float(clip),
        threshold=threshold,
        rederive_eps=rederive_eps,
        learned=learned,
        reads_eps=bool(table.matrix[:, :, 2].any()),
        reads_noise=bool(table.matrix[:, :, 3].any()),
        reads_score=bool(table.score_gain.any()),
        zero_snr=bool((table.alpha == 0).any()),
    )
    state = SchedulerState(torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(K, device=device))
    return Sampler(scheduler, scheduler.t.float(), state)
