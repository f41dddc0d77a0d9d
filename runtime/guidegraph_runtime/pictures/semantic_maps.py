"""The classes of scenes and their colours; read pictures as semantic maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.pictures.picture_files import File, file_name, read_picture

if TYPE_CHECKING:
    import PIL.Image

OBJECTS = (
    "tiger",
    "elephant",
    "penguin",
    "flamingo",
    "palm tree",
    "pine tree",
    "cactus",
    "sunflower",
    "mushroom",
    "pumpkin",
    "house",
    "car",
    "rocket",
    "sailboat",
    "balloon",
    "umbrella",
)
SKIES = ("day", "night", "sunset")
GROUNDS = ("grass", "sand", "snow", "water")

# The channels of a semantic map, and the order of the detector's logits.
CLASSES = OBJECTS + SKIES + GROUNDS

# One RGB colour for each of CLASSES: objects bright, skies blue to violet, grounds as they look.
COLOURS = (
    (255, 128, 0),  # tiger
    (128, 128, 160),  # elephant
    (40, 40, 40),  # penguin
    (255, 105, 180),  # flamingo
    (0, 128, 96),  # palm tree
    (0, 80, 40),  # pine tree
    (144, 200, 0),  # cactus
    (255, 224, 0),  # sunflower
    (176, 32, 48),  # mushroom
    (255, 80, 16),  # pumpkin
    (128, 64, 32),  # house
    (224, 0, 0),  # car
    (192, 192, 192),  # rocket
    (144, 96, 224),  # sailboat
    (255, 0, 128),  # balloon
    (128, 0, 128),  # umbrella
    (128, 200, 255),  # day
    (16, 16, 96),  # night
    (255, 176, 128),  # sunset
    (96, 176, 64),  # grass
    (232, 208, 144),  # sand
    (248, 248, 248),  # snow
    (32, 112, 208),  # water
)
TOLERANCE = 12  # the largest deviation of each channel of a colour
MOST_COLOURS = len(COLOURS) * (2 * TOLERANCE + 1) ** 3 // 4
"""Of a map: a quarter of all that stand for a class, so that a hostile one takes 50 MB and not 9 GB."""


def read_map(file: File, classes: int | None = None) -> NDArray[np.int64]:
    """Read the classes (H, W) from a picture of indices (grey or with a palette), or in the classes' colours.

    classes: the number of classes, which then have no colours; None for the classes of scenes.
    Raises ``FileNotFoundError``, and ``ValueError`` for any other picture.
    """
    pixels, indexed = read_picture(file, _pixels)
    if indexed:
        return check_indices(pixels, file, len(CLASSES) if classes is None else classes)
    if classes is not None:
        raise ValueError(
            f"{file_name(file)}: colours stand for the classes of scenes alone: for {classes} classes, give a grey "
            "picture, or one with a palette, of their indices"
        )
    return nearest_class(pixels, file)


def _pixels(picture: PIL.Image.Image) -> tuple[NDArray[Any], bool]:
    """Indices (H, W) or colours (H, W, 3), and whether they are indices."""
    bands = picture.getbands()
    if bands[0] not in ("1", "L", "P", "I", "F"):
        return np.array(picture.convert("RGB")), False
    return np.array(picture.getchannel(0) if len(bands) > 1 else picture), True


def check_indices(pixels: NDArray[Any], file: File, classes: int) -> NDArray[np.int64]:
    """Check that indices (H, W) are from 0 to classes − 1; return them as int64."""
    wrong = (pixels < 0) | (pixels >= classes) | (pixels % 1 != 0)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise ValueError(
            f"{file_name(file)}: the value at row {y}, column {x} is {pixels[y, x]}; classes are 0 to {classes - 1}"
        )
    return pixels.astype(np.int64)


def nearest_class(pixels: NDArray[np.uint8], file: File) -> NDArray[np.int64]:
    """The classes (H, W) of colours (H, W, 3). Raises ``ValueError`` for a colour that is not near any class."""
    packed = pixels.astype(np.int32) @ np.array((1 << 16, 1 << 8, 1), np.int32)
    colours, positions = np.unique(packed, return_inverse=True)  # a map has few, and each is compared once
    if len(colours) > MOST_COLOURS:
        raise ValueError(f"{file_name(file)}: its {len(colours)} colours cannot all stand for a class: is it a photo?")
    distance = np.abs((colours[:, None, None] >> np.array((16, 8, 0)) & 255) - np.array(COLOURS)).max(2)
    far = distance.min(1) > TOLERANCE
    if far.any():
        y, x = np.argwhere(far[positions].reshape(packed.shape))[0]
        nearest = int(distance[positions.reshape(packed.shape)[y, x]].argmin())
        raise ValueError(
            f"{file_name(file)}: the colour {tuple(map(int, pixels[y, x]))} at row {y}, column {x} stands for no "
            f"class; the nearest is {COLOURS[nearest]}, {CLASSES[nearest]}"
        )
    return np.asarray(distance.argmin(1)[positions].reshape(packed.shape), np.int64)
