"""Schedulers of diffusers as samplers: equal to diffusers' loops, immutable, with clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Prediction, Schedule
from guidegraph.graph.node import get_spec
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling import scheduler_step
from guidegraph_diffusers.schedulers import KNOWN, DiffusersSampler, new_sampler, start, step
from guidegraph_diffusers.schedules import read_schedule

diffusers = pytest.importorskip("diffusers")

# diffusers' own, of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SHAPE = (2, 3, 4, 4)
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
CASES: list[tuple[str, dict[str, Any], float]] = [
    ("DDIMScheduler", STABLE | {"clip_sample": False, "prediction_type": "v_prediction"}, 0.5),
    ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample", "rescale_betas_zero_snr": True}, 0.0),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}, 0.0),
    ("DEISMultistepScheduler", STABLE, 0.0),
    ("DPMSolverMultistepScheduler", STABLE | {"use_karras_sigmas": True}, 0.0),
    ("DPMSolverMultistepScheduler", STABLE | {"algorithm_type": "sde-dpmsolver++"}, 0.0),
    ("DPMSolverMultistepScheduler", FLOW, 0.0),
    ("DPMSolverSinglestepScheduler", STABLE, 0.0),
    ("EulerAncestralDiscreteScheduler", STABLE, 0.0),
    ("EulerDiscreteScheduler", STABLE | {"use_karras_sigmas": True, "prediction_type": "v_prediction"}, 0.0),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 0.0),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, 0.0),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, 0.0),
    ("HeunDiscreteScheduler", STABLE, 0.0),
    ("KDPM2AncestralDiscreteScheduler", STABLE, 0.0),
    ("KDPM2DiscreteScheduler", STABLE, 0.0),
    ("LCMScheduler", {}, 0.0),
    ("LMSDiscreteScheduler", STABLE, 0.0),
    ("PNDMScheduler", STABLE, 0.0),
    ("PNDMScheduler", STABLE | {"skip_prk_steps": True}, 0.0),
    ("SASolverScheduler", STABLE, 0.0),
    ("TCDScheduler", {}, 0.3),
    ("UniPCMultistepScheduler", STABLE, 0.0),
    ("UniPCMultistepScheduler", FLOW, 0.0),
]
NAMES = [f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)]
KINDS: dict[str, Any] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def network(x: torch.Tensor) -> torch.Tensor:
    """A smooth function that mixes pixels."""
    return torch.tanh(x.roll(1, -1) - 0.5 * x.roll(1, 1)) + 0.2 * x


def draw(i: int) -> tuple[torch.Generator, torch.Tensor]:
    """A generator, and the noise that it will give."""
    return torch.Generator().manual_seed(i), torch.randn(SHAPE, generator=torch.Generator().manual_seed(i))


def save(folder: Path, name: str, **config: Any) -> Path:
    getattr(diffusers, name)(**config).save_pretrained(str(folder))
    return folder


def flows(config: dict[str, Any], name: str) -> bool:
    return name.startswith("FlowMatch") or "flow_shift" in config


def predict(schedule: Schedule, x: torch.Tensor, t: torch.Tensor, kind: str) -> Prediction:
    """The prediction of a denoiser of the adapter around `network`."""
    if kind != "flow":
        return Prediction(network(x), kind)  # type: ignore[arg-type]
    alpha, sigma = schedule.along(x, t)
    s, flow = sigma / (alpha + sigma), x / (alpha + sigma)
    return Prediction(flow - s * network(flow), "x0")


@pytest.mark.parametrize(("name", "config", "eta"), CASES, ids=NAMES)
def test_a_run_equals_diffusers_own_loop(tmp_path: Path, name: str, config: dict[str, Any], eta: float) -> None:
    path = save(tmp_path, name, **config)
    scheduler = getattr(diffusers, name).from_pretrained(str(path))
    scheduler.set_timesteps(7)
    flow = flows(config, name)
    own = draw(1000)[1] * (1.0 if flow else scheduler.init_noise_sigma)
    for i, time in enumerate(scheduler.timesteps):
        seen = own if flow and not hasattr(scheduler, "scale_model_input") else scheduler.scale_model_input(own, time)
        kwargs: dict[str, Any] = {"eta": eta} if eta else {}
        if name not in ("DEISMultistepScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"):
            kwargs |= {} if name in NO_GENERATOR else {"generator": draw(i)[0]}
        own = scheduler.step(network(seen), time, own, **kwargs).prev_sample

    schedule = read_schedule(path=path)
    new = new_sampler(schedule, path=path, steps=7)
    assert len(new.steps) == len(scheduler.timesteps)
    sampler, x = new.sampler, start(new.sampler, draw(1000)[1])
    kind = "flow" if flow else KINDS[scheduler.config["prediction_type"]]
    for i in range(len(new.steps)):
        t = new.steps[i : i + 1]
        x, sampler = step(sampler, x, predict(schedule, x, t, kind), t, draw(i)[1], eta=eta)
    assert own.std() > 0.1
    torch.testing.assert_close(x, own, atol=1e-4, rtol=1e-4)


NO_GENERATOR = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler")


def test_every_known_scheduler_is_among_the_cases() -> None:
    assert {name for name, _, _ in CASES} == set(KNOWN)


@pytest.mark.parametrize(("name", "config", "eta"), CASES, ids=NAMES)
def test_a_sampler_is_not_changed_by_a_step(tmp_path: Path, name: str, config: dict[str, Any], eta: float) -> None:
    path = save(tmp_path, name, **config)
    schedule = read_schedule(path=path)
    sampler, times = new_sampler(schedule, path=path, steps=5)
    x = start(sampler, draw(0)[1])
    for i in range(3):
        prediction = predict(schedule, x, times[i : i + 1], "x0")
        first = step(sampler, x, prediction, times[i : i + 1], draw(i)[1], eta=eta)
        again = step(sampler, x, prediction, times[i : i + 1], draw(i)[1], eta=eta)
        torch.testing.assert_close(first.x, again.x, atol=0, rtol=0)
        assert (sampler.index, first.sampler.index) == (i, i + 1)
        x, sampler = first


@pytest.mark.parametrize(("name", "config", "eta"), CASES, ids=NAMES)
def test_a_step_computes_on_the_device_of_x(tmp_path: Path, name: str, config: dict[str, Any], eta: float) -> None:
    """The scheduler's tables stay on the CPU."""
    path = save(tmp_path, name, **config)
    sampler, times = new_sampler(read_schedule(path=path), path=path, steps=4)
    noise = torch.empty(SHAPE, device="meta")
    x = start(sampler, noise)
    for t in times.split(1):
        x, sampler = step(sampler, x, Prediction(noise, "x0"), t, noise, eta=eta)
    assert x.device == noise.device


@pytest.mark.parametrize(("name", "config", "eta"), CASES, ids=NAMES)
def test_a_start_has_the_shape_that_is_declared(tmp_path: Path, name: str, config: dict[str, Any], eta: float) -> None:
    path = save(tmp_path, name, **config)
    noise = draw(0)[1]
    x = start(new_sampler(read_schedule(path=path), path=path, steps=4).sampler, noise)
    declare_shape = get_spec(start).shape
    assert declare_shape is not None
    assert declare_shape(noise=noise) == x.shape


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_prediction_of_another_kind_is_converted(tmp_path: Path, name: str, kind: Any) -> None:
    path = save(tmp_path, name, **STABLE, **({"clip_sample": False} if name == "DDIMScheduler" else {}))
    schedule = read_schedule(path=path)
    sampler, times = new_sampler(schedule, path=path, steps=5, options={"timestep_spacing": "leading"})
    x, t = start(sampler, draw(0)[1]), times[:1]
    prediction = Prediction(network(x), "eps")
    expected = step(sampler, x, prediction, t).x
    actual = step(sampler, x, schedule.convert(prediction, kind, x, t), t).x
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_sampler_needs_only_a_class_name_and_a_schedule() -> None:
    schedule = schedules.cosine(train_steps=200)
    new = new_sampler(schedule, name="DDIMScheduler", steps=10)
    ours = samplers.ddim(schedule, steps=10)
    assert new.steps.tolist() == ours.steps.tolist()
    x = y = draw(3)[1]
    sampler, state = new.sampler, ours.state
    for t in new.steps.split(1):
        x, sampler = step(sampler, x, Prediction(network(x), "v"), t)
        y, state = scheduler_step.step(ours.scheduler, y, Prediction(network(y), "v"), state, t)
    torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_options_replace_entries_of_the_configuration(tmp_path: Path) -> None:
    path = save(tmp_path, "EulerDiscreteScheduler", **STABLE)
    schedule = read_schedule(path=path)
    actual = new_sampler(schedule, path=path, name="DPMSolverMultistepScheduler", options={"solver_order": 3}).sampler
    assert type(actual.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert actual.scheduler.config.solver_order == 3
    assert actual.scheduler.config.beta_end == 0.012


def test_a_learned_variance_reaches_ddpm(tmp_path: Path) -> None:
    path = save(tmp_path, "DDPMScheduler", variance_type="learned_range", clip_sample=False)
    schedule = read_schedule(path=path)
    sampler, times = new_sampler(schedule, path=path, steps=10)
    x, value, variance = draw(0)[1], draw(1)[1], draw(2)[1].clamp(-1, 1)
    actual = step(sampler, x, Prediction(value, "eps", variance), times[:1], draw(5)[1]).x
    scheduler = diffusers.DDPMScheduler.from_pretrained(str(path))
    scheduler.set_timesteps(10)
    output = torch.cat([value, variance], dim=1)
    expected = scheduler.step(output, scheduler.timesteps[0], x, generator=draw(5)[0]).prev_sample
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="variance is learned_range and the prediction has none"):
        step(sampler, x, Prediction(value, "eps"), times[:1], draw(5)[1])


BETAS = [
    {},
    STABLE,
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"trained_betas": [0.001, 0.01, 0.02, 0.3], "num_train_timesteps": 4},
    STABLE | {"rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("config", BETAS, ids=lambda c: str(c.get("beta_schedule", len(c))))
def test_a_schedule_of_betas_is_that_of_diffusers(tmp_path: Path, config: dict[str, Any]) -> None:
    path = save(tmp_path, "DDPMScheduler", **config)
    actual = read_schedule(path=path).alphas_bar
    assert actual.dtype == torch.float64
    expected = diffusers.DDPMScheduler.from_pretrained(str(path)).alphas_cumprod.double()
    torch.testing.assert_close(actual, expected, atol=2e-7, rtol=1e-4)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_schedule_of_flow_matching_has_its_levels(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, name, shift=3.0)
    schedule = read_schedule(path=path)
    alpha, sigma = schedule.alpha_sigma(torch.arange(1000.0))
    expected = getattr(diffusers, name).from_pretrained(str(path)).sigmas.flip(0)
    torch.testing.assert_close(sigma / (alpha + sigma), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000))


def test_a_shift_by_size_needs_the_size(tmp_path: Path) -> None:
    path = save(tmp_path, "FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    with pytest.raises(ValueError, match="depends on the picture's size: wire the noise to port 'like'"):
        read_schedule(path=path)
    small, large = (read_schedule(torch.zeros(1, 4, side, side), path=path).alphas_bar for side in (8, 128))
    assert bool((large[:-1] < small[:-1]).all())


def test_problems_of_a_sampler_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "euler", "EulerAncestralDiscreteScheduler", **STABLE)
    schedule = read_schedule(path=path)
    sampler, times = new_sampler(schedule, path=path, steps=1)
    x = start(sampler, draw(0)[1])
    with pytest.raises(ValueError, match="draws noise at its steps and port 'noise' has none"):
        step(sampler, x, Prediction(x, "eps"), times)
    ended: DiffusersSampler = step(sampler, x, Prediction(x, "eps"), times, draw(0)[1]).sampler
    with pytest.raises(ValueError, match="has 1 steps and no step 1"):
        step(ended, x, Prediction(x, "eps"), times, draw(0)[1])
    with pytest.raises(ValueError, match=r"give `path`, a folder with a scheduler_config.json, or `name`"):
        new_sampler(schedule)
    with pytest.raises(ValueError, match=r"'EDMEulerScheduler', no scheduler that this adapter knows; it knows DDIM"):
        new_sampler(schedule, name="EDMEulerScheduler")
    with pytest.raises(ValueError, match="has no option karras; it has beta_end"):
        new_sampler(schedule, path=path, options={"karras": True})
    with pytest.raises(ValueError, match=r"the schedule is not that of the scheduler in '.*euler'"):
        new_sampler(schedules.cosine(), path=path)
    sources: list[dict[str, Any]] = [{"name": "FlowMatchEulerDiscreteScheduler"}, {"path": path}]
    for options in sources:
        with pytest.raises(ValueError, match=r"flow, .* keeps x variance-preserving: wire diffusers\.schedule, or"):
            new_sampler(schedules.flow(), **options)
    with pytest.raises(ValueError, match="2000 steps do not fit a DDIMScheduler"):
        new_sampler(schedule, name="DDIMScheduler", steps=2000)
    with pytest.raises(ValueError, match="no timesteps on a schedule"):
        new_sampler(schedule, name="EulerDiscreteScheduler", options={"timestep_type": "continuous"})


def test_problems_of_a_scheduler_folder_are_named(tmp_path: Path) -> None:
    def folder(config: object) -> Path:
        (tmp_path / "scheduler_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return tmp_path

    with pytest.raises(ValueError, match=r"'.*nowhere' is not a folder"):
        read_schedule(path=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no part 'scheduler' with a scheduler_config.json; it has nothing"):
        read_schedule(path=tmp_path)
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_schedule(path=folder("{"))
    with pytest.raises(ValueError, match="must hold a JSON object; found list"):
        read_schedule(path=folder([1]))
    with pytest.raises(ValueError, match="names no scheduler of diffusers: 'os'"):
        read_schedule(path=folder({"_class_name": "os"}))
    with pytest.raises(ValueError, match="has the beta_schedule 'laplace'; known are linear"):
        read_schedule(path=folder({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}))
    with pytest.raises(ValueError, match=r"an? EDMEulerScheduler, has neither a β schedule nor flow matching"):
        read_schedule(path=folder({"_class_name": "EDMEulerScheduler"}))
    one_step = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1, "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match=r"takes noise that grows with t; found ᾱ from 0\.9999 to 0\.9999 in 1 steps"):
        read_schedule(path=folder(one_step))
