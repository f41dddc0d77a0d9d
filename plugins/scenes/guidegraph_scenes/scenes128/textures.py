"""Painted textures of grounds, of the horizon, of clouds and of weathers: drawn once, then cached.

All are drawn at three times their size and scaled down, so that edges are smooth. Grounds are in perspective: details
grow from the horizon, which is row 0, downward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.vocabulary import GROUNDS

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

WIDTH, ROWS, RIDGE = 256, 84, 26
"""Sizes of textures: the width of all, the rows of a ground, and the rows of a ridge on the horizon."""
VARIANTS = 4
CLOUDS = 8
"""Textures of clouds; there are `VARIANTS` of all others."""
FINE = 3
"""Pixels of a drawing for one pixel of its texture."""

GROUND_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((142, 200, 98), (72, 156, 62)),
    "sand": ((244, 222, 170), (224, 188, 124)),
    "snow": ((222, 234, 248), (250, 252, 255)),
    "water": ((96, 176, 222), (22, 96, 176)),
    "road": ((150, 152, 158), (104, 106, 114)),
    "flowers": ((132, 194, 104), (74, 152, 66)),
    "leaves": ((186, 140, 84), (142, 96, 54)),
    "rock": ((176, 166, 158), (124, 112, 106)),
}
"""The colour of a ground at the horizon and at the lower edge."""
PETALS = ((232, 60, 70), (250, 214, 70), (250, 250, 250), (238, 130, 190), (160, 110, 220))
FOLIAGE = ((206, 84, 34), (226, 142, 40), (236, 190, 62), (164, 52, 36))


@lru_cache(maxsize=len(GROUNDS) * VARIANTS)
def ground_texture(ground: int, variant: int) -> Floats:
    """The texture (84, 256, 3) in [0, 255] of a ground in full daylight."""
    name = GROUNDS[ground]
    far, near = (np.array(colour, dtype=np.float32) for colour in GROUND_COLOURS[name])
    depth = np.linspace(0, 1, FINE * ROWS, dtype=np.float32)[:, None, None]
    base = np.broadcast_to(far + (near - far) * np.sqrt(depth), (FINE * ROWS, FINE * WIDTH, 3))
    image, brush = _canvas(np.rint(base).astype(np.uint8))
    GROUND_PAINTERS[name](brush, Draws(ground, variant, 1 << 20))
    return _scale_down(image)


@lru_cache(maxsize=len(GROUNDS) * VARIANTS)
def ridge_texture(ground: int, variant: int) -> tuple[Floats, Floats]:
    """What stands on the horizon of a ground: colour (26, 256, 3) times alpha, and alpha (26, 256, 1)."""
    image, brush = _canvas(np.zeros((FINE * RIDGE, FINE * WIDTH, 4), dtype=np.uint8))
    draws = Draws(ground, variant, 2 << 20)
    for colour, height, roughness in RIDGES[GROUNDS[ground]]:
        if roughness < 0:
            _paint_skyline(brush, draws, colour, height)
        else:
            _paint_hills(brush, draws, colour, height, roughness)
    return _premultiply(image)


@lru_cache(maxsize=CLOUDS)
def cloud_texture(variant: int) -> tuple[Floats, Floats]:
    """A cloud: brightness (22, 52, 1) times alpha, and alpha (22, 52, 1), both in [0, 1]."""
    from PIL import ImageFilter

    empty = np.full((FINE * 22, FINE * 52, 4), (255, 255, 255, 0), dtype=np.uint8)
    image, brush = _canvas(empty)
    draws = Draws(variant, 0, 3 << 20)
    puffs = [(draws.uniform(10, 42), draws.uniform(9, 15), draws.uniform(4, 7.5)) for _ in range(7)]
    for shade, lift in ((214, 0.0), (255, 2.0)):
        for x, y, radius in puffs:
            _ellipse(brush, x, y - lift, radius * 1.25, radius, (shade, shade, shade, 255))
    colour, alpha = _premultiply(image.filter(ImageFilter.GaussianBlur(2)))
    return colour[..., :1] / np.float32(255), alpha


@lru_cache(maxsize=VARIANTS)
def rain_texture(variant: int) -> Floats:
    """How much rain covers each pixel (128, 128, 1) in [0, 1]: slanted strokes."""
    image, brush = _canvas(np.zeros((FINE * 128, FINE * 128), dtype=np.uint8))
    for draws in _draws_of_details(variant, 150, 4 << 20):
        x, y, length = draws.uniform(0, 140), draws.uniform(-8, 128), draws.uniform(4, 9)
        ends = [(FINE * x, FINE * y), (FINE * (x - 0.3 * length), FINE * (y + length))]
        brush.line(ends, fill=draws.integer(110, 190), width=2)
    return _scale_down(image)[..., None] / np.float32(255)


@lru_cache(maxsize=VARIANTS)
def snowfall_texture(variant: int) -> Floats:
    """How much falling snow covers each pixel (128, 128, 1) in [0, 1]: round flakes."""
    image, brush = _canvas(np.zeros((FINE * 128, FINE * 128), dtype=np.uint8))
    for draws in _draws_of_details(variant, 110, 5 << 20):
        radius = draws.uniform(0.6, 1.5)
        _ellipse(brush, draws.uniform(0, 128), draws.uniform(0, 128), radius, radius, 250)
    return _scale_down(image)[..., None] / np.float32(255)


@lru_cache(maxsize=VARIANTS)
def lightning_texture(variant: int) -> Floats:
    """How bright a flash of lightning is at each pixel (64, 32, 1) in [0, 1]."""
    from PIL import ImageFilter

    image, brush = _canvas(np.zeros((FINE * 64, FINE * 32), dtype=np.uint8))
    draws = Draws(variant, 0, 6 << 20)
    points = [(16.0, 0.0)]
    while points[-1][1] < 62:
        x, y = points[-1]
        points.append((min(max(x + draws.uniform(-7, 7), 4), 28), min(y + draws.uniform(5, 12), 62)))
    corners = [(FINE * x, FINE * y) for x, y in points]
    brush.line(corners, fill=120, width=8)
    image = image.filter(ImageFilter.GaussianBlur(5))
    bolt, brush = _canvas(np.asarray(image))
    brush.line(corners, fill=255, width=5)
    return _scale_down(bolt)[..., None] / np.float32(255)


def _draws_of_details(variant: int, count: int, purpose: int) -> Iterator[Draws]:
    """The choices of each of `count` details, at most five for each: 25 of them share a sequence."""
    for first in range(0, count, 25):
        draws = Draws(variant, 1 + first, purpose)
        for _ in range(min(25, count - first)):
            yield draws


def _canvas(pixels: NDArray[np.uint8]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    return image, ImageDraw.Draw(image)


def _scale_down(image: Image.Image) -> Floats:
    from PIL import Image

    small = image.resize((image.width // FINE, image.height // FINE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _premultiply(image: Image.Image) -> tuple[Floats, Floats]:
    pixels = _scale_down(image.convert("RGBa"))
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3:]) / np.float32(255)


def _ellipse(
    brush: ImageDraw.ImageDraw, x: float, y: float, a: float, b: float, fill: Colour | tuple[int, ...] | int
) -> None:
    """Draw an ellipse with centre and half axes in pixels of the texture."""
    brush.ellipse((FINE * (x - a), FINE * (y - b), FINE * (x + a), FINE * (y + b)), fill=fill)


def _spots(draws: Draws, count: int) -> list[tuple[float, float, float, Draws]]:
    """Positions on a ground, dense towards the horizon, from far to near, each with its scale and its own choices."""
    rows = sorted(draws.uniform() ** 1.5 for _ in range(min(count, 100)))
    rows += [draws.uniform() ** 1.5 for _ in range(count - len(rows))]
    spots = []
    for number, row in enumerate(sorted(rows)):
        own = Draws(number, int(1e6 * row), 7 << 20)
        spots.append((own.uniform(0, WIDTH), row * ROWS, 0.25 + 0.75 * row, own))
    return spots


def _paint_grass(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 420):
        fill = own.choose(((58, 132, 52), (96, 176, 76), (82, 160, 66), (120, 190, 88)))
        for lean in (-1.6, 0.0, 1.6):
            brush.line(
                [(FINE * x, FINE * y), (FINE * (x + lean * scale), FINE * (y - 4.5 * scale))], fill=fill, width=2
            )


def _paint_sand(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 90):
        length = own.uniform(6, 16) * scale
        box = (FINE * (x - length), FINE * (y - 1.4 * scale), FINE * (x + length), FINE * (y + 1.4 * scale))
        brush.arc(box, 190, 350, fill=own.choose(((206, 170, 108), (250, 230, 184))), width=2)
    for x, y, scale, own in _spots(draws, 60):
        _ellipse(brush, x, y, 0.9 * scale, 0.6 * scale, own.choose(((186, 150, 100), (252, 240, 210))))


def _paint_snow(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 60):
        _ellipse(brush, x, y + 2 * scale, own.uniform(8, 22) * scale, 1.8 * scale, (206, 222, 242))
        _ellipse(brush, x - scale, y + 2.8 * scale, own.uniform(10, 24) * scale, 1.9 * scale, (246, 250, 255))


def _paint_water(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 260):
        fill = own.choose(((150, 212, 240), (60, 142, 208), (40, 120, 196), (190, 230, 248)))
        _ellipse(brush, x, y, own.uniform(3, 9) * scale, 0.75 * scale, fill)


def _paint_road(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    edge, lower = 9.0, 66.0
    brush.rectangle((0, 0, FINE * WIDTH, FINE * edge), fill=(188, 184, 178))
    brush.rectangle((0, FINE * (edge - 2), FINE * WIDTH, FINE * edge), fill=(142, 140, 138))
    for x, y, scale, own in _spots(draws, 160):
        _ellipse(brush, x, max(y, edge + 2), 1.2 * scale, 0.6 * scale, own.choose(((124, 126, 132), (96, 98, 106))))
    start = draws.uniform(0, 44)
    for number in range(-1, 7):
        x = start + 44 * number
        brush.polygon(
            [
                (FINE * x, FINE * 33),
                (FINE * (x + 24), FINE * 33),
                (FINE * (x + 22), FINE * 37),
                (FINE * (x - 3), FINE * 37),
            ],
            fill=(240, 238, 226),
        )
    brush.rectangle((0, FINE * lower, FINE * WIDTH, FINE * ROWS), fill=(196, 192, 186))
    brush.rectangle((0, FINE * lower, FINE * WIDTH, FINE * (lower + 2.5)), fill=(222, 220, 214))
    for number in range(-1, 12):
        x = start + 24 * number
        brush.line([(FINE * x, FINE * (lower + 2.5)), (FINE * (x - 10), FINE * ROWS)], fill=(168, 164, 158), width=2)


def _paint_flowers(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    _paint_grass(brush, draws)
    for x, y, scale, own in _spots(draws, 150):
        fill, radius = own.choose(PETALS), 1.5 * scale
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            _ellipse(brush, x + radius * dx, y + radius * dy, radius, radius, fill)
        _ellipse(brush, x, y, 0.8 * radius, 0.8 * radius, (250, 200, 60) if fill != PETALS[1] else (200, 120, 40))


def _paint_leaves(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 420):
        a, b = own.uniform(1.6, 3.2) * scale, own.uniform(0.9, 1.5) * scale
        lean = own.uniform(-1.2, 1.2) * scale
        corners = [(x - a, y - lean), (x, y - b), (x + a, y + lean), (x, y + b)]
        brush.polygon([(FINE * u, FINE * v) for u, v in corners], fill=own.choose(FOLIAGE))


def _paint_rock(brush: ImageDraw.ImageDraw, draws: Draws) -> None:
    for x, y, scale, own in _spots(draws, 110):
        a, b = own.uniform(3, 8) * scale, own.uniform(1.5, 3) * scale
        light, dark = own.choose((((190, 180, 172), (120, 108, 102)), ((168, 158, 150), (104, 94, 90))))
        outline = [(-1, 0.4), (-0.6, -0.7), (0.1, -1), (0.8, -0.5), (1, 0.5), (0.2, 1), (-0.7, 0.9)]
        brush.polygon([(FINE * (x + a * u), FINE * (y + b * v)) for u, v in outline], fill=dark)
        brush.polygon([(FINE * (x + 0.85 * a * u), FINE * (y + b * (0.75 * v - 0.2))) for u, v in outline], fill=light)


GROUND_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, Draws], None]] = {
    "grass": _paint_grass,
    "sand": _paint_sand,
    "snow": _paint_snow,
    "water": _paint_water,
    "road": _paint_road,
    "flowers": _paint_flowers,
    "leaves": _paint_leaves,
    "rock": _paint_rock,
}

RIDGES: dict[str, tuple[tuple[Colour, float, float], ...]] = {
    "grass": (((128, 178, 150), 16, 1.0), ((112, 178, 96), 8, 1.0)),
    "sand": (((228, 196, 140), 13, 0.7),),
    "snow": (((176, 196, 222), 24, 4.0), ((206, 220, 240), 10, 1.5)),
    "water": (((96, 140, 150), 5, 1.0),),
    "road": (((138, 146, 166), 24, -1.0), ((108, 114, 134), 16, -1.0)),
    "flowers": (((150, 190, 150), 14, 1.0), ((118, 182, 104), 7, 1.0)),
    "leaves": (((196, 118, 60), 20, 7.0), ((170, 92, 46), 12, 7.0)),
    "rock": (((150, 140, 150), 25, 4.0), ((138, 124, 118), 12, 4.0)),
}
"""Layers on the horizon, from far to near: colour, height in pixels, and roughness; −1 is a skyline of houses."""


def _paint_hills(brush: ImageDraw.ImageDraw, draws: Draws, colour: Colour, height: float, roughness: float) -> None:
    """Paint hills that repeat after the texture's width: sines of falling amplitude, the more the rougher they are."""
    columns = np.arange(FINE * WIDTH + 1) / (FINE * WIDTH)
    heights = np.zeros_like(columns)
    for frequency in range(1, 4 + int(5 * roughness)):
        amplitude = draws.uniform(0.3, 1) / frequency ** (1.6 / max(1.0, roughness / 3))
        heights += amplitude * np.sin(2 * np.pi * (frequency * columns + draws.uniform()))
    heights = (heights - heights.min()) / (heights.max() - heights.min())
    top = FINE * (RIDGE - height * (0.25 + 0.75 * heights))
    outline = [(float(x), float(y)) for x, y in enumerate(top)]
    brush.polygon([*outline, (FINE * WIDTH, FINE * RIDGE), (0, FINE * RIDGE)], fill=(*colour, 255))


def _paint_skyline(brush: ImageDraw.ImageDraw, draws: Draws, colour: Colour, height: float) -> None:
    x = 0.0
    while x < WIDTH:
        width, top = draws.uniform(8, 20), RIDGE - height * draws.uniform(0.4, 1)
        brush.rectangle((FINE * x, FINE * top, FINE * (x + width), FINE * RIDGE), fill=(*colour, 255))
        for row in range(int(top) + 2, RIDGE - 2, 5):
            for column in range(int(x) + 2, int(x + width) - 2, 4):
                box = (FINE * column, FINE * row, FINE * column + 4, FINE * row + 6)
                brush.rectangle(box, fill=(228, 214, 160, 255) if draws.chance(0.4) else (90, 96, 116, 255))
        x += width
