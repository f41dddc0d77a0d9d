"""Measure the error of denoisers of scenes of 128 pixels, on objects and elsewhere.

    python tools/velocity_error.py workflows/models/scenes_128 [FOLDER …] [--count 128] [--seed 777]

Prints for each model folder the mean squared error of the velocity noise − x0 at four noise levels of the flow, in the
cells of the latent that objects cover by a quarter or more, and in all others. The scenes are of the training split,
of a seed that no training has by default. A denoiser that takes layouts is told those of the scenes, or with --untold
none.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from guidegraph.nodes.conditioning.condition import merge_conditions
from guidegraph.nodes.models.store import load_part
from guidegraph.nodes.types import Condition
from guidegraph_scenes.scenes128.dataset import object_share, scene_128
from guidegraph_scenes.scenes128.layout_sample import encode_layout, map_layout

SIGMAS = (0.5, 0.7, 0.85, 0.95)
BATCH = 32


@torch.no_grad()
def measure_errors(folder: Path, count: int, seed: int, untold: bool) -> list[tuple[float, float]]:
    """The mean squared errors on objects and elsewhere, at each of `SIGMAS`. untold: without layouts."""
    denoiser, text, autoencoder = (
        load_part(folder, name, device=torch.device("cpu"), dtype=torch.float32).eval()
        for name in ("denoiser", "text", "autoencoder")
    )
    scenes = scene_128(seed=seed, batch=count, split="train")
    covered = object_share(scenes.classes, size=16) > 0.25
    latent = torch.cat([autoencoder.encode(part) for part in scenes.image.split(BATCH)])
    conditions = [text(scenes.caption[start : start + BATCH]) for start in range(0, count, BATCH)]
    if denoiser.config.spatial_channels:
        maps = map_layout(encode_layout(scenes.object, scenes.box, scenes.colour)) * (not untold)
        conditions = [
            merge_conditions([said, Condition(spatial=told)])
            for said, told in zip(conditions, maps.split(BATCH), strict=True)
        ]
    rows = []
    for number, sigma in enumerate(SIGMAS):
        errors: list[Tensor] = []
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(number))
        for x0, drawn, condition in zip(latent.split(BATCH), noise.split(BATCH), conditions, strict=True):
            t = torch.full((len(x0),), 1000 * sigma)
            velocity = denoiser((1 - sigma) * x0 + sigma * drawn, t, condition).value
            errors.append((velocity - (drawn - x0)).square().mean(1, keepdim=True))
        error = torch.cat(errors)
        rows.append((float(error[covered].mean()), float(error[~covered].mean())))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--untold", action="store_true")
    arguments = parser.parse_args()
    print("sigma", *SIGMAS)
    for folder in arguments.folders:
        for name, errors in zip(
            ("objects", "elsewhere"),
            zip(*measure_errors(folder, arguments.count, arguments.seed, arguments.untold), strict=True),
            strict=True,
        ):
            print(folder, name, *(f"{error:.3f}" for error in errors))


if __name__ == "__main__":
    main()
