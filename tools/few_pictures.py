"""Make a small folder of pictures to try workflows/own/finetune_classes.yaml and lora_classes.yaml with.

    python tools/few_pictures.py runs/own/few [--each 20] [--seed 0] [--objects turtle tractor snail]

Writes CLASS/NAME.png: in each picture one object of the packed emoji, large on a ground under a sky that do not depend
on the class. `pkg:scenes` was trained on none of the three objects. The two artworks of an object come in turn. --seed:
other seeds give other pictures of the same objects, to judge by.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph.nodes.uniforms import pick, uniforms
from guidegraph_scenes.batches import load_emoji
from guidegraph_scenes.scenes import GROUND_COLOURS, SIZE, SKY_COLOURS, paint_background
from tools.own_folders import foreground

OBJECTS = ("turtle", "tractor", "snail")


def artworks(name: str) -> list[Image.Image]:
    """The artworks of an object as RGBA, without the white around them. Raises ``ValueError`` where there are none."""
    emoji = load_emoji()
    drawings = [
        Image.fromarray(palette[pixels])
        for pixels, palette, emoji_name in zip(emoji.pixels, emoji.palette, emoji.names, strict=True)
        if emoji_name == name
    ]
    if not drawings:
        raise ValueError(f"the packed emoji have no '{name}'")
    for drawing in drawings:
        drawing.putalpha(Image.fromarray(255 * np.asarray(foreground(drawing))))
    return [drawing.crop(drawing.getchannel("A").getbbox()) for drawing in drawings]


def picture(artwork: Image.Image, u: NDArray[np.float64]) -> Image.Image:
    """An object (RGBA) on a background; ``u`` (60) are the uniform numbers that choose the rest."""
    sky, ground = pick(u[0], 0, len(SKY_COLOURS) - 1), pick(u[1], 0, len(GROUND_COLOURS) - 1)
    horizon = pick(u[2], 24, 38)
    background, _ = paint_background(u[8:40], sky, ground, horizon)
    scene = Image.fromarray(np.clip(np.rint(background), 0, 255).astype(np.uint8)).convert("RGBA")
    scale = pick(u[3], 32, 42) / max(artwork.size)
    width, height = (max(1, round(side * scale)) for side in artwork.size)
    cutout = artwork.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    if u[4] < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bottom = pick(u[5], max(horizon + 5, height), SIZE - 1)
    scene.alpha_composite(cutout, (pick(u[6], 0, SIZE - width), bottom - height))
    return scene.convert("RGB")


def write_few(folder: Path, each: int = 20, seed: int = 0, objects: tuple[str, ...] = OBJECTS) -> None:
    """Write ``each`` pictures of every object to a folder of its name. Raises ``ValueError`` for an unknown object."""
    for number, name in enumerate(objects):
        drawings = artworks(name)
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            u = uniforms(seed, number * 100_000 + i, 60)
            picture(drawings[i % len(drawings)], u).save(place / f"{i:04d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objects", nargs="+", default=OBJECTS)
    options = parser.parse_args()
    write_few(options.folder, options.each, options.seed, tuple(options.objects))


if __name__ == "__main__":
    main()
