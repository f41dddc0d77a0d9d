"""checkpoint.sampling: the timesteps that a checkpoint's own software visits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.checkpoints.diffusers.schedule import read_scheduler
from guidegraph.nodes.checkpoints.sampler_settings import checkpoint_sampling


def test_a_folder_has_the_settings_in_its_scheduler_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file '.*scheduler_config\.json': the folder is incomplete"):
        checkpoint_sampling(path=tmp_path)
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "trailing"}))
    assert checkpoint_sampling(path=tmp_path) == (1, "first", "trailing")
    config.write_text("{}")
    assert checkpoint_sampling(path=tmp_path) == (0, "one", "leading")
    config.write_text(json.dumps({"timestep_spacing": "odd"}))
    with pytest.raises(ValueError, match="'timestep_spacing' is 'odd'; supported are leading, trailing, linspace"):
        checkpoint_sampling(path=tmp_path)


def test_a_file_has_the_settings_of_its_family(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.diffusion_model.out.2.bias": torch.zeros(4)}}, tmp_path / "stable.ckpt")
    assert checkpoint_sampling(path=tmp_path / "stable.ckpt") == (1, "first", "leading")
    torch.save({"time_embed.0.weight": torch.zeros(4, 1)}, tmp_path / "guided.pt")
    assert checkpoint_sampling(path=tmp_path / "guided.pt") == (0, "one", "leading")


@pytest.mark.parametrize("text", ["model: {target: a, params: {}}\n", "a: !x 3\n"])
def test_a_diffusers_folder_may_hold_a_config_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"steps_offset": 0, "set_alpha_to_one": True, "timestep_spacing": "trailing"}))
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert checkpoint_sampling(path=tmp_path) == (0, "one", "trailing")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EulerDiscreteScheduler", (1, "one", "leading")),
        ("DPMSolverMultistepScheduler", (1, "one", "leading")),
        ("UniPCMultistepScheduler", (1, "one", "leading")),
        ("HeunDiscreteScheduler", (1, "one", "leading")),
        ("LMSDiscreteScheduler", (1, "one", "leading")),
        ("DPMSolverSinglestepScheduler", (0, "one", "linspace")),
        ("DEISMultistepScheduler", (1, "first", "leading")),
        ("SASolverScheduler", (1, "first", "leading")),
        ("DDIMScheduler", (1, "first", "leading")),
        ("PNDMScheduler", (1, "first", "leading")),
    ],
)
def test_fields_that_a_class_ignores_do_not_count(name: str, expected: tuple[Any, ...], tmp_path: Path) -> None:
    """The fields of SDXL's released config."""
    config = {"_class_name": name, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert checkpoint_sampling(path=tmp_path) == expected


def test_a_final_sigma_type_is_an_end_at_the_first_timestep(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        config = {"_class_name": name, "final_sigmas_type": "sigma_min"}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        assert checkpoint_sampling(path=tmp_path).final == "first"


SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_absent_fields_have_the_defaults_of_their_class_in_diffusers(name: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name).from_config({"beta_schedule": "linear"})
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": name, "beta_schedule": "linear"}))
    scheduler.set_timesteps(4)
    if hasattr(scheduler, "sigmas"):
        ends_first = float(scheduler.sigmas[-1]) > 0
    else:
        ends_first = name in ("PNDMScheduler", "TCDScheduler")
    spacing = scheduler.config.get("timestep_spacing", "linspace")
    expected = (scheduler.config.get("steps_offset", 0), "first" if ends_first else "one", spacing)
    assert checkpoint_sampling(path=tmp_path) == expected
    schedule, kind = read_scheduler(tmp_path / "scheduler")
    assert kind == "eps"
    bars = torch.cumprod(1 - scheduler.betas.double(), 0)
    torch.testing.assert_close(schedule.alphas_bar, bars, rtol=1e-4, atol=1e-9)
