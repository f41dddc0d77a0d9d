"""Run the workflows of all methods and arrange their pictures on one sheet, one row for each method.

    python tools/methods_sheet.py docs/pictures/methods.png

Where the condition is a picture, it stands first in its row.
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
COLUMNS, SIZE, GAP, CAPTION = 8, 64, 2, 14
CLOTHES: dict[str, Any] = {"batch": COLUMNS, "label": [0, 1, 2, 3, 5, 7, 8, 9]}
DRAWN: dict[str, dict[str, Any]] = {
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
}
# Which cell of a workflow's own sheet shows the condition.
GIVEN = {"semantic_to_image": 0, "inpaint": 1, "image_to_image": 0}


def pixels(image: torch.Tensor) -> NDArray[np.uint8]:
    """Pictures (B, 3, 64, 64) or (B, 3, 32, 32) in [−1, 1] side by side, (64, 64 B, 3)."""
    levels = ((image + 1) * 127.5).round().clamp(0, 255).byte()
    enlarged = levels.repeat_interleave(SIZE // image.shape[-1], -1).repeat_interleave(SIZE // image.shape[-2], -2)
    row: NDArray[np.uint8] = enlarged.permute(2, 0, 3, 1).flatten(1, 2).numpy()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    options = parser.parse_args()
    sheet = Image.new("RGB", (COLUMNS * SIZE, len(DRAWN) * (SIZE + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, settings) in enumerate(DRAWN.items()):
        workflow = load_workflow(WORKFLOWS / f"{name}.yaml")
        outputs = workflow.run(**settings)
        top, left = row * (SIZE + CAPTION) + CAPTION, 0
        pen.text((2, top - CAPTION + 1), name, fill="black")
        if name in GIVEN:
            left = GAP + GIVEN[name] * (SIZE + GAP)
            cell = outputs["sheet"][..., GAP : GAP + SIZE, left : left + SIZE]
            sheet.paste(Image.fromarray(pixels(cell)), (0, top))
            left = SIZE
        sheet.paste(Image.fromarray(pixels(outputs["image"])), (left, top))
    with atomic_path(options.sheet) as temporary:
        sheet.save(temporary)


if __name__ == "__main__":
    main()
