"""Latent diffusion with a VQ first stage in one file, as for ImageNet's classes, against diffusers' modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.images.autoencoder import decode, encode
from guidegraph.nodes.sampling.denoiser import predict
from plugins.families.tests import difference_bounds, tiny
from plugins.families.tests.compvis import compvis_writer
from plugins.families.tests.compvis.test_first_stages import vq

diffusers = pytest.importorskip("diffusers")

CHANNELS = 5
"""Of the tiny VQModel's latent."""


def network() -> Any:
    settings = {**tiny.UNETS["sd1"], "attention_head_dim": 1, "in_channels": CHANNELS, "out_channels": CHANNELS}
    torch.manual_seed(4)
    return diffusers.UNet2DConditionModel(**settings).eval().requires_grad_(False)


def write(path: Path, extra: dict[str, Tensor]) -> Path:
    """U-Net, moving averages, classes, and the first stage with the loss of its training, as latent diffusion wrote."""
    unet = compvis_writer.unet(network())
    parts = {
        "model.diffusion_model.": {name: value + 1 for name, value in unet.items()},
        "first_stage_model.": compvis_writer.first_stage(vq()),
        "first_stage_model.loss.discriminator.main.0.": {"weight": torch.randn(4, 3, 4, 4)},
        "cond_stage_model.": {"embedding.weight": torch.randn(11, 64)},
        "model_ema.": {f"diffusion_model{name.replace('.', '')}": value for name, value in unet.items()},
    }
    tensors = {f"{prefix}{name}": value for prefix, held in parts.items() for name, value in held.items()}
    marks = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    torch.save({"state_dict": tensors | marks | extra}, path)
    return path


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_whole_file_with_a_vq_first_stage(tmp_path: Path, scale: float | None) -> None:
    path = write(tmp_path / "model.ckpt", {} if scale is None else {"scale_factor": torch.tensor(scale)})
    settings: Any = {} if scale else {"scale": 1.0}
    loaded = load_checkpoint(path=path, heads=1, noise_schedule="scaled_linear", prediction="eps", **settings)
    model = vq()
    latent, image = torch.randn(2, CHANNELS, 16, 16), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        picture = model.decode(latent / (scale or 1.0)).sample
        before = model.encode(image).latents * (scale or 1.0)
    difference_bounds.largest(decode(loaded.autoencoder, latent), picture.clamp(-1, 1), 1e-4, "decoded picture")
    difference_bounds.largest(encode(loaded.autoencoder, image), before, 1e-5, "latent of a picture")
    label, t = loaded.label(torch.tensor([3, 10])), torch.tensor([400.0])
    expected = network()(latent, t, encoder_hidden_states=label.tokens).sample
    difference_bounds.largest(predict(loaded.denoiser, latent, t, label).value, expected, 1e-4, "ε")
