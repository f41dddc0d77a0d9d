"""The sprites of scenes, from the packed file, and the classes of scenes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.paths import resolve_path
from guidegraph_runtime.pictures.semantic_maps import CLASSES as CLASSES
from guidegraph_runtime.pictures.semantic_maps import GROUNDS as GROUNDS
from guidegraph_runtime.pictures.semantic_maps import OBJECTS as OBJECTS
from guidegraph_runtime.pictures.semantic_maps import SKIES as SKIES


def data_file(name: str) -> Path:
    """The path of a packed data set that ships with the package."""
    return resolve_path(f"pkg:data/{name}", Path())


class Cutout(NamedTuple):
    """A sprite scaled for pasting: colour (s, s, 3) float32 in [0, 255], alpha (s, s, 1) in [0, 1]."""

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]


@lru_cache(maxsize=1)
def load_sprites() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Load sprites (S, 48, 48, 4) uint8 and the index into OBJECTS of each (S,)."""
    with np.load(data_file("sprites.npz"), allow_pickle=False) as packed:
        names = tuple(str(name) for name in packed["names"])
        if names != OBJECTS:
            raise ValueError(f"sprites.npz holds {names}, not the vocabulary {OBJECTS}")
        return packed["sprites"], packed["object"]


@lru_cache(maxsize=1)
def sprites_by_object() -> tuple[tuple[int, ...], ...]:
    """The indices of each object's sprites."""
    _, owner = load_sprites()
    return tuple(tuple(int(sprite) for sprite in np.flatnonzero(owner == index)) for index in range(len(OBJECTS)))


@lru_cache(maxsize=4096)
def cut_out(sprite: int, size: int, flipped: bool) -> Cutout:
    """Scale a sprite to `size` pixels. Colours are premultiplied while scaling, so that edges do not darken."""
    from PIL import Image

    sprites, _ = load_sprites()
    image = Image.fromarray(sprites[sprite], "RGBA").convert("RGBa")
    image = image.resize((size, size), Image.Resampling.BOX if size == 48 else Image.Resampling.LANCZOS)
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float32)
    if flipped:
        pixels = pixels[:, ::-1]
    return Cutout(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3:]) / np.float32(255))
