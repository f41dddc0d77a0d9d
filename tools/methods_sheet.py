"""Run the workflows of all methods and arrange their pictures on one sheet, one row for each method.

    python tools/methods_sheet.py docs/pictures/methods.png
    python tools/methods_sheet.py docs/pictures/methods-128.jpg --size 128

Where the condition is a picture, it stands first in its row. --size: of the pictures, 64 or 128.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from guidegraph import load_workflow
from guidegraph_runtime.files.atomic_write import atomic_path

WORKFLOWS = Path(__file__).parents[1] / "workflows"
COLUMNS, GAP, CAPTION, QUALITY = 8, 2, 14, 82
CLOTHES: dict[str, Any] = {"batch": COLUMNS, "label": [0, 1, 2, 3, 5, 7, 8, 9]}
DRAWN: dict[int, dict[str, dict[str, Any]]] = {
    64: {
        "class_classifier_guidance_ddpm": CLOTHES,
        "class_classifier_guidance_ddim": CLOTHES,
        "class_cfg": CLOTHES,
        "text_to_image": {"batch": COLUMNS, "seed": 0, "prompt": "a tiger on grass under a night sky"},
        "text_to_image_vq": {"batch": COLUMNS, "prompt": "a tiger on grass under a night sky"},
        "text_to_image_minilm": {"batch": COLUMNS},
        "text_and_classifier": {"batch": COLUMNS, "sky": [0, 0, 0, 1, 1, 1, 2, 2]},
        "semantic_to_image": {"batch": COLUMNS - 1},
        "inpaint": {"batch": COLUMNS - 1},
        "image_to_image": {"batch": COLUMNS - 1},
    },
    128: {
        "text_to_image_128": {"batch": COLUMNS, "seed": 0},
        "layout_to_image_128": {"batch": COLUMNS},
        "text_and_classifier_128": {"batch": COLUMNS, "sky": [0, 0, 1, 1, 2, 2, 3, 3]},
        "semantic_to_image_128": {"batch": COLUMNS - 1},
        "inpaint_128": {"batch": COLUMNS - 1},
        "image_to_image_128": {"batch": COLUMNS - 1},
        "super_resolution_128": {},
    },
}
# Which cell of a workflow's own sheet shows the condition.
GIVEN = {"semantic_to_image": 0, "inpaint": 1, "image_to_image": 0}
GIVEN |= {"semantic_to_image_128": 0, "inpaint_128": 1, "image_to_image_128": 0, "super_resolution_128": 0}


def pixels(image: torch.Tensor, size: int) -> NDArray[np.uint8]:
    """Pictures (B, 3, size, size), or of half that size, in [−1, 1] side by side, (size, size · B, 3)."""
    levels = ((image + 1) * 127.5).round().clamp(0, 255).byte()
    enlarged = levels.repeat_interleave(size // image.shape[-1], -1).repeat_interleave(size // image.shape[-2], -2)
    row: NDArray[np.uint8] = enlarged.permute(2, 0, 3, 1).flatten(1, 2).numpy()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--size", type=int, choices=DRAWN, default=64)
    options = parser.parse_args()
    size, drawn = options.size, DRAWN[options.size]
    sheet = Image.new("RGB", (COLUMNS * size, len(drawn) * (size + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, settings) in enumerate(drawn.items()):
        workflow = load_workflow(WORKFLOWS / f"{name}.yaml")
        outputs = workflow.run(**settings)
        top, left = row * (size + CAPTION) + CAPTION, 0
        pen.text((2, top - CAPTION + 1), name, fill="black")
        if name in GIVEN:
            left = GAP + GIVEN[name] * (size + GAP)
            cell = outputs["sheet"][..., GAP : GAP + size, left : left + size]
            sheet.paste(Image.fromarray(pixels(cell, size)), (0, top))
            left = size
        sheet.paste(Image.fromarray(pixels(outputs["image"], size)), (left, top))
    if options.sheet.suffix == ".png":
        sheet = sheet.quantize(dither=Image.Dither.NONE)
    with atomic_path(options.sheet) as temporary:
        sheet.save(temporary, quality=QUALITY, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
