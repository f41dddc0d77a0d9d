"""The sky, the weather and the ground of a scene."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_scenes.scenes128 import textures
from guidegraph_scenes.scenes128.content import Background
from guidegraph_scenes.scenes128.draws import Draws
from guidegraph_scenes.scenes128.layout import SIZE
from guidegraph_scenes.scenes128.vocabulary import SKIES, WEATHERS

Floats = NDArray[np.float32]

ZENITH_AND_HORIZON = np.array(
    [
        [[84, 160, 236], [198, 230, 250]],
        [[150, 190, 232], [255, 214, 196]],
        [[98, 66, 142], [255, 158, 92]],
        [[8, 12, 44], [52, 58, 112]],
    ],
    dtype=np.float32,
)
"""Colours of each of SKIES, above and at the horizon."""
GREY_SKY = {
    "overcast": ((150, 160, 174), (206, 212, 218)),
    "rain": ((112, 124, 144), (176, 186, 198)),
    "snowfall": ((162, 174, 194), (216, 224, 234)),
    "fog": ((196, 202, 210), (226, 228, 230)),
    "storm": ((56, 60, 80), (126, 132, 150)),
}
"""Colours of the day's sky in weathers that hide it."""
LIGHT = np.array([[1, 1, 1], [1, 0.96, 0.94], [1, 0.87, 0.80], [0.52, 0.56, 0.76]], dtype=np.float32)
"""How the light of each of SKIES falls on the ground."""
DIM = {"overcast": 0.93, "rain": 0.84, "snowfall": 0.96, "fog": 0.97, "storm": 0.72}
"""How much of that light is left in a weather."""
CLOUDS = {"clouds": (4, 7), "rainbow": (1, 3), "overcast": (6, 9), "rain": (6, 8), "storm": (7, 9)}
"""The least and the largest number of clouds in a weather that has some."""
CLOUD_LIGHT = np.array([[255, 255, 255], [255, 240, 228], [255, 196, 172], [92, 100, 142]], dtype=np.float32)
"""The colour of white clouds under each of SKIES."""
RAINBOW = np.array(
    [[235, 70, 70], [245, 150, 60], [250, 225, 90], [90, 190, 100], [80, 140, 230], [150, 90, 200]], dtype=np.float32
)


class Backdrop(NamedTuple):
    """picture: (128, 128, 3) in [0, 255]. light: the factors (3) of the light on what stands in it."""

    picture: Floats
    light: Floats


@lru_cache(maxsize=1)
def pixel_grid() -> tuple[Floats, Floats]:
    """The row and the column of the centre of each pixel, (128, 1) and (1, 128)."""
    rows = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    return rows[:, None], rows[None]


def paint_background(background: Background, horizon: int, draws: Draws) -> Backdrop:
    """Paint everything behind the objects; the ground begins at row `horizon`."""
    weather = WEATHERS[background.weather]
    picture = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    picture[:] = sky_gradient(background, horizon, draws)
    paint_lights(picture, background, horizon, draws)
    if weather == "rainbow":
        paint_rainbow(picture, horizon, draws)
    paint_clouds(picture, background, horizon, draws)
    if weather == "storm":
        paint_lightning(picture, horizon, draws)
    light = LIGHT[background.sky] * np.float32(DIM.get(weather, 1.0))
    paint_ground(picture, background, horizon, light, draws)
    return Backdrop(picture, light)


def sky_gradient(background: Background, horizon: int, draws: Draws) -> Floats:
    """The colour (128, 1, 3) of each row of the sky."""
    zenith, low = ZENITH_AND_HORIZON[background.sky]
    grey = GREY_SKY.get(WEATHERS[background.weather])
    if grey:
        zenith, low = np.array(grey, dtype=np.float32)
        if SKIES[background.sky] == "night":
            zenith, low = 0.32 * zenith, 0.42 * low
    shift = np.array([draws.uniform(-12, 12) for _ in range(3)], dtype=np.float32)
    height = np.clip(np.arange(SIZE, dtype=np.float32)[:, None, None] / horizon, 0, 1)
    gradient: Floats = zenith + shift + (low - zenith) * height**1.3
    return gradient


def paint_lights(picture: Floats, background: Background, horizon: int, draws: Draws) -> None:
    """Paint the sun, or the moon and stars, unless the weather hides them."""
    x, y = draws.uniform(14, 114), draws.uniform(10, 26)
    if WEATHERS[background.weather] in GREY_SKY:
        return
    sky = SKIES[background.sky]
    if sky == "night":
        for _ in range(24):
            row, column = draws.integer(0, horizon - 6), draws.integer(0, SIZE - 1)
            picture[row, column] += draws.uniform(60, 170)
        paint_disc(picture, x, y, 7.5, (250, 246, 222), 10)
        if draws.chance(0.5):
            shadow = picture[0, 0].copy()
            paint_disc(picture, x + 3.5, y - 1.5, 6.5, tuple(shadow), 0)
    elif sky == "sunset":
        paint_disc(picture, x, horizon - draws.uniform(2, 10), 11, (255, 226, 130), 26)
    elif draws.chance(0.6):
        paint_disc(picture, x, y + (12 if sky == "morning" else 0), 8, (255, 244, 190), 16)


def paint_disc(picture: Floats, x: float, y: float, radius: float, colour: tuple[float, ...], glow: float) -> None:
    """Paint a smooth disc at column x and row y with a glow of `glow` pixels around it."""
    rows, columns = pixel_grid()
    distance = np.sqrt((rows - np.float32(y)) ** 2 + (columns - np.float32(x)) ** 2)
    alpha = np.clip(radius + 0.5 - distance, 0, 1)
    if glow:
        alpha = np.maximum(alpha, 0.35 * np.clip(1 - (distance - radius) / glow, 0, 1) ** 2)
    picture += (np.array(colour, dtype=np.float32) - picture) * alpha[..., None].astype(np.float32)


def paint_rainbow(picture: Floats, horizon: int, draws: Draws) -> None:
    """Paint a rainbow of six bands behind the clouds."""
    rows, columns = pixel_grid()
    x, y, radius = draws.uniform(40, 88), horizon + draws.uniform(0, 16), draws.uniform(46, 58)
    band = (np.float32(radius) - np.sqrt((rows - np.float32(y)) ** 2 + (columns - np.float32(x)) ** 2)) / 2.2
    inside = np.clip(np.minimum(band + 0.5, len(RAINBOW) + 0.5 - band), 0, 1)
    picture += (RAINBOW[np.clip(band, 0, len(RAINBOW) - 1).astype(np.intp)] - picture) * (0.6 * inside[..., None])


def paint_clouds(picture: Floats, background: Background, horizon: int, draws: Draws) -> None:
    """Paint clouds, white or in the light of the sky; storm clouds are dark."""
    weather = WEATHERS[background.weather]
    low, high = CLOUDS.get(weather, (0, 0))
    colour = CLOUD_LIGHT[background.sky]
    if weather in ("overcast", "rain", "storm"):
        colour = colour * np.float32({"overcast": 0.86, "rain": 0.66, "storm": 0.36}[weather])
    for _ in range(draws.integer(low, high)):
        brightness, alpha = textures.cloud_texture(draws.integer(0, textures.CLOUDS - 1))
        if draws.chance(0.5):
            brightness, alpha = brightness[:, ::-1], alpha[:, ::-1]
        width = alpha.shape[1]
        top = draws.integer(-6, max(0, horizon - 26)) if weather != "storm" else draws.integer(-8, 8)
        left = draws.integer(-width // 2, SIZE - width // 2)
        blend(picture, colour * brightness, alpha * np.float32(0.92), top, left)


def paint_lightning(picture: Floats, horizon: int, draws: Draws) -> None:
    """Paint a flash of lightning from the clouds towards the horizon."""
    flash = textures.lightning_texture(draws.integer(0, textures.VARIANTS - 1))[: horizon - 6]
    left = draws.integer(4, SIZE - 36)
    part = picture[6 : 6 + len(flash), left : left + flash.shape[1]]
    part += (np.array([255, 250, 200], dtype=np.float32) - part) * flash


def paint_ground(picture: Floats, background: Background, horizon: int, light: Floats, draws: Draws) -> None:
    """Paint the ground and what stands on its horizon, in the light of the sky."""
    variant = draws.integer(0, textures.VARIANTS - 1)
    left = draws.integer(0, textures.WIDTH - SIZE)
    columns = slice(left, left + SIZE)
    step = -1 if draws.chance(0.5) else 1
    colour, alpha = textures.ridge_texture(background.ground, draws.integer(0, textures.VARIANTS - 1))
    haze = picture[horizon, 0]
    colour, alpha = colour[:, columns][:, ::step] * light, alpha[:, columns][:, ::step]
    blend(picture, 0.7 * colour + 0.3 * haze * alpha, alpha, horizon - textures.RIDGE, 0)
    ground = textures.ground_texture(background.ground, variant)[: SIZE - horizon, columns][:, ::step]
    picture[horizon:] = ground * light


def blend(picture: Floats, colour: Floats, alpha: Floats, top: int, left: int) -> None:
    """Blend premultiplied colour (h, w, 3) into the picture at an upper left corner that may lie outside."""
    height, width = alpha.shape[:2]
    first_row, first_column = max(0, -top), max(0, -left)
    last_row, last_column = min(height, picture.shape[0] - top), min(width, picture.shape[1] - left)
    if first_row >= last_row or first_column >= last_column:
        return
    source = slice(first_row, last_row), slice(first_column, last_column)
    part = picture[top + first_row : top + last_row, left + first_column : left + last_column]
    part *= 1 - alpha[source]
    part += colour[source]


def paint_weather(picture: Floats, background: Background, horizon: int, draws: Draws) -> None:
    """Paint rain, falling snow or fog in front of everything."""
    weather = WEATHERS[background.weather]
    variant = draws.integer(0, textures.VARIANTS - 1)
    step = -1 if draws.chance(0.5) else 1
    if weather in ("rain", "storm"):
        rain = textures.rain_texture(variant)[:, ::step]
        picture += (np.float32(214) - picture) * (rain * np.float32(0.55))
    elif weather == "snowfall":
        picture += (np.float32(252) - picture) * textures.snowfall_texture(variant)[:, ::step]
    elif weather == "fog":
        rows, _ = pixel_grid()
        distance = np.abs(rows - np.float32(horizon)) / SIZE
        thickness = np.clip(0.5 - 1.6 * distance, 0.12, 0.42)[..., None]
        picture += (np.array([226, 229, 232], dtype=np.float32) - picture) * thickness
