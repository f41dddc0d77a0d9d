"""The workflows of latent diffusion's own models, against its published sampler on the reference implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from guidegraph import load_workflow
from guidegraph.nodes.sampling.noise import gaussian
from plugins.families.tests.compvis import latent_configs, latent_files
from plugins.families.tests.compvis import latent_reference as reference
from plugins.families.tests.guided.guided_reference import weights_of
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows" / "checkpoints"
SIDE, STEPS, SEED = 32, 4, 3


def write(name: str, folder: Path) -> tuple[dict[str, Any], Callable[[str], reference.Weights]]:
    """A small model of a released layout, in a folder with its config.yaml; its parameters, and its weights by part."""
    model = latent_configs.shrink(latent_configs.MODELS[name])
    tensors = latent_files.checkpoint_tensors(model)
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    latent_files.write_config(folder, model)

    def part(prefix: str) -> reference.Weights:
        return weights_of({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})

    return model, part


def ddim(model: dict[str, Any], weights: reference.Weights, x: Tensor, spatial: Tensor) -> Tensor:
    """Latent diffusion's DDIM with η = 0 at t = 1, 1 + 1000/S, …; the last step goes to ᾱ of t = 0."""
    roots = torch.linspace(model["linear_start"] ** 0.5, model["linear_end"] ** 0.5, 1000, dtype=torch.float64)
    bars = torch.cumprod(1 - roots**2, 0)
    times = [1 + step * (1000 // STEPS) for step in range(STEPS)]
    for t, before in reversed(list(zip(times, [0, *times[:-1]], strict=True))):
        inputs = torch.cat([x, spatial], 1)
        eps = reference.unet(weights, inputs, torch.tensor([float(t)]), model["unet_config"]["params"])
        x0 = (x - (1 - bars[t]).sqrt() * eps) / bars[t].sqrt()
        x = (bars[before].sqrt() * x0 + (1 - bars[before]).sqrt() * eps).float()
    return x


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def test_inpainting_is_conditioned_on_the_first_stage_and_a_signed_mask(tmp_path: Path) -> None:
    model, part = write("inpainting_big", tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "picture.png")
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[8:24, 4:20] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    outputs = load_workflow(WORKFLOWS / "inpaint_latent_diffusion.yaml").run(
        checkpoint=str(tmp_path / "model.ckpt"),
        image=str(tmp_path / "picture.png"),
        mask=str(tmp_path / "mask.png"),
        size=SIDE,
        steps=STEPS,
        seed=SEED,
    )
    hole = torch.from_numpy(mask)[None, None].float() / 255
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    first = model["first_stage_config"]["params"]
    hidden = reference.encode(part("cond_stage_model."), (1 - hole) * image * 2 - 1, first)
    spatial = torch.cat([hidden, F.interpolate(hole * 2 - 1, hidden.shape[2:])], 1)
    expected = ddim(model, part("model.diffusion_model."), gaussian(hidden, seed=SEED), spatial)
    assert relative(outputs["latent"], expected) < 1e-4
    filled = reference.decode(part("first_stage_model."), outputs["latent"], first)
    composite = (1 - hole) * (image * 2 - 1) + hole * filled.clamp(-1, 1)
    torch.testing.assert_close(outputs["image"], composite, rtol=0, atol=1e-3)


def test_a_map_of_classes_is_shrunk_by_the_encoder_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model, part = write("semantic_synthesis256", tmp_path / "model")
    classes = np.random.default_rng(1).integers(0, 5, (SIDE, SIDE)).astype(np.uint8)
    PIL.Image.fromarray(classes).save(tmp_path / "map.png")
    outputs = load_workflow(WORKFLOWS / "semantic_to_image.yaml").run(
        checkpoint=str(tmp_path / "model"),
        map=str(tmp_path / "map.png"),
        classes=5,
        size=SIDE,
        shape=[3, 8, 8],
        steps=STEPS,
    )
    one_hot = F.one_hot(torch.from_numpy(classes).long(), 5).permute(2, 0, 1)[None].float()
    for _ in range(2):  # bilinear at half the size without antialiasing: the mean of 2 × 2
        one_hot = F.avg_pool2d(one_hot, 2)
    mapper = part("cond_stage_model.")("channel_mapper.weight", 3, 5, 1, 1)
    spatial = torch.einsum("ok,bkhw->bohw", mapper[:, :, 0, 0], one_hot)
    noise = gaussian(shape=[3, 8, 8], batch=1, seed=0)
    assert relative(outputs["latent"], ddim(model, part("model.diffusion_model."), noise, spatial)) < 1e-4
    assert outputs["image"].shape == (1, 3, SIDE, SIDE)
