"""Results and files of an earlier layout of the modules: the same outputs, plans, checkpoints, caches and exports.

make_goldens.py wrote them on commit 4cbc301. Imports of guidegraph's inside are in golden_internals.py alone.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from packaging.version import Version
from PIL import Image

from guidegraph import load_workflow
from guidegraph_runtime import Bundle, SessionSettings
from tests.commands.command import process
from tests.whole.golden_cases import CASES, GOLDENS, WORKFLOWS, Case, Golden, differences, pack_outputs, read_goldens
from tests.whole.golden_internals import (
    fix_sources,
    inputs_of,
    plan_digests,
    read_state,
    read_value,
    structured_types,
)
from tests.whole.make_goldens import SETTINGS

PLOTS = ("evaluate/noisy_classifier", "evaluate/schedules", "experiments/rate_distortion")
"""Cases with plots among their outputs."""
EXACT = os.environ.get("GUIDEGRAPH_GOLDENS") == "exact"
FILES = sorted(path.relative_to(WORKFLOWS).as_posix() for path in WORKFLOWS.rglob("*.yaml"))


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def goldens() -> dict[str, Golden]:
    return read_goldens(GOLDENS)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=pytest.mark.slow if c.slow else ()) for c in CASES])
def test_outputs_are_the_same(case: Case, goldens: dict[str, Golden], tmp_path: Path) -> None:
    for package in case.packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    if case.name in PLOTS and Version(version("matplotlib")) < Version("3.11"):
        pytest.skip("the text of plots looks different before matplotlib 3.11")
    actual = pack_outputs(case.run(tmp_path), tmp_path)
    expected = goldens[case.name]
    tolerances = {"relative": case.relative, "grey_levels": case.grey_levels}
    assert differences(actual, expected, exact=EXACT, **tolerances) == []


def test_every_golden_has_a_case(goldens: dict[str, Golden]) -> None:
    assert set(goldens) == {case.name for case in CASES}


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plans() -> dict[str, Any]:
    plans: dict[str, Any] = json.loads((GOLDENS / "plans.json").read_text(encoding="utf-8"))
    return plans


@pytest.mark.parametrize("name", FILES)
def test_a_plan_has_the_same_steps(name: str, plans: dict[str, Any]) -> None:
    with fix_sources():
        assert plan_digests(load_workflow(WORKFLOWS / name)) == plans[name]


# --- files of a training and of a cache ------------------------------------------------------------------------------


def assert_same(actual: Any, expected: Any) -> None:
    """Assert that two values have the same type, and equal numbers up to rounding."""
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * scale)
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same(getattr(actual, field.name), getattr(expected, field.name))
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    else:
        assert actual == expected


def test_an_old_training_resumes(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "training", tmp_path / "resumed")
    with fix_sources():
        workflow = load_workflow(GOLDENS / "training.yaml", cache="off")
        resumed = workflow.run(checkpoint=str(tmp_path / "resumed"))
        complete = workflow.run(checkpoint=str(tmp_path / "complete"))
    for name, value in complete.items():
        assert_same(resumed[name], value)
    assert len(resumed["loss"]) == 4


def test_an_old_checkpoint_holds_current_types() -> None:
    state = read_state(GOLDENS / "training", "", check=False)
    assert state is not None
    assert state.step == 2
    moments = state.values["carry"]["moments"]
    assert type(moments) in structured_types().values()
    assert float(moments.count) == 8


def test_an_old_cache_has_every_value(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "cache", tmp_path / "cache")
    origins: list[str] = []

    def observe(event: Any) -> None:
        if hasattr(event, "origin"):
            origins.append(event.origin)

    with fix_sources():
        cached = load_workflow(GOLDENS / "cache.yaml", cache=tmp_path / "cache", observers=[observe]).run()
        computed = load_workflow(GOLDENS / "cache.yaml", cache="off").run()
    assert set(origins) == {"disk"}
    assert cached.keys() == computed.keys()
    for name, value in computed.items():
        assert_same(cached[name], value)


@pytest.mark.parametrize("file", sorted(p.stem for p in (GOLDENS / "cache").rglob("*.safetensors")))
def test_an_old_cached_value_is_read(file: str) -> None:
    values = read_value(GOLDENS / "cache" / file[:2] / f"{file}.safetensors", "cpu", file)
    assert isinstance(values, tuple)
    port_types = tuple(structured_types().values())
    assert all(isinstance(value, (torch.Tensor, *port_types)) or value is None for value in values)


# --- exports ---------------------------------------------------------------------------------------------------------


def test_an_old_bundle_runs() -> None:
    image = Bundle(GOLDENS / "bundle", SessionSettings.on("cpu", intra_threads=1)).run(**SETTINGS)["image"]
    levels = ((image + 1) * 127.5).round() - np.load(GOLDENS / "exported.npy").astype(float)
    assert np.abs(levels).max() <= 2


def test_the_command_runs_an_old_bundle(tmp_path: Path) -> None:
    words = [GOLDENS / "bundle", "--out", tmp_path / "out", "--provider", "cpu"]
    words += [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    done = process(words, tmp_path, python=("-m", "guidegraph_runtime"))
    assert done.returncode == 0, done.stderr
    expected = np.load(GOLDENS / "exported.npy").astype(int)
    files = sorted((tmp_path / "out").glob("image*.png"))
    assert len(files) == len(expected)
    for file, picture in zip(files, expected, strict=True):
        with Image.open(file) as image:
            assert np.abs(np.asarray(image).astype(int).transpose(2, 0, 1) - picture).max() <= 2


def test_an_old_single_file_runs() -> None:
    file = GOLDENS / "single" / "export.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,) = session.run(["image.uint8"], inputs_of(file.with_suffix(".json"), **SETTINGS))
    expected = np.load(GOLDENS / "exported.npy").astype(int).transpose(0, 2, 3, 1)
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() <= 2


# --- a picture -------------------------------------------------------------------------------------------------------


def test_an_old_picture_is_drawn_again(tmp_path: Path) -> None:
    done = process(["run", GOLDENS / "picture.png", "--out", tmp_path / "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(GOLDENS / "picture.png") as expected, Image.open(tmp_path / "out" / "image.png") as actual:
        assert np.abs(np.asarray(actual).astype(int) - np.asarray(expected).astype(int)).max() <= 2
