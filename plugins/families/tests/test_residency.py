"""The parts of a checkpoint under a memory budget: one after the other on the device, with the same picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.graph.events import Event, ModelMoved
from guidegraph.graph.execution.cache import nbytes
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.diffusers.loras import Lora
from plugins.families.tests.diffusers.test_pipelines import WORKFLOW
from tests.graph.memory.fake_device import FakeDevice

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

TABLE = 8000
"""Bytes of a schedule, which is not a model and so not in the budget."""

LORA = "  lora: {use: lora.apply, in: {denoiser: model.denoiser, text: model.text, path: params.lora}}\n"


class SdxlFiles:
    def __init__(self, root: Path) -> None:
        pipe = pipelines.pipeline("sdxl", root)
        pipe.save_pretrained(root / "folder")
        self.folder = root / "folder"
        self.lora = Lora(pipe, ("unet", "text_encoder")).peft(root / "lora.safetensors")
        parts = load_checkpoint(path=self.folder)
        self.sizes = {name: nbytes(getattr(parts, name)) for name in ("denoiser", "autoencoder", "text")}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> SdxlFiles:
    return SdxlFiles(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


def run(
    text: str, folder: Path, sdxl: SdxlFiles, device: FakeDevice | None, budget: int | None, **params: Any
) -> tuple[dict[str, Any], list[str]]:
    """Run a workflow; returns its outputs, and the moves of models to the device and back, in order."""
    moves: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, ModelMoved):
            moves.append(f"{event.path}.{event.output} {event.device}")

    path = folder / "w.yaml"
    path.write_text(text.replace("SETTINGS", "").replace("steps: 20", "steps: 3"))
    workflow = load_workflow(path, cache="off", observers=[watch])
    workflow.config = replace(workflow.config, memory_budget=budget)
    workflow.attachments = replace(workflow.attachments, mover=device)
    return workflow.run(path=sdxl.folder, prompt=["a tiger b", "c"], **params), moves


def test_text_encoders_denoiser_and_autoencoder_are_never_loaded_together(
    sdxl: SdxlFiles, tmp_path: Path, device: FakeDevice
) -> None:
    expected, none = run(WORKFLOW, tmp_path, sdxl, None, None)
    budget = max(sdxl.sizes.values())
    assert budget + TABLE < sum(sdxl.sizes.values())
    actual, moves = run(WORKFLOW, tmp_path, sdxl, device, budget)
    assert none == []
    assert [move.split()[0].removeprefix("nodes.model.") for move in moves] == [
        *("text", "text"),
        *("denoiser", "denoiser"),
        *("autoencoder", "autoencoder"),
    ]
    assert budget <= device.peak <= budget + TABLE
    assert device.used == 0
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_lora_is_applied_on_the_cpu_and_the_original_is_never_moved(
    sdxl: SdxlFiles, tmp_path: Path, device: FakeDevice
) -> None:
    text = WORKFLOW.replace("params:\n", "params:\n  lora: {type: Path}\n").replace("  positive:", LORA + "  positive:")
    text = text.replace("denoiser: model.denoiser, x", "denoiser: lora.denoiser, x")
    text = text.replace("embedder: model.text", "embedder: lora.text")
    expected, _ = run(text, tmp_path, sdxl, None, None, lora=sdxl.lora)
    budget = max(sdxl.sizes.values())
    actual, moves = run(text, tmp_path, sdxl, device, budget, lora=sdxl.lora)
    assert {move.split()[0] for move in moves} == {
        "nodes.lora.denoiser",
        "nodes.lora.text",
        "nodes.model.autoencoder",
    }
    assert device.peak <= budget + TABLE
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
