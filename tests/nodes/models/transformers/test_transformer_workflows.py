"""Shipped workflows with a transformer for the U-Net: training, drawing, and a bundle that draws the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.nodes.models.model_transformers import new_mmdit
from guidegraph.nodes.models.store import load_part, save_parts
from tests.graph.export.exporting import LEVEL, WORKFLOWS, changed, difference, made
from tests.nodes.models.transformers.networks import randomise
from tests.paths import ROOT
from tests.repository.test_docs import FENCE

TRAINING = ROOT / "docs" / "do" / "training.md"
U_NET = (
    "use: model.unet\n    in: {seed: params.seed}\n    with: {in_channels: 1, channels: 40, multipliers: [1, 2, 2], "
    "attention: [2], context_dim: null, vector_dim: 128, patch: 2, kind: v}"
)
DIT = (
    "use: model.dit\n    in: {seed: params.seed}\n    "
    "with: {in_channels: 1, patch: 8, grid: 4, width: 16, depth: 2, heads: 2, kind: v}"
)


def read_dit() -> str:
    """The node `denoiser` of docs/do/training.md."""
    (block,) = (text for _, text in FENCE.findall(TRAINING.read_text(encoding="utf-8")) if "use: model.dit" in text)
    return block.strip().removeprefix("denoiser:\n    ")  # type: ignore[no-any-return]


def test_the_documented_dit_trains_in_the_shipped_workflow(tmp_path: Path) -> None:
    workflow = changed(WORKFLOWS / "train" / "class_denoiser.yaml", [(U_NET, read_dit())], tmp_path)
    outputs = load_workflow(workflow, cache="off").run(
        steps=2, batch=2, path=str(tmp_path / "model"), checkpoint=str(tmp_path / "checkpoint")
    )
    assert torch.isfinite(torch.as_tensor(outputs["loss"])).all()
    denoiser = load_part(tmp_path / "model", "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert len(denoiser.network.blocks) == 6  # type: ignore[union-attr, arg-type]


def test_an_mmdit_trains_on_text_by_the_shipped_workflow(tmp_path: Path) -> None:
    changes = [
        ("use: model.unet", "use: model.mmdit"),
        (
            "{channels: 64, multipliers: [1, 2, 3], kind: v}",
            "{patch: 4, width: 32, depth: 2, heads: 2, side: 8, kind: v}",
        ),
    ]
    workflow = changed(WORKFLOWS / "train" / "text_to_image.yaml", changes, tmp_path)
    outputs = load_workflow(workflow, cache="off").run(
        steps=3, batch=2, path=str(tmp_path / "model"), checkpoint=str(tmp_path / "checkpoint")
    )
    assert torch.isfinite(torch.as_tensor(outputs["loss"])).all()
    denoiser = load_part(tmp_path / "model", "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert denoiser.network.final_layer.linear.weight.any()  # type: ignore[union-attr]
    assert len(denoiser.network.joint_blocks) == 2  # type: ignore[union-attr, arg-type]


def train(folder: Path) -> Path:
    """Train a tiny DiT by the shipped training of a class-conditional denoiser, and return the model folder."""
    changes = [(U_NET, DIT), ("{classes: 10, width: 128}", "{classes: 10, width: 16}")]
    workflow = changed(WORKFLOWS / "train" / "class_denoiser.yaml", changes, folder)
    outputs = load_workflow(workflow, cache="off").run(
        steps=3, batch=4, path=str(folder / "model"), checkpoint=str(folder / "checkpoint")
    )
    assert torch.isfinite(torch.as_tensor(outputs["loss"])).all()
    return folder / "model"


def test_a_dit_trains_and_its_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = train(tmp_path)
    denoiser = load_part(model, "denoiser", device=torch.device("cpu"), dtype=torch.float32)
    assert denoiser.network.final_layer.linear.weight.any()  # type: ignore[union-attr]
    save_parts(model, {"denoiser": randomise(denoiser)}, dtype=torch.float32)
    workflow = changed(WORKFLOWS / "class_cfg.yaml", [('"pkg:fashion_class"', f'"{model}"')], tmp_path)
    exported = made(workflow, tmp_path, steps=2, batch=2)
    expected = exported.engine(tmp_path / "model", steps=2, batch=2)
    actual = exported.run()
    assert expected["image"].std() > 0.1
    assert difference(actual, expected) <= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["table", "rotary"])
def test_the_bundle_of_an_mmdit_draws_what_the_engine_draws(positions: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = tmp_path / "model"
    shutil.copytree(WORKFLOWS / "models" / "scenes", model)
    denoiser = new_mmdit(patch=4, width=32, depth=2, heads=2, side=8, positions=positions)
    save_parts(model, {"denoiser": randomise(denoiser)}, dtype=torch.float32)  # type: ignore[arg-type]
    workflow = changed(WORKFLOWS / "text_to_image.yaml", [('"pkg:scenes"', f'"{model}"')], tmp_path)
    exported = made(workflow, tmp_path, steps=2, batch=2)
    bundle = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    dims = {port["name"]: port["dims"] for part in bundle["parts"].values() for port in part["inputs"]}
    assert dims["sample.carry.x"] == ["batch", 4, "height", "width"]
    expected = exported.engine(model, steps=2, batch=2)
    assert expected["image"].std() > 0.1
    assert difference(exported.run(), expected) <= LEVEL
