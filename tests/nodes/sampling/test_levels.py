"""Levels: each grid compared with an independent formula, and samplers that use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules
from scipy.stats import beta as beta_distribution

from guidegraph import WorkflowError, load_workflow
from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.nodes.models.model_nodes import load_model, read_schedule, save_model
from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.training.timesteps import uniform_timesteps
from guidegraph.nodes.types import Levels, Schedule
from guidegraph_runtime.tables.noise_levels import beta_quantile
from tests.nodes.sampling import k_diffusion
from tests.nodes.sampling.closed_form import normal, ode_solution, sample, scaled_linear

SAMPLERS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(samplers).items() if hasattr(value, SPEC_ATTRIBUTE)
}


def sigmas_of(schedule: Schedule) -> np.ndarray[Any, Any]:
    bar = schedule.alphas_bar.numpy()
    return np.sqrt((1 - bar) / bar)


def assert_ratios(levels: Levels, expected: np.ndarray[Any, Any]) -> None:
    """Check σ/α of the visited levels, to 1e-6 because timesteps are rounded to float32."""
    np.testing.assert_allclose(levels.ratio[:-1].numpy(), expected, rtol=1e-6)
    assert (levels.t[-1].item(), levels.ratio[-1].item()) == (-1, 0)


# k-diffusion's and ComfyUI's grids, stated from their definitions

SIGMAS = sigmas_of(scaled_linear())


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
@pytest.mark.parametrize("rho", [7.0, 3.0])
def test_karras(steps: int, rho: float) -> None:
    assert_ratios(grids.karras(scaled_linear(), steps=steps, rho=rho), k_diffusion.karras(SIGMAS, steps, rho))


@pytest.mark.parametrize("steps", [2, 10, 31])
def test_exponential_is_even_in_lambda(steps: int) -> None:
    assert_ratios(grids.exponential(scaled_linear(), steps=steps), k_diffusion.exponential(SIGMAS, steps))


def test_exponential_is_lu_et_als_spacing() -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_lu_lambdas=True
    )
    theirs.set_timesteps(12)
    ours = grids.exponential(scaled_linear(), steps=12)
    np.testing.assert_allclose(ours.ratio[:-1].numpy(), theirs.sigmas[:-1].numpy(), rtol=2e-5)  # theirs are float32


@pytest.mark.parametrize("rho", [0.7, 1.0, 2.0])
def test_polyexponential(rho: float) -> None:
    expected = k_diffusion.polyexponential(SIGMAS, 10, rho)
    assert_ratios(grids.polyexponential(scaled_linear(), steps=10, rho=rho), expected)


def test_kl_optimal() -> None:
    assert_ratios(grids.kl_optimal(scaled_linear(), steps=10), k_diffusion.kl_optimal(SIGMAS, 10))


@pytest.mark.parametrize("steps", [1, 7, 10, 30])
def test_comfyuis_normal_and_sgm_uniform(steps: int) -> None:
    schedule = scaled_linear()
    assert_ratios(grids.linspace(schedule, steps=steps), k_diffusion.normal(SIGMAS, steps))
    assert_ratios(grids.sgm_uniform(schedule, steps=steps), k_diffusion.sgm_uniform(SIGMAS, steps))


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 1000])
def test_comfyuis_simple(steps: int) -> None:
    assert_ratios(grids.simple(scaled_linear(), steps=steps), k_diffusion.simple(SIGMAS, steps))


@pytest.mark.parametrize("steps", [5, 20, 600])
def test_comfyuis_beta(steps: int) -> None:
    assert_ratios(grids.beta(scaled_linear(), steps=steps), k_diffusion.beta(SIGMAS, steps))


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1, 1), (0.3, 2), (20, 30)])
def test_quantiles_of_beta_are_scipys(a: float, b: float) -> None:
    p = np.linspace(0, 1, 41)
    ours = [beta_quantile(float(share), a, b) for share in p]
    np.testing.assert_allclose(ours, beta_distribution.ppf(p, a, b), atol=1e-13)


def test_ten_aligned_steps_are_those_published_and_others_lie_between() -> None:
    schedule = scaled_linear()
    ten = grids.ays(schedule, steps=10)
    np.testing.assert_allclose(ten.ratio[:-1].numpy(), AysSchedules["StableDiffusionSigmas"][:-1], rtol=4e-3)
    assert ten.t[:-1].round().tolist() == pytest.approx(AysSchedules["StableDiffusionTimesteps"], abs=1)
    twenty = grids.ays(schedule, steps=20)
    torch.testing.assert_close(twenty.ratio[:-1:2], ten.ratio[:-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        twenty.ratio[1:-2:2].log(), (ten.ratio[:-2].log() + ten.ratio[1:-1].log()) / 2, atol=1e-6, rtol=0
    )


# today's settings are a shorthand for levels

SHORTHAND = [
    ("ddim", {"spacing": "leading", "offset": 1}, lambda s: grids.leading(s, steps=12, offset=1)),
    ("ddim", {"spacing": "trailing", "final": "first"}, lambda s: grids.trailing(s, steps=12, final="first")),
    ("ddpm", {"spacing": "linspace"}, lambda s: grids.linspace(s, steps=12, whole_times=True)),
    ("euler", {}, lambda s: grids.linspace(s, steps=12)),
    ("heun", {"sigmas": "karras"}, lambda s: grids.karras(s, steps=12)),
    ("dpmpp_2m", {}, lambda s: grids.linspace(s, steps=12, whole_times=True, lands=True)),
    ("unipc", {"sigmas": "exponential"}, lambda s: grids.exponential(s, steps=12)),
    ("euler_ancestral", {"strength": 0.5}, lambda s: grids.start(grids.linspace(s, steps=12), strength=0.5)),
]


@pytest.mark.parametrize(("name", "settings", "levels"), SHORTHAND, ids=[f"{n}-{s}" for n, s, _ in SHORTHAND])
def test_settings_are_shorthand_for_levels(name: str, settings: dict[str, Any], levels: Callable[..., Levels]) -> None:
    schedule = scaled_linear()
    short = SAMPLERS[name](schedule, steps=12, **settings)
    wired = SAMPLERS[name](schedule, levels(schedule))
    assert torch.equal(short.scheduler.matrix, wired.scheduler.matrix)
    assert torch.equal(short.steps, wired.steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_levels_and_follows_them(name: str) -> None:
    schedule = scaled_linear()
    levels = grids.timesteps(schedule, timesteps=[990, 801.5, 610, 400, 300, 150, 60, 5])
    table = SAMPLERS[name](schedule, levels).scheduler
    assert set(levels.t[:-1].tolist()) <= set(table.t.tolist())
    assert table.t[0].item() == 990


def test_wired_levels_with_a_conflicting_setting_are_refused() -> None:
    schedule, levels = scaled_linear(), grids.karras(scaled_linear(), steps=9)
    for settings in ({"spacing": "trailing"}, {"strength": 0.5}, {"sigmas": "karras"}, {"steps": 12}, {"offset": 1}):
        with pytest.raises(ValueError, match=rf"levels are wired, so its setting {next(iter(settings))}"):
            samplers.euler(schedule, levels, **settings)  # type: ignore[arg-type]
    assert len(samplers.euler(schedule, levels, steps=9).steps) == 9


# levels of one's own


def test_custom_timesteps_and_sigmas() -> None:
    schedule = scaled_linear()
    listed = grids.timesteps(schedule, timesteps=[900, 350.5, 10])
    assert listed.t.tolist() == [900, 350.5, 10, -1]
    np.testing.assert_allclose(listed.ratio[:-1], k_diffusion.at_times(SIGMAS, np.array([900, 350.5, 10])), rtol=1e-12)
    assert grids.timesteps(schedule, timesteps=[900, 10], final="listed").t.tolist() == [900, 10]
    exact = grids.sigmas(schedule, sigmas=[80.0, 3.0, 0.5, 0])
    assert exact.ratio.tolist() == [80, 3, 0.5, 0]  # beyond the schedule too
    assert exact.t[0].item() == 999
    scheduler = samplers.euler(schedule, exact).scheduler
    torch.testing.assert_close(scheduler.sigma / scheduler.alpha, exact.ratio[:-1], rtol=1e-12, atol=0)
    assert grids.sigmas(schedule, sigmas=[5, 1]).ratio.tolist() == [5, 1, 0]


def test_the_second_half_of_a_split_continues_the_first() -> None:
    schedule = scaled_linear()
    levels = grids.karras(schedule, steps=10)
    before, after = grids.split(levels, at=4)
    x = normal(1, 64)
    halfway = sample(samplers.euler(schedule, before), x)
    torch.testing.assert_close(
        sample(samplers.euler(schedule, after), halfway),
        sample(samplers.euler(schedule, levels), x),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("steps", "message"), [(1, "a single step cannot be split: ask for two"), (4, "from 1 to 3 of 4, .* found 4")]
)
def test_levels_without_steps_for_both_halves_are_not_split(steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.split(grids.karras(scaled_linear(), steps=steps), at=4)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpm2", "dpmpp_2m"])
def test_reversed_levels_go_from_the_data_to_the_noise(name: str) -> None:
    schedule = scaled_linear()
    rising = grids.reverse(grids.karras(schedule, steps=200), schedule)
    assert rising.t[[0, -1]].tolist() == [0, 999]
    start, end = (schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64)) for t in (0.0, 999.0))
    x = normal(1, 16) * 0.5 + 0.2
    noised = sample(SAMPLERS[name](schedule, rising), x)
    torch.testing.assert_close(noised, ode_solution(x, start, end), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral", "dpmpp_2m_sde", "unipc", "pndm"])
def test_other_samplers_refuse_rising_levels(name: str) -> None:
    schedule = scaled_linear()
    with pytest.raises(
        ValueError, match=r"from the data to the noise, which this solver cannot: use one of .*: ddim, .*heun"
    ):
        SAMPLERS[name](schedule, grids.reverse(grids.trailing(schedule, steps=8), schedule))


def test_whole_timesteps_are_distinct() -> None:
    schedule = scaled_linear()
    levels = grids.whole(grids.timesteps(schedule, timesteps=[700.4, 300.2, 2.4, 1.8, 0.3]), schedule)
    assert levels.t.tolist() == [700, 300, 2, 0, -1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: grids.timesteps(s, timesteps=[10, 20, 15]), "fall, or rise, from one to the next"),
        (
            lambda s: grids.timesteps(s, timesteps=[1000]),
            r"timesteps\[0\]: expected a number of at least 0 and at most 999",
        ),
        (lambda s: grids.sigmas(s, sigmas=[3, 0, 0]), "0 at the landing alone"),
        (lambda s: grids.karras(s, sigma_max=1, sigma_min=2), "sigma_min 2 must be below sigma_max 1"),
        (lambda s: grids.split(grids.karras(s, steps=4), at=4), "from 1 to 3 of 4"),
        (lambda s: grids.leading(s, steps=1001), "1001 steps do not fit"),
    ],
)
def test_invalid_levels_are_refused(build: Callable[[Schedule], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(scaled_linear())


def test_a_table_of_levels() -> None:
    table = grids.levels_table(grids.timesteps(scaled_linear(), timesteps=[500]))
    assert (table["level"], table["t"]) == ((0, 1), (500, -1))
    assert table["alpha"][0] ** 2 + table["sigma"][0] ** 2 == pytest.approx(1)
    assert (table["alpha"][1], table["sigma"][1], table["sigma/alpha"][1]) == (1, 0, 0)


# what a schedule's model knows

DEFAULTS: list[dict[str, Any]] = [
    {"steps": 10},
    {"steps": 30},
    {"steps": 7, "sigmas": "karras"},
    {"steps": 100, "spacing": "trailing"},
]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("settings", DEFAULTS, ids=str)
def test_default_levels_of_every_sampler_lie_within_the_trained_range(name: str, settings: dict[str, Any]) -> None:
    schedule = replace(schedules.cosine(), trained_from=3.0, trained_to=957.0)
    if "sigmas" in settings and "sigmas" not in getattr(SAMPLERS[name], SPEC_ATTRIBUTE).settings:
        pytest.skip("it has no such setting")
    t = SAMPLERS[name](schedule, **settings).scheduler.t
    assert 3 <= t.min().item() <= t.max().item() <= 957


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_starts_without_signal_unless_its_levels_do(name: str) -> None:
    for schedule in (schedules.cosine(), replace(schedules.zero_terminal_snr(scaled_linear()), trained_to=None)):
        start = SAMPLERS[name](schedule, steps=10).scheduler
        assert start.sigma[0].item() / start.alpha[0].item() <= 20
    sampler = SAMPLERS[name](
        schedules.cosine(), grids.timesteps(schedules.cosine(), timesteps=[998, 900, 500, 100, 10])
    )
    assert sampler.scheduler.t[0].item() == 998


def test_a_schedule_that_ends_with_signal_is_used_to_its_end() -> None:
    for schedule in (schedules.linear(), scaled_linear()):
        assert schedule.known[1] == 999
    assert len(samplers.ddpm(schedules.linear()).steps) == 1000


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("train_steps", [4, 6, 10])
def test_a_stated_range_of_few_steep_levels_is_kept(name: str, train_steps: int) -> None:
    """Each level is more than twice the one before, as in the last step of a schedule that ends in pure noise."""
    schedule = schedules.edm(train_steps=train_steps, sigmas="exponential")
    start = SAMPLERS[name](schedule, steps=3, spacing="trailing").scheduler
    assert start.sigma[0].item() / start.alpha[0].item() == pytest.approx(80, rel=1e-5)
    ratios = [0.1, 0.5, 2.0, 9.0, 45.0]
    own = replace(schedule, alphas_bar=torch.tensor([1 / (1 + r**2) for r in ratios]).double(), trained_to=4.0)
    assert grids.karras(own, steps=3).ratio[0].item() == pytest.approx(45, rel=1e-5)


@pytest.mark.parametrize("steps", [2, 4, 20])
def test_the_level_before_the_end_can_be_left_out_as_in_comfyui(steps: int) -> None:
    for schedule in (scaled_linear(), schedules.flow(shift=3.0)):
        more = grids.linspace(schedule, steps=steps + 1)
        ours = grids.drop_penultimate(more)
        assert ours.ratio.tolist() == [*more.ratio.tolist()[:-2], 0.0]
        assert ours.t.tolist() == [*more.t.tolist()[:-2], -1.0]
    with pytest.raises(ValueError, match="a single step have none before the end"):
        grids.drop_penultimate(grids.linspace(scaled_linear(), steps=1))


def test_trained_sets_the_range_of_timesteps_of_a_model() -> None:
    narrowed = schedules.trained(schedules.cosine(), first=10, last=900)
    assert (narrowed.trained_from, narrowed.trained_to) == (10, 900)
    assert samplers.euler(narrowed, steps=3).steps.tolist() == [900, 455, 10]
    assert len(samplers.ddpm(narrowed).steps) == 891
    unbounded = schedules.trained(schedules.cosine())
    assert samplers.ddim(unbounded, steps=5, spacing="trailing").steps[0].item() == 999
    with pytest.raises(ValueError, match="first 900 must be below last 10"):
        schedules.trained(schedules.cosine(), first=900, last=10)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("first", "last"), [(0, 199), (800, 999), (3.25, 957.75), (300, 700)])
def test_a_model_trained_on_part_of_the_schedule_is_sampled_there(name: str, first: float, last: float) -> None:
    schedule = schedules.trained(scaled_linear(), first=first, last=last)
    for settings in ({"steps": 4}, {"steps": 5, "spacing": "trailing"}, {"steps": 4, "spacing": "linspace"}):
        t = SAMPLERS[name](schedule, **settings).steps.double()
        assert first <= t.min().item() < t.max().item() <= last
        assert len(SAMPLERS[name](schedule, steps=2).steps) >= 2


def test_whole_timesteps_of_a_range_of_the_schedule() -> None:
    schedule = schedules.trained(schedules.cosine(), first=3.25, last=957.75)
    assert samplers.ddpm(schedule).steps.tolist() == list(range(957, 3, -1))
    for levels in (grids.simple(schedule, steps=7), grids.beta(schedule, steps=7)):
        assert torch.equal(levels.t, levels.t.round())
    with pytest.raises(ValueError, match="2000 steps do not fit into the 954 timesteps"):
        grids.simple(schedule, steps=2000)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_released_cosine_model_is_sampled_from_where_signal_is_left_but_by_ddpm_and_ddim(name: str) -> None:
    released = schedules.trained(schedules.cosine())
    start = SAMPLERS[name](released, steps=10, spacing="trailing").steps[0].item()
    assert start == 999 if name in ("ddpm", "ddim") else start <= 966


def test_solvers_that_need_signal_refuse_a_model_trained_only_on_noise() -> None:
    schedule = schedules.trained(schedules.cosine(), first=975, last=999)
    with pytest.raises(ValueError, match="knows the timesteps from 975 on, where no signal is left"):
        samplers.heun(schedule, steps=5)
    assert samplers.ddim(schedule, steps=2).steps.tolist()[0] > 975


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpm2", "dpm2_ancestral", "dpmpp_2s_ancestral", "edm"])
def test_levels_beyond_the_schedule_keep_their_inner_points_between_them(name: str) -> None:
    schedule = scaled_linear()
    settings = {"churn": 1.0} if name == "edm" else {}
    scheduler = SAMPLERS[name](schedule, grids.sigmas(schedule, sigmas=[80, 40, 20, 10, 1]), **settings).scheduler
    ratio = scheduler.sigma / scheduler.alpha
    assert ratio[0].item() == pytest.approx(80)
    inner = ratio[1].item()
    assert 40 - 1e-9 <= inner <= 80
    assert name == "edm" or (ratio[1:] <= ratio[:-1] * (1 + 1e-9)).all()


def test_reversed_levels_that_end_at_the_first_timestep_or_cannot_be_reversed() -> None:
    schedule = scaled_linear()
    rising = grids.reverse(grids.leading(schedule, steps=5, final="first"), schedule)
    assert rising.t.tolist() == [0, 200, 400, 600, 800]
    zero = schedules.zero_terminal_snr(schedule)
    with pytest.raises(ValueError, match="start at α = 0 have no way back"):
        grids.reverse(grids.trailing(zero, steps=5), zero)
    with pytest.raises(ValueError, match="one level has no other to go to"):
        grids.reverse(grids.leading(schedule, steps=1, final="first"), schedule)


def test_a_consistency_model_that_lands_at_the_first_timestep_adds_no_noise_there() -> None:
    gains = samplers.lcm(scaled_linear(), steps=4, final="first").scheduler.matrix[:, 0, 3]
    assert (gains[:-1] > 0).all()
    assert gains[-1].item() == 0


BESIDE = """
guidegraph: 1
nodes:
  schedule:  {use: schedule.scaled_linear}
  levels:    {use: levels.karras, in: {schedule: schedule}, with: {steps: 5}}
  scheduler: {use: scheduler.dpmpp_2m, in: {schedule: schedule, levels: levels}, with: {steps: 20}}
  rows:      {use: scheduler.table, in: {scheduler: scheduler.scheduler}}
outputs: {rows: rows}
"""


def test_a_setting_beside_wired_levels_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "beside.yaml").write_text(BESIDE, encoding="utf-8")
    with pytest.raises(WorkflowError, match=r"beside.yaml:6:\d+: unfit-port: .*setting 'steps': the levels are wired"):
        load_workflow(tmp_path / "beside.yaml")


def test_training_draws_timesteps_in_the_trained_range() -> None:
    schedule = schedules.trained(schedules.cosine(), first=100, last=900)
    t = uniform_timesteps(torch.zeros(801, 1, 1, 1), schedule)
    assert sorted(t.tolist()) == list(range(100, 901))


def test_a_grid_within_the_trained_range_does_not_change() -> None:
    schedule = replace(schedules.cosine(), trained_from=0.0, trained_to=957.0)
    assert samplers.ddim(schedule, steps=30).steps.tolist() == [33.0 * i for i in reversed(range(30))]


PLUGIN = '''
from guidegraph import Levels, Schedule, hookimpl, levels_at_timesteps, node

@node("quadratic.levels")
def quadratic(schedule: Schedule, *, steps: int = 20) -> Levels:
    """Timesteps even in their square root."""
    first, last = schedule.known
    return levels_at_timesteps(schedule, [first + (last - first) * (1 - i / steps) ** 2 for i in range(steps)])

@hookimpl
def guidegraph_nodes():
    return [quadratic]
'''

WORKFLOW = """
guidegraph: 1
nodes:
  schedule:  {use: schedule.scaled_linear}
  levels:    {use: quadratic.levels, in: {schedule: schedule}, with: {steps: 4}}
  scheduler: {use: scheduler.dpmpp_2m, in: {schedule: schedule, levels: levels}}
  rows:      {use: scheduler.table, in: {scheduler: scheduler.scheduler}}
outputs: {rows: rows}
"""


def test_a_plugins_levels_go_with_any_sampler(tmp_path: Path) -> None:
    (tmp_path / "quadratic.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "workflow.yaml").write_text(WORKFLOW, encoding="utf-8")
    plugin = str(tmp_path / "quadratic.py")
    rows = load_workflow(tmp_path / "workflow.yaml", plugins=[plugin]).run()["rows"]
    assert rows["t"] == pytest.approx([999, 561.9375, 249.75, 62.4375])


def test_a_saved_model_keeps_its_trained_range_of_timesteps(tmp_path: Path) -> None:
    saved = schedules.trained(schedules.cosine(), first=5, last=900)
    save_model(schedule=saved, path=tmp_path / "model")
    loaded = load_model(path=tmp_path / "model").schedule
    assert (loaded.trained_from, loaded.trained_to) == (5, 900)
    with pytest.raises(ValueError, match=r"part 'schedule' of .* cannot be loaded"):
        read_schedule(tmp_path / "model", {"kind": "cosine", "trained_to": "late"})
