"""scheduler.of_checkpoint against each scheduler class of diffusers on the configs of released models.

Both run the network of Gaussian data in closed form at the timestep that they name, from the same noise.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.diffusers.samplers import CLASSES, read_recipe
from guidegraph.nodes.checkpoints.diffusers.schedule import read_scheduler
from guidegraph.nodes.derive import to_runtime
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_of_checkpoint import of_checkpoint
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Prediction, Schedule
from guidegraph_runtime.tables.noise_levels import parse_schedule
from plugins.families.tests.diffusers.released_schedulers import FLOWS, LATENT, STABLE, VARIANCE_PRESERVING
from tests.nodes.sampling.closed_form import network, normal

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("scipy")

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
NOISES = [normal(1, 1, 8, 8, seed=i + 1).float().double() for i in range(80)]
ON_NOISE = [name for name in CLASSES if not name.startswith("FlowMatch")]
NEARBY = 1e-3


def write_folder(folder: Path, config: Any, pipeline: str | None = None) -> Path:
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    if pipeline is not None:
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder


def predict(schedule: Schedule, x: Tensor, t: Any, kind: str) -> Tensor:
    alpha, sigma = (value.double() for value in schedule.alpha_sigma(torch.as_tensor(float(t)).reshape(1).double()))
    value: Tensor = network(x, alpha, sigma, kind).value
    return value


def our_sample(made: Sampler, schedule: Schedule, x: Tensor, kind: Any) -> Tensor:
    noises, state = iter(NOISES), made.state
    reads = (made.scheduler.matrix[:, :, 3] != 0).any(1)
    for t, reads_noise in zip(made.steps.split(1), reads, strict=True):
        noise = next(noises) if reads_noise else torch.zeros_like(x)
        x, state = step(made.scheduler, x, Prediction(predict(schedule, x, t, kind), kind), state, t, noise=noise)
    return x


def load_class(name: str) -> Any:
    if name != "DPMSolverSDEScheduler":
        return getattr(diffusers, name)
    with patch.dict(sys.modules, {"torchsde": ModuleType("torchsde")}):
        from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler
    return DPMSolverSDEScheduler


def brownian(noises: Iterator[Tensor]) -> Any:
    """(W(end) − W(start))/√|end − start| of one path, the second half of an interval drawn on first use."""
    parts: dict[float, tuple[Tensor, float]] = {}

    def draw(start: Any, end: Any) -> Tensor:
        start, end = float(start), float(end)
        if start not in parts:
            parts[start] = (next(noises) * math.sqrt(start - end), end)
            return parts[start][0] / math.sqrt(start - end)
        total, middle = parts.pop(start)
        return (total + next(noises) * math.sqrt(middle - end)) / math.sqrt(start - end)

    return draw


def their_sample(scheduler: Any, schedule: Schedule, x: Tensor, kind: str, begin: int = 0) -> Tensor:
    """Their loop. Classes that step in σ/α have the state x/α."""
    queue = iter(NOISES)
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    is_scaled = "scale_model_input" in vars(type(scheduler)) and float(scheduler.init_noise_sigma) != 1
    if is_scaled:
        x = x * math.sqrt(1 + float(scheduler.sigmas[begin]) ** 2)
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = brownian(queue)
    with ExitStack() as stack:
        module = sys.modules.get(type(scheduler).__module__)
        if hasattr(module, "randn_tensor"):
            stack.enter_context(patch.object(module, "randn_tensor", lambda *_, **__: next(queue)))
        for t in scheduler.timesteps[begin:]:
            seen = scheduler.scale_model_input(x, t) if is_scaled else x
            x = scheduler.step(predict(schedule, seen, t, kind), t, x, return_dict=False)[0]
    return x


def compare(folder: Path, config: dict[str, Any], steps: int, skipped: int = 0) -> float:
    """The largest distance of the two samples, relative to max |x|."""
    name, kind = config["_class_name"], KINDS[config.get("prediction_type", "epsilon")]
    schedule, _ = read_scheduler(write_folder(folder, config) / "scheduler")
    strength = (steps - skipped) / steps
    made = of_checkpoint(schedule, path=folder, steps=steps, strength=strength)
    scheduler = load_class(name).from_config(config)
    scheduler.set_timesteps(steps)
    expected = their_sample(scheduler, schedule, NOISES[-1], kind, skipped * scheduler.order if skipped else 0)
    actual = our_sample(made, schedule, NOISES[-1], kind)
    return float((actual - expected).abs().max() / expected.abs().max())


COSINE = "DeepFloyd IF"
STEEP = {
    (name, COSINE) for name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
}
"""Two calls in a step from σ/α = 20,291, which multiplies rounding: diffusers with σ in float64 is 2e-2 from itself."""
NEAR = ("Stable Diffusion 1.5", "SDXL", "a fine-tune of SDXL with Karras' levels", "a v model with zero terminal SNR")
REFUSED = ("PNDMScheduler", "PixArt-Σ")
PAIRS = [
    pytest.param(
        name,
        config,
        marks=[] if config in NEAR or VARIANCE_PRESERVING[config]["_class_name"] == name else pytest.mark.slow,
        id=f"{name}-{config}",
    )
    for name in ON_NOISE
    for config in VARIANCE_PRESERVING
    if (name, config) not in {*STEEP, REFUSED}
]


@pytest.mark.parametrize(("name", "config"), PAIRS)
def test_a_class_samples_a_released_config_as_in_diffusers(name: str, config: str, tmp_path: Path) -> None:
    steps = 10 if name.startswith(("PNDM", "LCM", "TCD")) else 9
    assert compare(tmp_path, VARIANCE_PRESERVING[config] | {"_class_name": name}, steps) < NEARBY


@pytest.mark.parametrize("config", FLOWS)
def test_a_flow_samples_as_its_pipeline_in_diffusers(config: str, tmp_path: Path) -> None:
    pipeline, fields = FLOWS[config]
    folder = write_folder(tmp_path, fields, pipeline)
    schedule, _ = read_scheduler(folder / "scheduler")
    more: dict[str, Any] = {}
    if fields.get("use_dynamic_shifting"):
        with pytest.raises(ValueError, match=r"shift with the size of the picture: wire schedule\.flow_shift"):
            of_checkpoint(schedule, path=folder, steps=9)
        schedule = schedules.flow_shift(schedule, torch.zeros(1, 16, 128, 128))
        more["mu"] = 1.15
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(fields)
    if pipeline == "StableDiffusion3Pipeline":
        scheduler.set_timesteps(9)
    else:
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 9, 9).tolist(), **more)
    made = of_checkpoint(schedule, path=folder, steps=9)
    actual = our_sample(made, schedule, NOISES[-1], "flow")
    expected = their_sample(scheduler, schedule, NOISES[-1], "flow")
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("FlowMatchLCMScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("FlowMatchEulerDiscreteScheduler", {"use_beta_sigmas": True, "shift_terminal": 0.02}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0, "solver_order": 2}),
        ("DEISMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}),
    ],
)
def test_a_class_samples_a_flow_as_in_diffusers(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    config = {"_class_name": name, "num_train_timesteps": 1000, "prediction_type": "flow_prediction", **more}
    if name.startswith("FlowMatch"):
        config["shift"] = 3.0
    scheduler = load_class(name).from_config(config)
    scheduler.set_timesteps(9)
    schedule = schedules.flow(shift=3.0)
    made = of_checkpoint(schedule, path=write_folder(tmp_path, config), steps=9)
    expected = their_sample(scheduler, schedule, NOISES[-1], "flow")
    actual = our_sample(made, schedule, NOISES[-1], "flow")
    assert float((actual - expected).abs().max() / expected.abs().max()) < NEARBY


SETTINGS: list[tuple[str, dict[str, Any], int]] = [
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, 30),
    ("DDIMScheduler", {"timestep_spacing": "linspace", "clip_sample": True, "clip_sample_range": 0.9}, 12),
    ("DDPMScheduler", {"variance_type": "fixed_small_log", "clip_sample": True}, 12),
    ("DDPMScheduler", {"variance_type": "fixed_large", "clip_sample": False, "steps_offset": 0}, 12),
    ("PNDMScheduler", {"skip_prk_steps": False}, 10),
    ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}, 12),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0}, 9),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, 9),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True, "final_sigmas_type": "sigma_min"}, 9),
    ("LMSDiscreteScheduler", {"use_exponential_sigmas": True}, 9),
    ("HeunDiscreteScheduler", {"clip_sample": True, "clip_sample_range": 0.8}, 9),
    ("KDPM2AncestralDiscreteScheduler", {"use_exponential_sigmas": True, "timestep_spacing": "trailing"}, 9),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}, 9),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}, 9),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, 9),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, 9),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "solver_type": "heun"}, 20),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}, 20),
    ("DPMSolverMultistepScheduler", {"euler_at_final": True, "final_sigmas_type": "sigma_min"}, 20),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -2.0, "timestep_spacing": "trailing"}, 9),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -2.0}, 9),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "solver_type": "bh2"}, 9),
    ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 1.3}, 9),
    ("DPMSolverSinglestepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, 10),
    ("DPMSolverSinglestepScheduler", {"final_sigmas_type": "sigma_min", "solver_type": "heun"}, 10),
    ("DPMSolverSinglestepScheduler", {"final_sigmas_type": "sigma_min", "lower_order_final": True}, 9),
    ("DPMSolverSinglestepScheduler", {"solver_order": 1, "use_karras_sigmas": True}, 9),
    ("DEISMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}, 9),
    ("UniPCMultistepScheduler", {"solver_order": 3, "use_exponential_sigmas": True}, 9),
    ("UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, 9),  # theirs is NaN at σ = 0
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, 9),
    ("LCMScheduler", {"original_inference_steps": 100, "timestep_scaling": 8.0, "clip_sample": True}, 6),
    ("TCDScheduler", {"original_inference_steps": 100, "clip_sample": True}, 6),
]


@pytest.mark.parametrize(("name", "more", "steps"), SETTINGS)
def test_a_setting_of_a_class_is_that_of_diffusers(name: str, more: Any, steps: int, tmp_path: Path) -> None:
    assert compare(tmp_path, LATENT | {"clip_sample": False} | more | {"_class_name": name}, steps) < NEARBY


@pytest.mark.parametrize("name", [name for name in ON_NOISE if not CLASSES[name].no_start_in_the_middle])
def test_a_start_in_the_middle_is_that_of_diffusers(name: str, tmp_path: Path) -> None:
    config = LATENT | {"clip_sample": False, "steps_offset": 1, "timestep_spacing": "leading", "_class_name": name}
    assert compare(tmp_path, config, 10, skipped=5) < NEARBY


def test_fields_of_other_classes_change_nothing(tmp_path: Path) -> None:
    """SDXL's config has `set_alpha_to_one: false`, which of these classes none reads."""
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        folder = write_folder(tmp_path, VARIANCE_PRESERVING["SDXL"] | {"_class_name": name})
        schedule, _ = read_scheduler(folder / "scheduler")
        last = of_checkpoint(schedule, path=folder, steps=9).scheduler.matrix[-1, 0]
        assert last[1] == pytest.approx(1)
        assert last[2] == pytest.approx(0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "SASolverScheduler"}, r"SA-Solver, which .*; use scheduler\.dpmpp_2m_sde or scheduler\.unipc"),
        ({"_class_name": "EDMEulerScheduler"}, r"use schedule\.edm with denoiser\.edm and scheduler\.euler"),
        ({"_class_name": "OddScheduler"}, r"names the scheduler class 'OddScheduler'; supported are DDIMScheduler"),
        ({}, "names no scheduler class"),
        ({"_class_name": ["a"]}, r"names the scheduler class \['a'\]"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            r"DPMSolverMultistepScheduler with 'algorithm_type' 'dpmsolver' has no counterpart here: use scheduler",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            r"'solver_order' 3 has no counterpart here: use scheduler\.dpmpp_3m_sde; theirs has another sign",
        ),
        ({"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 3}, r"use scheduler\.dpmpp_2s, of order 2"),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, r"'predict_x0' False"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}, r"'disable_corrector' \[0\]"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, "'variance_type' 'fixed_large_log'"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "timestep_spacing": "linspace"}, "^steps: .*PNDM"),
        ({"_class_name": "PNDMScheduler"}, "^steps: PNDMScheduler .* calls the network between timesteps, 111 apart"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True}, "several ways"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "odd"},
            "'timestep_spacing' is 'odd'; supported",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "steps_offset": [1]}, "'steps_offset' is"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": "low"}, "'lambda_min_clipped' is 'low'"),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 0}, "'original_inference_steps' is 0; expected"),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True, "dynamic_thresholding_ratio": 5.0},
            r"sets what scheduler\.ddim does not take: threshold: expected",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "samples on a flow, and this schedule is a variance-pres"),
    ],
)
def test_what_no_sampler_repeats_is_refused_with_what_to_take(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        of_checkpoint(schedules.scaled_linear(), path=write_folder(tmp_path, LATENT | config), steps=9)


@pytest.mark.parametrize("name", ["PNDMScheduler", "LMSDiscreteScheduler"])
def test_a_start_in_the_middle_that_diffusers_gets_wrong_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, STABLE | {"_class_name": name, "skip_prk_steps": True})
    with pytest.raises(ValueError, match=r"strength: the class of .* cannot start in the middle .*: use scheduler"):
        of_checkpoint(schedules.scaled_linear(), path=folder, steps=9, strength=0.5)


@pytest.mark.parametrize("name", ON_NOISE)
def test_a_flow_is_refused_by_the_other_classes(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, STABLE | {"_class_name": name, "skip_prk_steps": True})
    with pytest.raises(
        ValueError, match=r"schedule: .* samples on a variance-preserving one, and this schedule is a flow"
    ):
        of_checkpoint(schedules.flow(), path=folder, steps=10)


def test_the_sigmas_of_an_unknown_flow_pipeline_are_not_guessed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, FLOWS["Stable Diffusion 3"][1], "OddPipeline")
    with pytest.raises(
        ValueError, match=r"belongs to a OddPipeline, and which σ .* is not known: use scheduler\.euler"
    ):
        of_checkpoint(schedules.flow(shift=3.0), path=folder, steps=9)


def test_a_file_and_a_folder_without_a_scheduler_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is not a folder, and .*: wire checkpoint\.sampling into scheduler\.ddim"):
        of_checkpoint(schedules.scaled_linear(), path=tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"there is no file '.*scheduler_config\.json': the folder is incomplete"):
        of_checkpoint(schedules.scaled_linear(), path=tmp_path)


def test_stable_diffusions_pipelines_set_the_offset_and_no_clipping(tmp_path: Path) -> None:
    """As diffusers' StableDiffusionPipeline does with the config of a folder, before it samples."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "scheduler").mkdir()
    config = '{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}'
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(config)
    noise = parse_schedule(to_runtime(schedules.scaled_linear(beta_start=0.00085, beta_end=0.012)))
    recipe = read_recipe(tmp_path, noise, 5)
    assert [round(level.t) for level in recipe.visited][:5] == [801, 601, 401, 201, 1]
    assert not recipe.settings.get("clip", False)
