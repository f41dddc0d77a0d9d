"""LoRA on exported transformers, whose joined layers have rows of their own in LoRA files, against lora.apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("diffusers")

from guidegraph import Condition, load_workflow
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.one_node import export_call
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.lora_layers import denoiser_rows
from guidegraph.nodes.training.lora import apply_lora
from guidegraph_runtime import Bundle, SessionSettings
from plugins.families.tests.transformers import dit_writer, flux_writer, pixart_writer, sd3_writer, z_image_writer
from plugins.families.tests.transformers.lora_factors import random_factors, underscore, write_lora

pytestmark = pytest.mark.slow

WORKFLOW = """
guidegraph: 1
params:
  path: {type: Path}
  x: {type: Sample}
  t: {type: Timesteps}
  condition: {type: Condition}
nodes:
  model: {use: checkpoint.load, in: {path: params.path}}
  u: {use: denoiser.predict, in: {denoiser: model.denoiser, x: params.x, t: params.t, condition: params.condition}}
outputs: {u: u}
"""
FAMILIES: dict[str, tuple[Callable[[], Any], int | None, int | None]] = {
    "sd3": (lambda: sd3_writer.network("3.5 medium"), 24, 20),
    "flux": (lambda: flux_writer.network("schnell"), 24, 20),
    "z_image": (z_image_writer.network, 32, None),
    "pixart": (pixart_writer.network, 24, None),
    "dit": (dit_writer.network, None, 32),
}
"""A network of diffusers, the width of a text's tokens, and that of the vector."""


def make_condition(tokens: int | None, vector: int | None) -> Condition:
    generator = torch.Generator().manual_seed(5)
    return Condition(
        tokens=None if tokens is None else torch.randn(2, 7, tokens, generator=generator),
        vector=None if vector is None else torch.randn(2, vector, generator=generator),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_a_transformer_is_that_of_the_engine(family: str, tmp_path: Path) -> None:
    """Under the names of diffusers, where queries, keys and values are apart, and of the network."""
    make_network, tokens, vector = FAMILIES[family]
    make_network().save_pretrained(tmp_path / "model")
    condition = make_condition(tokens, vector)
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([300.0, 700.0])
    (tmp_path / "one.yaml").write_text(WORKFLOW)
    workflow = load_workflow(tmp_path / "one.yaml")
    values = workflow.bind({"path": tmp_path / "model", "x": x, "t": t, "condition": condition})
    exported = export_call(workflow.graph, values, "denoiser")
    write_bundle(
        exported, tmp_path / "bundle", kinds=dict.fromkeys(exported.outputs, "tensor"), versions={"guidegraph": "0"}
    )
    bundle = Bundle(tmp_path / "bundle", SessionSettings.on("cpu"))
    fields = {"x": x, "t": t, "tokens": condition.tokens, "vector": condition.vector}
    inputs = {name: value.numpy() for name, value in fields.items() if value is not None}
    denoiser: Any = load_checkpoint(path=tmp_path / "model").denoiser
    weights = dict(denoiser.named_parameters())
    by_name = denoiser_rows(denoiser.network)
    prefix = "unet." if family == "dit" else "transformer."  # other tools write none for a DiT
    theirs = {name: rows for name, rows in by_name.items() if name.startswith(prefix)}
    layers = {name.removeprefix(prefix): rows.select(weights[rows.layer]) for name, rows in theirs.items()}
    assert family == "dit" or any(rows.count is not None for rows in theirs.values())
    files = []
    renames: list[tuple[Callable[[str], str], float]] = [
        (lambda name: f"{prefix}{name}", 0.7),
        (underscore("lora_transformer"), -0.4),
    ]
    for number, (rename, strength) in enumerate(renames):
        kept = {name: weight for name, weight in layers.items() if rename(name) in by_name}
        if kept:  # kohya's names are those of the layers of diffusers
            write_lora(random_factors(kept), rename, tmp_path / f"{number}.safetensors")
            files.append((tmp_path / f"{number}.safetensors", strength))
    assert len(files) == (1 if family == "dit" else 2)

    def engine(loras: list[tuple[Path, float]]) -> Any:
        adapted: Any = denoiser
        for path, strength in loras:
            adapted = apply_lora(adapted, path=path, strength=strength).denoiser
        with torch.no_grad():
            return adapted(x, t, condition).value.numpy()

    plain = engine([])
    for loras in ([], files[:1], files, []):
        expected = engine(loras)
        actual = bundle.run_with(inputs, lora=loras)["value"] if loras else bundle.run_with(inputs)["value"]
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
        assert (np.abs(expected - plain).max() > 0.05) == bool(loras)
