"""Composed scenes: real emoji artwork on a sky above a ground, with an exact semantic map and a caption.

Scene i of a data set depends on (seed, i) alone. All choices come from NumPy's raw Philox bits with key (seed, i), so a
scene is the same on every machine and NumPy version.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.uniforms import pick, uniforms
from guidegraph_scenes.scene_sprites import CLASSES, GROUNDS, OBJECTS, SKIES, cut_out, sprites_by_object

SIZE = 64
Split = Literal["train", "held_out", "all"]
Floats = NDArray[np.float32]


def is_held_out(first: int, second: int) -> bool:
    """Whether a pair of objects is excluded from the training split.

    Pairs 5 or 8 apart on the circle of the 16 objects: 24 of 120 pairs (20 %), three for each object.
    """
    return (second - first) % len(OBJECTS) in (5, 8, len(OBJECTS) - 5)


PAIRS = tuple(combinations(range(len(OBJECTS)), 2))
HELD_OUT_PAIRS = tuple(pair for pair in PAIRS if is_held_out(*pair))
TRAIN_PAIRS = tuple(pair for pair in PAIRS if not is_held_out(*pair))


class Placement(NamedTuple):
    """One sprite in a scene: its object, artwork, size and upper left corner in pixels."""

    object: int
    sprite: int
    size: int
    flipped: bool
    left: int
    top: int


class Scene(NamedTuple):
    """image (64, 64, 3) uint8; semantic (64, 64) uint8 of indices into CLASSES; labels (K,) bool."""

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    caption: str
    objects: tuple[int, ...]
    sky: int
    ground: int

    @property
    def labels(self) -> NDArray[np.bool_]:
        """The objects, sky and ground of the full caption, as a multi-label vector over CLASSES."""
        present = np.zeros(len(CLASSES), dtype=np.bool_)
        present[list(self.objects)] = True
        present[len(OBJECTS) + self.sky] = True
        present[len(OBJECTS) + len(SKIES) + self.ground] = True
        return present


# Colours (RGB) of the sky at the zenith and at the horizon, and of the ground far and near.
SKY_COLOURS = np.array(
    [
        [[84, 160, 236], [190, 226, 250]],
        [[8, 12, 44], [44, 46, 98]],
        [[112, 62, 140], [252, 160, 92]],
    ],
    dtype=np.float32,
)
GROUND_COLOURS = np.array(
    [
        [[120, 188, 84], [64, 146, 52]],
        [[238, 212, 150], [214, 178, 112]],
        [[232, 240, 250], [250, 252, 255]],
        [[52, 140, 206], [18, 84, 164]],
    ],
    dtype=np.float32,
)
# How the light of each sky falls on the ground.
LIGHT = np.array([[1, 1, 1], [0.66, 0.68, 0.82], [1, 0.88, 0.84]], dtype=np.float32)
# Amplitude, and frequency across and down the picture, of each ground's texture.
TEXTURE = ((7.0, 1.3, 0.9), (6.0, 0.25, 0.8), (3.0, 0.15, 0.2), (9.0, 0.12, 1.1))


def choose_objects(u: NDArray[np.float64], split: Split, single: float) -> tuple[int, ...]:
    """Choose one or two objects of the split, from left to right. A single object is never held out."""
    if split != "held_out" and u[0] < single:
        return (pick(u[1], 0, len(OBJECTS) - 1),)
    pairs = {"train": TRAIN_PAIRS, "held_out": HELD_OUT_PAIRS, "all": PAIRS}[split]
    first, second = pairs[pick(u[1], 0, len(pairs) - 1)]
    return (first, second) if u[2] < 0.5 else (second, first)


def place_object(u: NDArray[np.float64], obj: int, slot: int, count: int, horizon: int) -> Placement:
    """Choose size, artwork and position of one object. Of two objects, slot 0 is left and slot 1 right."""
    size = pick(u[0], 28, 40) if count == 1 else pick(u[0], 24, 33)
    low, high = {(0, 1): (0, SIZE - size), (0, 2): (0, 33 - size), (1, 2): (31, SIZE - size)}[slot, count]
    bottom = pick(u[2], max(horizon + 5, size), SIZE - 1)
    sprites = sprites_by_object()[obj]
    return Placement(
        object=obj,
        sprite=sprites[pick(u[3], 0, len(sprites) - 1)],
        size=size,
        flipped=bool(u[4] < 0.5),
        left=pick(u[1], low, high),
        top=bottom - size,
    )


def paint_background(u: NDArray[np.float64], sky: int, ground: int, horizon: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Paint the sky and the ground: a picture (64, 64, 3) in [0, 255], and whether a pixel is ground (64, 64)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    waviness = 0.0 if GROUNDS[ground] == "water" else 2.0 * u[0]
    edge = horizon + waviness * np.sin(2 * np.pi * (u[1] + (0.5 + u[2]) * x / SIZE))
    coverage = np.clip(y - edge + 0.5, 0, 1)[..., None]

    height = np.clip(y / edge, 0, 1)[..., None]
    zenith, low = SKY_COLOURS[sky] + 24 * (u[3:6] - 0.5)
    above = zenith + (low - zenith) * height
    if SKIES[sky] == "night":
        stars = u[16:32].reshape(8, 2) * (SIZE - 1, max(horizon - 4, 1))
        for star_x, star_y in stars.astype(int):
            above[star_y, star_x] += 120

    depth = np.clip((y - edge) / (SIZE - edge), 0, 1)[..., None]
    far, near = GROUND_COLOURS[ground] + 20 * (u[6:9] - 0.5)
    amplitude, across, down = TEXTURE[ground]
    ripple = np.sin(across * x + 2 * np.pi * u[9]) + np.sin(down * y + 0.2 * x * (u[10] - 0.5) + 2 * np.pi * u[11])
    below = (far + (near - far) * depth + 0.5 * amplitude * ripple[..., None]) * LIGHT[sky]

    picture = above + (below - above) * coverage
    return picture.astype(np.float32), y >= edge


def compose_scene(
    seed: int, index: int, *, split: Split = "train", single: float = 0.25, partial: float = 0.1
) -> Scene:
    """Compose scene `index` of the data set `seed`.

    `single` is the fraction of scenes with one object, `partial` the fraction of captions without the sky or the
    ground; both are 0 in the held-out split.
    """
    u = uniforms(seed, index, 80)
    held_out = split == "held_out"
    objects = choose_objects(u[0:3], split, 0.0 if held_out else single)
    sky, ground = pick(u[3], 0, len(SKIES) - 1), pick(u[4], 0, len(GROUNDS) - 1)
    horizon = pick(u[5], 24, 38)
    picture, is_ground = paint_background(u[8:40], sky, ground, horizon)
    semantic = np.where(is_ground, len(OBJECTS) + len(SKIES) + ground, len(OBJECTS) + sky).astype(np.uint8)

    placements = [
        place_object(u[40 + 8 * slot : 48 + 8 * slot], obj, slot, len(objects), horizon)
        for slot, obj in enumerate(objects)
    ]
    for placement in sorted(placements, key=lambda placement: placement.top + placement.size):
        colour, alpha = cut_out(placement.sprite, placement.size, placement.flipped)
        rows, columns = (
            slice(placement.top, placement.top + placement.size),
            slice(placement.left, placement.left + placement.size),
        )
        picture[rows, columns] += (colour - picture[rows, columns]) * alpha
        semantic[rows, columns][alpha[..., 0] >= 0.5] = placement.object

    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    names = [OBJECTS[obj] for obj in objects]
    caption = write_caption(u[60:80], names, SKIES[sky], GROUNDS[ground], 0.0 if held_out else partial)
    return Scene(image, semantic, caption, objects, sky, ground)


SKY_PHRASES = {
    "day": ("under a day sky", "under a blue sky", "by day", "in the day"),
    "night": ("under a night sky", "under a dark sky", "at night", "in the night"),
    "sunset": ("under a sunset sky", "under an orange sky", "at sunset", "in the sunset"),
}
GROUND_PHRASES = {
    "grass": ("on grass", "on the grass", "on green grass", "on a meadow"),
    "sand": ("on sand", "on the sand", "on yellow sand", "on a beach"),
    "snow": ("on snow", "on the snow", "on white snow", "on a snow field"),
    "water": ("on water", "on the water", "on blue water", "on the sea"),
}


def with_article(name: str) -> str:
    """`name` with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def write_caption(u: NDArray[np.float64], objects: Sequence[str], sky: str, ground: str, partial: float) -> str:
    """A caption with wording chosen by the uniform numbers `u` (at least 8).

    The objects are in random order, regardless of left and right. With probability `partial`, the sky, the ground or
    both are left out.
    """
    ordered = list(objects) if u[0] < 0.5 else list(objects)[::-1]
    names = [with_article(name) for name in ordered] if u[1] < 0.75 else ordered
    joint = " and " if u[2] < 0.85 else " with " if u[2] < 0.93 else ", "
    subject = joint.join(names)
    sky_phrase = phrase(SKY_PHRASES[sky], u[3])
    ground_phrase = phrase(GROUND_PHRASES[ground], u[4])
    if u[5] < partial:
        variants = (f"{subject} {ground_phrase}", f"{subject} {sky_phrase}", subject)
        return variants[int(u[6] * 3)]
    if u[7] < 0.1:
        return f"{sky_phrase}, {subject} {ground_phrase}"
    return f"{subject} {ground_phrase} {sky_phrase}"


def phrase(phrases: Sequence[str], u: float) -> str:
    """The first phrase half of the time, one of the others otherwise."""
    return phrases[0] if u < 0.5 else phrases[1 + int((u - 0.5) * 2 * (len(phrases) - 1))]
