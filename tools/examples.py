"""Write the pictures that the workflows for conditioning by map and by image take by default.

    python tools/examples.py workflows/data/examples

They are one scene whose pair of objects is held out of training: the picture (scene.png), a quarter of its size
(small.png), its semantic map in the classes' colours (map.png), and a mask over parts of both objects (mask.png).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from guidegraph.graph.types import Tensor
from guidegraph.nodes.conditioning.mask import box_mask
from guidegraph.nodes.conditioning.semantic import picture_of_map
from guidegraph.nodes.images.image import resize_image
from guidegraph.nodes.output_formats import to_pixels
from guidegraph_runtime.pictures.png import write_png
from guidegraph_scenes.datasets import scene

SEED, INDEX = 2026, 17  # an elephant and a cactus on the grass under a sunset sky
BOXES = ({"top": 24, "left": 4, "height": 22, "width": 15}, {"top": 20, "left": 44, "height": 36, "width": 20})


def example() -> dict[str, Tensor]:
    """The pictures (1, 3, H, W) in [-1, 1] by name."""
    batch = scene(seed=SEED, batch=INDEX + 1)
    picture, semantic = batch.image[INDEX:], batch.semantic[INDEX:]
    mask = torch.stack([box_mask(**box) for box in BOXES]).amax(0)
    return {
        "scene": picture,
        "small": resize_image(picture, size=16),
        "map": picture_of_map(semantic),
        "mask": (2 * mask - 1).expand(-1, 3, -1, -1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in example().items():
        write_png(folder / f"{name}.png", to_pixels(picture[0]))


if __name__ == "__main__":
    main()
