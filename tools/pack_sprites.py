"""Render the emoji artwork and pack it into workflows/data/{sprites,artwork,emoji}.npz.

    python tools/pack_sprites.py NOTO.tgz FLUENT.tgz EMOJILIB.tgz [--out workflows/data]

The three arguments are the npm packages @iconify-json/noto (Apache-2.0), @iconify-json/fluent-emoji-flat
(MIT) and emojilib (MIT), unchanged. Only this script needs `resvg-py`; the packed files need NumPy alone.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SPRITE_SIZE = 48
EMOJI_SIZE = 64

# The scene vocabulary: caption name -> icon name, chosen to differ in silhouette and colour.
SCENE_OBJECTS = {
    "tiger": "tiger",
    "elephant": "elephant",
    "penguin": "penguin",
    "flamingo": "flamingo",
    "palm tree": "palm-tree",
    "pine tree": "evergreen-tree",
    "cactus": "cactus",
    "sunflower": "sunflower",
    "mushroom": "mushroom",
    "pumpkin": "jack-o-lantern",
    "house": "house",
    "car": "automobile",
    "rocket": "rocket",
    "sailboat": "sailboat",
    "balloon": "balloon",
    "umbrella": "umbrella",
}
ARTWORK_SIZE = 80
ARTWORK_COLOURS = 64
ALPHA_STEP = 17  # sixteen levels of opacity
ARTWORK_ICONS = {
    "sheep": "ewe",
    "dinosaur": "sauropod",
    "bee": "honeybee",
    "pine tree": "evergreen-tree",
    "pumpkin": "jack-o-lantern",
    "apple": "red-apple",
    "cake": "birthday-cake",
    "car": "automobile",
    "truck": "delivery-truck",
    "train": "locomotive",
    "ball": "soccer-ball",
    "snowman": "snowman-without-snow",
    "gift": "wrapped-gift",
    "clock": "alarm-clock",
}
"""Icons of objects in the scenes of 128 pixels that are not called like the object."""
LICENCES = ("noto: Apache-2.0, Google Inc", "fluent-emoji-flat: MIT, Microsoft Corporation")
LEFT_OUT = ("-skin-tone", "-dark", "-light", "-medium", "-medium-dark", "-medium-light")


def read_json(package: Path, name: str) -> Any:
    """One JSON file of an npm package."""
    with tarfile.open(package) as tar:
        member = tar.extractfile(f"package/{name}")
        if member is None:
            raise FileNotFoundError(f"{name} is not in {package}")
        return json.load(member)


def render(icons: dict[str, Any], name: str, size: int) -> Image.Image:
    """The icon as RGBA, its longer side scaled to `size` and padded to a square."""
    icon = icons["icons"][name]
    width = icon.get("width", icons["width"])
    height = icon.get("height", icons["height"])
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    scale = size / max(width, height)
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=max(1, round(width * scale)), height=max(1, round(height * scale))
    )
    return pad_to_square(Image.open(io.BytesIO(bytes(png))).convert("RGBA"), size)


def pad_to_square(image: Image.Image, size: int) -> Image.Image:
    """`image` scaled so that its longer side is `size`, centred on a transparent square."""
    scale = size / max(image.size)
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def trim(icons: dict[str, Any], name: str, size: int) -> Image.Image:
    """The visible part of an icon as RGBA, its longer side scaled to `size`."""
    large = render(icons, name, 4 * size)
    trimmed = large.crop(large.getchannel("A").point(lambda alpha: 255 if alpha > 32 else 0).getbbox())
    scale = size / max(trimmed.size)
    width, height = (max(1, round(side * scale)) for side in trimmed.size)
    return trimmed.resize((width, height), Image.Resampling.LANCZOS)


def scene_sprite(icons: dict[str, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A sprite (48, 48, 4) uint8, trimmed to its visible part so that its size is the size one sees.

    A ground-standing object touches the lower edge of the square.
    """
    trimmed = trim(icons, name, SPRITE_SIZE)
    square = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    square.paste(trimmed, ((SPRITE_SIZE - trimmed.width) // 2, SPRITE_SIZE - trimmed.height))
    return np.asarray(square, dtype=np.uint8)


def pack_scene_sprites(sets: list[dict[str, Any]], path: Path) -> None:
    """sprites (S, 48, 48, 4) uint8, object (S,) uint8 indexing names (16,)."""
    sprites, objects = [], []
    for index, icon in enumerate(SCENE_OBJECTS.values()):
        for icons in sets:
            sprites.append(scene_sprite(icons, icon))
            objects.append(index)
    np.savez_compressed(
        path,
        sprites=np.stack(sprites),
        object=np.array(objects, dtype=np.uint8),
        names=np.array(list(SCENE_OBJECTS)),
        licences=np.array(LICENCES),
    )


def pack_artwork(sets: list[dict[str, Any]], path: Path) -> None:
    """The artworks of the scenes of 128 pixels, two for each object, in the order of their vocabulary.

    pixels (S, 80, 80) uint8 index palette (S, 64, 3) uint8; alpha (S, 80, 80) uint8 has sixteen levels; sides (S, 2)
    uint8 are the height and the width of the visible part, which touches the upper left corner. names (S / 2,).
    """
    from guidegraph_scenes.scenes128.vocabulary import NAMES

    arrays: dict[str, list[Any]] = {"pixels": [], "palette": [], "alpha": [], "sides": []}
    for name in NAMES:
        for icons in sets:
            sprite = trim(icons, ARTWORK_ICONS.get(name, name.replace(" ", "-")), ARTWORK_SIZE)
            square = Image.new("RGBA", (ARTWORK_SIZE, ARTWORK_SIZE))
            square.paste(sprite)
            levels = np.rint(np.asarray(square.getchannel("A")) / ALPHA_STEP).astype(np.uint8)
            rgb = np.asarray(square.convert("RGB")).copy()
            rgb[levels == 0] = rgb[levels > 8].mean(0)
            indexed = Image.fromarray(rgb).quantize(
                ARTWORK_COLOURS, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE
            )
            table = np.zeros((ARTWORK_COLOURS, 3), dtype=np.uint8)
            used = np.array(indexed.getpalette(), dtype=np.uint8).reshape(-1, 3)[:ARTWORK_COLOURS]
            table[: len(used)] = used
            arrays["pixels"].append(np.where(levels == 0, 0, np.asarray(indexed)).astype(np.uint8))
            arrays["palette"].append(table)
            arrays["alpha"].append(levels * np.uint8(ALPHA_STEP))
            arrays["sides"].append((sprite.height, sprite.width))
    packed = {key: np.array(values, dtype=np.uint8) for key, values in arrays.items()}
    np.savez_compressed(path, **packed, names=np.array(NAMES), licences=np.array(LICENCES))


def keywords_by_name(chars: dict[str, str], emojilib: dict[str, list[str]]) -> dict[str, str]:
    """Icon name -> space-separated keywords, joined through the emoji's code points."""
    by_code = {}
    for emoji, words in emojilib.items():
        code = "-".join(f"{ord(char):x}" for char in emoji if ord(char) != 0xFE0F)
        by_code[code] = " ".join(word.replace("_", " ") for word in words)
    return {name: by_code.get(code, "") for code, name in chars.items()}


def pack_emoji(sets: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]], path: Path, colours: int) -> None:
    """Every base emoji of both sets, without flags and skin tones, as (N, 64, 64) palette indices.

    pixels (N, 64, 64) uint8 index palette (N, colours, 3) uint8; the background is white. names,
    keywords and category are (N,) strings; source is 0 for noto and 1 for fluent-emoji-flat.
    """
    pixels, palettes, names, keywords, category, source = [], [], [], [], [], []
    for number, (icons, metadata, words) in enumerate(sets):
        for group, members in metadata["categories"].items():
            for name in members:
                if group == "Flags" or "skin-tone" in name or name.endswith(LEFT_OUT):
                    continue
                if name not in icons["icons"] or "flag" in name.split("-"):
                    continue
                white = Image.new("RGBA", (EMOJI_SIZE, EMOJI_SIZE), "white")
                white.alpha_composite(render(icons, name, EMOJI_SIZE))
                indexed = white.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
                table = np.zeros((colours, 3), dtype=np.uint8)
                used = np.array(indexed.getpalette(), dtype=np.uint8).reshape(-1, 3)[:colours]
                table[: len(used)] = used
                pixels.append(np.asarray(indexed, dtype=np.uint8))
                palettes.append(table)
                names.append(name.replace("-", " "))
                keywords.append(words.get(name, ""))
                category.append(group)
                source.append(number)
    np.savez_compressed(
        path,
        pixels=np.stack(pixels),
        palette=np.stack(palettes),
        names=np.array(names),
        keywords=np.array([text[:120] for text in keywords]),
        category=np.array(category),
        source=np.array(source, dtype=np.uint8),
        licences=np.array((*LICENCES, "keywords: emojilib, MIT")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("noto", type=Path)
    parser.add_argument("fluent", type=Path)
    parser.add_argument("emojilib", type=Path)
    parser.add_argument("--out", type=Path, default=Path("workflows/data"))
    parser.add_argument("--colours", type=int, default=16, help="palette size of an emoji picture")
    parser.add_argument("--only", choices=("sprites", "artwork", "emoji"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    packages = (arguments.noto, arguments.fluent)
    sets = [read_json(package, "icons.json") for package in packages]
    if arguments.only in (None, "sprites"):
        pack_scene_sprites(sets, arguments.out / "sprites.npz")
    if arguments.only in (None, "artwork"):
        pack_artwork(sets, arguments.out / "artwork.npz")
    if arguments.only in (None, "emoji"):
        metadata = [read_json(package, "metadata.json") for package in packages]
        emojilib = read_json(arguments.emojilib, "dist/emoji-en-US.json")
        words = [keywords_by_name(read_json(package, "chars.json"), emojilib) for package in packages]
        pack_emoji(list(zip(sets, metadata, words, strict=True)), arguments.out / "emoji.npz", arguments.colours)


if __name__ == "__main__":
    main()
