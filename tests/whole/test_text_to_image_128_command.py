"""The denoisers of scenes of 128 pixels by command: trained for a few steps and drawn with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from guidegraph.nodes.models.model_nodes import load_model, save_model
from tests.whole.commands import guidegraph, set_options, write_model

AUTOENCODER = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  autoencoder: {use: model.autoencoder, with: {channels: 8, multipliers: [1, 1, 1], latent_channels: 8}}
  saved:       {use: model.save, in: {autoencoder: autoencoder, path: params.path}}
outputs: {model: saved}
"""
SMALL = {
    "text_to_image_128": {"channels": 8, "features": 24},
    "text_to_image_128_mmdit": {"width": 16, "depth": 3, "heads": 1},
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(AUTOENCODER, tmp_path_factory.mktemp("autoencoder_128"))


def train(name: str, autoencoder: Path, folder: Path, steps: int) -> np.ndarray:
    """Train a network in a folder; returns the loss of each step."""
    settings = {"model": autoencoder, "path": folder / "model", "checkpoint": folder / "checkpoint"}
    options = set_options(**settings, steps=steps, batch=1, times=2, **SMALL[name])
    guidegraph("run", f"workflows/train/{name}.yaml", "--out", folder / "out", *options)
    losses: np.ndarray = load_file(folder / "out" / "loss.safetensors")["loss"]
    return losses


def disturb(folder: Path) -> None:
    """Move the weights of a denoiser away from zero, so that the condition has an effect after a few steps already."""
    generator = torch.Generator().manual_seed(0)
    denoiser: Any = load_model(path=folder).denoiser
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_model(denoiser=denoiser, path=folder)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_trained_model_draws_and_heeds_the_negative_prompt(name: str, autoencoder: Path, tmp_path: Path) -> None:
    assert np.isfinite(train(name, autoencoder, tmp_path, steps=3)).all()
    disturb(tmp_path / "model")
    pictures = []
    for negative in ("", "a black cat at night"):
        out = tmp_path / f"drawn{len(pictures)}"
        settings = {
            "model": tmp_path / "model",
            "steps": 2,
            "negative": negative,
            "prompt": "could you draw my elefant",
        }
        printed = guidegraph("run", "workflows/text_to_image_128.yaml", "--out", out, *set_options(**settings))
        assert "not trained on: 'elefant' (did you mean 'elephant'" in printed
        pictures.append(np.asarray(Image.open(out / "image.png")))
    assert pictures[0].shape == (128, 128, 3)
    assert (pictures[0] != pictures[1]).any()
