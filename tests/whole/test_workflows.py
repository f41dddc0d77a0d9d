"""Every shipped workflow runs from the command line, at reduced size.

Blocks run inside of others; those of checkpoints need a person's files, and run in the tests of each format; those
of `own` need a person's pictures, and run in test_own_pictures.py; what asks for the bundle of an export runs in the
tests of exports; what judges scenes of 128 pixels in test_scene_eval_command.py, and what starts from a model of them
in test_training_workflows.py and test_trained_128_command.py. Evaluations of what depends on them run in
test_dependents_128.py. The flow transformers of scenes are not shipped either: they are trained first.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from guidegraph import load_workflow
from guidegraph.plugins.manager import PluginManager
from tests.commands.command import Command
from tests.paths import ROOT
from tests.slow_cases import mark_slow
from tests.whole.golden_cases import CASES
from tests.whole.small_model_128 import TRAININGS

REGISTRY = PluginManager(entry_points=False).registry
FILES = (ROOT / "workflows").rglob("*.yaml")
EXPORTED = ("text_to_image_onnx.yaml",)
UNTRAINED = (
    "evaluate/everyday.yaml",
    "evaluate/layouts_128.yaml",
    "evaluate/scene_eval.yaml",
    "evaluate/text_to_image_flow.yaml",
    "workflows/text_to_image_dit.yaml",
    "workflows/text_to_image_mmdit.yaml",
    *(f"train/{name}.yaml" for name in TRAININGS),
)
MEASURED = tuple(
    f"evaluate/{name}_128.yaml" for name in ("image_to_image", "inpaint", "semantic_to_image", "super_resolution")
)
LONG = tuple(
    f"train/{name}.yaml"
    for name in (
        *(
            "autoencoder_128",
            "decoder_128",
            "layout_128",
            "layout_to_image_128",
            "sky_classifier_128",
            "text_to_image_128",
        ),
        *("autoencoder_vq", "image_to_image", "inpaint", "text_to_image_128_mmdit", "text_to_image_vq"),
    )
)
"""Trainings of which CI runs another one with the same nodes."""
WRITTEN = ("text_to_image.yaml", "layout_128.yaml", "evaluate/schedules.yaml")
"""Workflows whose outputs test_goldens compares in CI, and of which CI also writes the files: a picture, a layout and
its table, and plots."""
COMPARED = {case.workflow for case in CASES if not case.slow} - {*WRITTEN}
WRITING = ("train", "experiments")
ELSEWHERE = ("blocks", "checkpoints", "own")
WORKFLOWS = sorted(
    p.relative_to(ROOT)
    for p in FILES
    if p.parent.name not in ELSEWHERE and not p.as_posix().endswith((*EXPORTED, *UNTRAINED, *MEASURED))
)


def parameters(workflow: Path) -> dict[str, Any]:
    parameter_table: dict[str, Any] = yaml.safe_load((ROOT / workflow).read_text(encoding="utf-8"))["params"]
    return parameter_table


def settings(workflow: Path, folder: Path) -> list[str]:
    """Two steps and few samples; training writes its model and its checkpoint below ``folder``."""
    small = {"steps": 2, "ancestral_steps": 2, "sampling_steps": 2, "count": 10, "references": 20}
    if workflow.parent.name in WRITING:
        small |= {"batch": 2, "first_steps": 2, "path": folder / "model"}
        small |= {"checkpoint": folder / "checkpoint", "first_checkpoint": folder / "first_checkpoint"}
    settings = {name: value for name, value in small.items() if name in parameters(workflow)}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process, so that torch is imported only once; tests/commands starts processes."""
    monkeypatch.chdir(ROOT)
    return Command(ROOT, capfd)


QUICK = [
    path
    for path in WORKFLOWS
    if not path.as_posix().endswith(LONG) and path.relative_to("workflows").as_posix() not in COMPARED
]


@pytest.mark.parametrize("workflow", mark_slow(WORKFLOWS, QUICK), ids=str)
def test_a_shipped_workflow_runs(workflow: Path, cli: Command, tmp_path: Path) -> None:
    result = cli("run", str(workflow), "--out", str(tmp_path / "out"), *settings(workflow, tmp_path))
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    files = [file for output in record["outputs"].values() for file in output["files"]]
    assert files
    assert all((tmp_path / "out" / file).stat().st_size > 0 for file in files)
    if workflow.parent.name in WRITING and "path" in parameters(workflow):
        assert (tmp_path / "model" / "model.json").exists()


def test_a_copy_of_every_shipped_workflow_opens_in_any_folder(tmp_path: Path) -> None:
    copies = {p.name: shutil.copy(p, tmp_path) for p in (ROOT / "workflows").glob("*.yaml")}
    for name, copied in copies.items():
        original = load_workflow(f"pkg:{name}", registry=REGISTRY).graph
        assert [*load_workflow(copied, registry=REGISTRY).graph.ops] == [*original.ops]


def test_no_shipped_workflow_links_a_block_by_a_relative_path() -> None:
    linked = [p for p in (ROOT / "workflows").rglob("*.yaml") if re.search(r"use: *['\"]?\.", p.read_text())]
    assert not linked, "write use: pkg:FILE, which opens from a copy too"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "mmdit"])
def test_a_flow_transformer_is_trained_and_draws(name: str, cli: Command, tmp_path: Path) -> None:
    model = tmp_path / "model"
    training = Path("workflows", "train", f"text_to_image_{name}.yaml")
    assert cli("run", str(training), "--out", str(tmp_path / "fit"), *settings(training, tmp_path)).code == 0
    result = cli(
        "run", f"workflows/text_to_image_{name}.yaml", "--set", f"model={model}", "--out", str(tmp_path / "out")
    )
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "image.png").stat().st_size > 0
    few = {"model": model, "count": 10, "steps": 2, "references": 20, "pooled": str(name == "dit").lower()}
    changes = [part for key, value in few.items() for part in ("--set", f"{key}={value}")]
    result = cli("run", "workflows/evaluate/text_to_image_flow.yaml", *changes, "--out", str(tmp_path / "table"))
    assert result.code == 0, result.err
    assert any(file.stat().st_size > 0 for file in (tmp_path / "table").glob("table.*"))
