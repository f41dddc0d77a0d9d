"""Draw one picture for each of 64 held-out prompts and put them on one sheet, with the prompts beside it.

    python tools/contact_sheet.py runs/contact-sheet.png
    python tools/contact_sheet.py docs/pictures/contact-sheet-128.jpg --model workflows/models/scenes_128

Writes the sheet and, under the same name with .txt, the prompts in reading order. Their compositions are held out of
training. --model: the folder of a model of scenes of 128 pixels; without it, pkg:scenes draws in 64.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from guidegraph import load_workflow
from guidegraph_runtime.files.atomic_write import atomic_path, write_text
from guidegraph_scenes import scenes
from guidegraph_scenes.scenes128.scene import compose_scene

COLUMNS, ROWS, BATCH = 8, 8, 16
QUALITY = 82
"""Of a sheet that is a JPEG file; a PNG file has none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, help="guidance scale, by default that of the workflow")
    parser.add_argument("--model", type=Path, help="the folder of a model of scenes of 128 pixels")
    options = parser.parse_args()
    model: dict[str, Path] = {}
    scale = {} if options.scale is None else {"scale": options.scale}
    numbers = range(COLUMNS * ROWS)
    if options.model is None:
        name = "text_to_image.yaml"
        prompts = [scenes.compose_scene(options.seed, i, split="held_out").caption for i in numbers]
    else:
        name, model = "text_to_image_128.yaml", {"model": options.model}
        prompts = [compose_scene(options.seed, i, split="held_out").caption for i in numbers]
    workflow = load_workflow(Path(__file__).parents[1] / "workflows" / name)
    pictures = []
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        settings = {"prompt": batch, "batch": len(batch), "seed": options.seed + first}
        pictures.append(workflow.run(**settings, **model, **scale)["image"])
    levels = ((torch.cat(pictures) + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(levels[i : i + COLUMNS], axis=1) for i in range(0, len(levels), COLUMNS)]
    with atomic_path(options.sheet) as temporary:
        Image.fromarray(np.concatenate(rows, axis=0)).save(temporary, quality=QUALITY, subsampling=0)
    lines = [f"{i:2}  {prompt}" for i, prompt in enumerate(prompts)]
    write_text(options.sheet.with_suffix(".txt"), "\n".join([f"{COLUMNS} columns, {ROWS} rows", *lines, ""]))


if __name__ == "__main__":
    main()
