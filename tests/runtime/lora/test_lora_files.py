"""The LoRAs of a run: their strengths, their scales, and the weights that are kept for the next run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.lora.lora_files import read_loras
from guidegraph_runtime.noise import gaussian
from tests.runtime.lora.adaptable_bundle import DOWN, UP, WEIGHTS, write_adaptable_bundle, write_lora, write_peft_folder


def open_bundle(folder: Path) -> Bundle:
    return Bundle(write_adaptable_bundle(folder / "bundle"), SessionSettings.on("cpu", intra_threads=1))


def expected(factor: float) -> Any:
    """The output with this multiple of the product of the factors added to the weight."""
    return gaussian(0, [4], 1) @ (WEIGHTS + factor * (UP @ DOWN)).T


@pytest.mark.parametrize(
    "config", [{"lora_alpha": 8}, {"lora_alpha": 2, "alpha_pattern": {"layer": 8}}, {"use_rslora": True}]
)
def test_folders_with_the_same_weights_and_other_settings_give_their_own_results(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    bundle = open_bundle(tmp_path)
    first = write_peft_folder(tmp_path / "first", json.dumps({"unet.lora_alpha": 2}))
    config = {"unet.lora_alpha": 2} | {f"unet.{name}": value for name, value in config.items()}
    second = write_peft_folder(tmp_path / "second", json.dumps(config))
    np.testing.assert_allclose(bundle.run_with({}, lora=first)["x"], expected(1.0), rtol=1e-5)
    factor = 2**0.5 if "unet.use_rslora" in config else 4.0
    np.testing.assert_allclose(bundle.run_with({}, lora=second)["x"], expected(factor), rtol=1e-5)


def test_settings_that_are_edited_in_place_count_in_the_next_run(tmp_path: Path) -> None:
    bundle = open_bundle(tmp_path)
    for alpha in (2, 6):
        folder = write_peft_folder(tmp_path / "lora", json.dumps({"unet.lora_alpha": alpha}))
        np.testing.assert_allclose(bundle.run_with({}, lora=folder)["x"], expected(alpha / 2), rtol=1e-5)


def test_the_same_settings_keep_the_changed_weights_for_the_next_run(tmp_path: Path) -> None:
    bundle, folder = open_bundle(tmp_path), write_peft_folder(tmp_path / "lora", '{"unet.lora_alpha": 2}')
    sessions = bundle.sessions_with_lora(bundle.read_loras(folder))
    assert bundle.sessions_with_lora(bundle.read_loras(folder)) is sessions


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e39", "abc", ""])
def test_a_strength_that_is_no_finite_number_of_float32_is_named(tmp_path: Path, strength: str) -> None:
    path = write_lora(tmp_path / "lora.safetensors")
    with pytest.raises(BundleError) as caught:
        read_loras(f"{path}:{strength}", "here")
    assert str(caught.value) == (
        f"here: bad-lora: the strength of the LoRA '{path}': expected a finite number up to 3.4e+38, found "
        f"'{strength}'; write it as FILE:0.8, or give the file alone"
    )


@pytest.mark.parametrize("strength", [float("nan"), 1e39, 10**400, "much", None])
def test_a_strength_beside_a_path_is_checked_too(tmp_path: Path, strength: Any) -> None:
    path = write_lora(tmp_path / "lora.safetensors")
    with pytest.raises(BundleError, match=r"the strength of the LoRA .*: expected a finite number"):
        read_loras([(path, strength)], "here")


def test_a_colon_in_a_name_belongs_to_the_name(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a:b.safetensors")
    write_lora(tmp_path / "a")
    assert [(lora.path, lora.strength) for lora in read_loras([str(path), f"{path}:-0.5"], "here")] == [
        (path, 1.0),
        (path, -0.5),
    ]
    with pytest.raises(BundleError, match=r"'.*/no:where\.safetensors' cannot be read"):
        read_loras(str(tmp_path / "no:where.safetensors"), "here")


def test_a_lora_for_another_model_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.safetensors", "unet.other")
    with pytest.raises(BundleError, match=r"1 of its 1 layers are not here \(unet\.other\)"):
        open_bundle(tmp_path).read_loras(path)
