"""Write the example inputs of the workflows of 128 pixels: `python tools/examples_128.py workflows/data/examples`.

A held-out scene with a castle, the mask that hides it, the map of another scene, and a third in 32 pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph.nodes.conditioning.mask import mask_boxes
from guidegraph.nodes.images.image import resize_image
from guidegraph_runtime import pixels, write_png
from guidegraph_scenes.scenes128.dataset import scene_128

CASTLE, COW, BUTTERFLY = 55, 71, 47
"""Scenes of seed 5: a castle and a cactus, a cow and a rooster, a butterfly and a balloon."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    scenes = scene_128(seed=5, batch=80)
    castle, butterfly = (scenes.image[i : i + 1] for i in (CASTLE, BUTTERFLY))
    mask = mask_boxes(scenes.box[CASTLE : CASTLE + 1, 1:2], castle, margin=4 / 128)
    write_png(folder / "scene_128.png", pixels(castle[0].numpy()))
    write_png(folder / "mask_128.png", np.uint8(255) * mask[0, 0].numpy().astype(np.uint8))
    write_png(folder / "map_128.png", scenes.classes[COW].numpy().astype(np.uint8))
    write_png(folder / "small_32.png", pixels(resize_image(butterfly, size=32, mode="bicubic")[0].numpy()))


if __name__ == "__main__":
    main()
