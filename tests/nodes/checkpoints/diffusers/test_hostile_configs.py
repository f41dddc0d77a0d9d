"""Values in the JSON of a diffusers folder that no tool writes are one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.diffusers.schedule import build_noise_schedule, read_sampler_settings


def test_lists_within_lists_are_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"axes_dims": ' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"config\.json' holds lists within lists"):
        read_json(path)


@pytest.mark.parametrize("name", [["FluxTransformer2DModel"], {}, 3])
def test_a_class_that_is_no_name(name: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=r"config\.json' describes a .*; known are"):
        load_checkpoint(path=tmp_path)


@pytest.mark.parametrize(
    "change", [{"num_train_timesteps": 10**12}, {"num_train_timesteps": [1000]}, {"beta_start": [0.1]}]
)
def test_a_schedule_of_values_that_no_tool_writes(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'a\.json'"):
        build_noise_schedule({"beta_schedule": "linear", **change}, Path("a.json"))


def test_an_offset_that_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"'a\.json': 'steps_offset' is \[1\]"):
        read_sampler_settings({"steps_offset": [1]}, Path("a.json"))
