"""Each sampler on a flow schedule against diffusers, in float64, on the same σ, with the closed-form u."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import diffusers

from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from tests.nodes.sampling.flow_parity import LATENT, MU, cases, flow_schedule
from tests.nodes.sampling.parity import Case

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_a_sampler_is_that_of_diffusers_on_the_same_sigma(case: Case) -> None:
    difference = case.compare()
    assert difference.grid <= case.tolerance
    assert difference.sample < 1e-5


def test_the_dynamic_shift_is_that_of_flux() -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    for side in (32, 64, 128, 160):
        shift = schedules.flow_shift(schedules.flow(), torch.zeros(1, 16, side, side // 2 * 2)).shift
        assert shift == pytest.approx(np.exp(calculate_shift((side // 2) ** 2)), rel=1e-12)
    assert flow_schedule(None).shift == pytest.approx(np.exp(MU), rel=1e-12)
    assert schedules.flow_shift(schedules.flow(shift=3), torch.zeros(LATENT), patch=1).train_steps == 1000


def sigmas_of(levels: Any) -> np.ndarray[Any, Any]:
    ratio = levels.ratio[:-1].numpy()
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(ratio), 1.0, ratio / (1 + ratio))


@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
def test_flow_sigmas_are_those_of_each_family(shift: float, steps: int) -> None:
    schedule = schedules.flow(shift=shift)
    for solver, names in {
        "dpm_solver": ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"],
        "unipc": ["UniPCMultistepScheduler"],
    }.items():
        ours = sigmas_of(grids.flow_sigmas(schedule, steps=steps, solver=solver))
        for name in names:
            reference = getattr(diffusers, name)(use_flow_sigmas=True, flow_shift=shift)
            reference.set_timesteps(steps)
            np.testing.assert_allclose(ours, reference.sigmas[:-1].numpy(), atol=1.2e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_terminal_stretches_the_levels_as_in_diffusers(shift: float) -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, shift_terminal=0.02)
    reference.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8).tolist())
    ours = grids.flow(schedules.flow(shift=shift), steps=8, terminal=0.02)
    np.testing.assert_allclose(sigmas_of(ours), reference.sigmas[:-1].numpy(), atol=1e-6)
    assert sigmas_of(ours)[-1] == pytest.approx(0.02, abs=1e-7)


def test_the_default_levels_of_a_flow_are_those_of_flux() -> None:
    from guidegraph.nodes.sampling import scheduler as samplers

    schedule = schedules.flow(shift=3)
    expected = grids.flow(schedule, steps=20).t[:-1].float()
    for name in ("dpmpp_2m", "unipc"):
        torch.testing.assert_close(getattr(samplers, name)(schedule, steps=20).steps, expected)
    torch.testing.assert_close(samplers.euler(schedule, steps=20, spacing="trailing").steps, expected)
    torch.testing.assert_close(samplers.ddim(schedule, steps=20).steps, expected)


def test_spaced_sigma_of_a_flow_is_that_of_k_diffusion() -> None:
    from tests.nodes.sampling import k_diffusion

    schedule, table = schedules.flow(), np.arange(1, 1001) / 1000
    for ours, theirs in (
        (grids.karras(schedule, steps=9), k_diffusion.karras(table, 9, 7.0)),
        (grids.exponential(schedule, steps=9), k_diffusion.exponential(table, 9)),
        (grids.polyexponential(schedule, steps=9, rho=2.0), k_diffusion.polyexponential(table, 9, 2.0)),
        (grids.kl_optimal(schedule, steps=9), k_diffusion.kl_optimal(table, 9)),
    ):
        np.testing.assert_allclose(sigmas_of(ours), theirs, rtol=2e-6)
