"""Make the three kinds of folder that docs/learn/own-pictures.md is about, from the packed single emoji.

    python tools/own_folders.py runs/own [--limit 20]

Writes runs/own/classes (a folder for each category), runs/own/captions (pictures and captions.csv) and runs/own/maps
(images/ and maps/: 0 for the white around an emoji, 1 for the emoji). --limit: at most so many of each category.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from guidegraph_scenes.batches import load_emoji


class Picture(NamedTuple):
    """An emoji on white, its name and its category."""

    image: Image.Image
    name: str
    category: str


def pictures(limit: int | None = None) -> Iterator[Picture]:
    """The packed emoji, at most `limit` of each category."""
    emoji = load_emoji()
    seen: Counter[str] = Counter()
    for pixels, palette, name, category in zip(emoji.pixels, emoji.palette, emoji.names, emoji.category, strict=True):
        seen[category] += 1
        if limit is None or seen[category] <= limit:
            yield Picture(Image.fromarray(palette[pixels]), name, category)


def file_name(number: int, name: str) -> str:
    """0007-red-apple.png."""
    return f"{number:04d}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.png"


def foreground(image: Image.Image) -> Image.Image:
    """A map of indices: 0 for the white that is joined to the border, 1 for the rest."""
    framed = Image.new("RGB", (image.width + 2, image.height + 2), "white")
    framed.paste(image, (1, 1))
    outside = (255, 0, 255)
    ImageDraw.floodfill(framed, (0, 0), outside, thresh=24)
    inside = (np.asarray(framed)[1:-1, 1:-1] != np.array(outside)).any(2)
    return Image.fromarray(inside.astype(np.uint8))


def write_classes(folder: Path, limit: int | None) -> None:
    """A folder for each category."""
    for number, picture in enumerate(pictures(limit)):
        place = folder / file_name(0, picture.category)[5:-4]
        place.mkdir(parents=True, exist_ok=True)
        picture.image.save(place / file_name(number, picture.name))


def write_captions(folder: Path, limit: int | None) -> None:
    """Pictures with captions.csv, whose caption is the emoji's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for number, picture in enumerate(pictures(limit)):
            name = file_name(number, picture.name)
            picture.image.save(folder / name)
            table.writerow([name, picture.name])


def write_maps(folder: Path, limit: int | None) -> None:
    """Pictures with a map of the same name."""
    for part in ("images", "maps"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures(limit)):
        name = file_name(number, picture.name)
        picture.image.save(folder / "images" / name)
        foreground(picture.image).save(folder / "maps" / name)


def write_folders(folder: Path, limit: int | None = None) -> None:
    """All three kinds below a folder."""
    write_classes(folder / "classes", limit)
    write_captions(folder / "captions", limit)
    write_maps(folder / "maps", limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    write_folders(options.folder, options.limit)


if __name__ == "__main__":
    main()
