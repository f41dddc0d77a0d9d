"""Batches of the shipped data sets: scenes, and single emoji. Batch i depends on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.graph.types import Tensor
from guidegraph.nodes.training.batches import one_hot, to_image
from guidegraph.nodes.types import Image, SemanticMap
from guidegraph.nodes.uniforms import uniforms
from guidegraph_scenes.scene_sprites import CLASSES, data_file
from guidegraph_scenes.scenes import Split, compose_scene


class SceneBatch(NamedTuple):
    """image (B, 3, 64, 64) in [-1, 1]; semantic (B, K, 64, 64) one-hot; label (B, K) in {0, 1}; B captions."""

    image: Image
    semantic: SemanticMap
    label: Tensor
    caption: Sequence[str]


class SceneBatch128(NamedTuple):
    """Scenes of 128 pixels, with one row of `object`, `colour` and `box` for each of up to four objects.

    image (B, 3, 128, 128) in [-1, 1]; B captions; object (B, 4) and colour (B, 4), int64 indices into the scenes'
    objects and colours, −1 for none; box (B, 4, 4), left, top, right and lower edge in units of the side, −1 for none;
    classes (B, 128, 128) uint8: the class of each pixel, see `data.scene_map`; sky (B), int64: 0 day, 1 morning,
    2 sunset, 3 night; captions: all captions of each scene, of which `caption` has the first.
    """

    image: Image
    caption: Sequence[str]
    object: Tensor
    colour: Tensor
    box: Tensor
    classes: Tensor
    sky: Tensor
    captions: Sequence[Sequence[str]]


class EmojiBatch(NamedTuple):
    """image (B, 3, 64, 64) in [-1, 1] on white; B captions: a name, or a name with one of its keywords."""

    image: Image
    caption: Sequence[str]


def scene_batch(seed: int, batch: int, index: int, *, split: Split, single: float, partial: float) -> SceneBatch:
    """The `batch` scenes from scene `index · batch` on of the data set `seed`."""
    first_scene = index * batch
    scenes = [compose_scene(seed, first_scene + i, split=split, single=single, partial=partial) for i in range(batch)]
    return SceneBatch(
        image=to_image(np.stack([scene.image for scene in scenes])),
        semantic=one_hot(np.stack([scene.semantic for scene in scenes]), len(CLASSES)),
        label=torch.from_numpy(np.stack([scene.labels for scene in scenes])).float(),
        caption=tuple(scene.caption for scene in scenes),
    )


class Emoji(NamedTuple):
    """The packed single emoji: pixels (N, 64, 64) index palette (N, C, 3); strings (N)."""

    pixels: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    names: tuple[str, ...]
    keywords: tuple[str, ...]
    category: tuple[str, ...]


@lru_cache(maxsize=1)
def load_emoji() -> Emoji:
    """Every base emoji of both sets, without flags and skin tones."""
    with np.load(data_file("emoji.npz"), allow_pickle=False) as packed:
        texts = {key: tuple(str(text) for text in packed[key]) for key in ("names", "keywords", "category")}
        return Emoji(packed["pixels"], packed["palette"], **texts)


def emoji_batch(seed: int, batch: int, index: int, *, category: str | None) -> EmojiBatch:
    """`batch` emoji drawn with replacement, half of them mirrored."""
    data = load_emoji()
    candidates = [i for i, name in enumerate(data.category) if category in (None, name)]
    if not candidates:
        raise ValueError(f"there is no category '{category}'; there are {', '.join(sorted(set(data.category)))}")
    uniform = uniforms(seed, index, 3 * batch).reshape(3, batch)
    indices = [candidates[int(value * len(candidates))] for value in uniform[0]]
    pixels = np.stack([data.palette[i][data.pixels[i]] for i in indices])
    pixels = np.where((uniform[1] < 0.5)[:, None, None, None], pixels[:, :, ::-1], pixels)
    captions = tuple(emoji_caption(data, i, value) for i, value in zip(indices, uniform[2], strict=True))
    return EmojiBatch(to_image(pixels), captions)


def emoji_caption(data: Emoji, index: int, u: float) -> str:
    """The emoji's name, preceded by one of its keywords half of the time."""
    words = data.keywords[index].split()
    if u < 0.5 or not words:
        return data.names[index]
    return f"{words[int((u - 0.5) * 2 * len(words))]} {data.names[index]}"
