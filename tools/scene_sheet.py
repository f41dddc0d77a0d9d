"""Draw a sheet of the scenes of 128 pixels, with their captions beside it in a text file.

    python tools/scene_sheet.py docs/pictures/scenes-128.png [--split held_out] [--seed 0] [--columns 7] [--rows 4]

Scene i of the sheet is scene i of the data set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from guidegraph_scenes.scenes128.scene import compose_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--split", choices=("train", "held_out", "all"), default="held_out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4)
    arguments = parser.parse_args()
    count = arguments.columns * arguments.rows
    scenes = [compose_scene(arguments.seed, index, split=arguments.split) for index in range(count)]
    tiles = np.stack([scene.image for scene in scenes]).reshape(arguments.rows, arguments.columns, 128, 128, 3)
    sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(arguments.rows * 128, arguments.columns * 128, 3)
    Image.fromarray(sheet).save(arguments.path, optimize=True)
    captions = "\n".join(scene.caption for scene in scenes)
    arguments.path.with_suffix(".txt").write_text(f"{captions}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
