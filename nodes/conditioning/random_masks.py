"""Random masks: boxes and strokes, from NumPy's raw Philox bits."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guidegraph.nodes.uniforms import pick
from guidegraph_runtime.noise import raw_bits

NUMBERS = 32  # uniform numbers per mask
SAMPLES = 2**20  # a batch is smaller, so no two masks share their numbers
BOXES = (1, 3)
STROKES = (1, 4)
POINTS = 3  # of a stroke


def draw_mask(
    seed: int, index: int, sample: int, height: int, width: int, kind: Literal["mixed", "boxes", "strokes"]
) -> NDArray[np.float32]:
    """The mask (height, width) of one sample of batch `index`, 1 where the picture is hidden."""
    bits = raw_bits(seed, NUMBERS, index * SAMPLES + sample)
    u = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    mask = np.zeros((height, width), dtype=np.float32)
    if kind == "boxes" or (kind == "mixed" and u[0] < 0.5):
        draw_boxes(mask, u[1:])
    else:
        draw_strokes(mask, u[1:])
    return mask


def draw_boxes(mask: NDArray[np.float32], u: NDArray[np.float64]) -> None:
    """Draw one to three boxes with sides of 15 to 60 % of the picture's."""
    height, width = mask.shape
    for box in range(pick(u[0], *BOXES)):
        across, down, left, top = u[1 + 4 * box : 5 + 4 * box]
        rows, columns = round((0.15 + 0.45 * down) * height), round((0.15 + 0.45 * across) * width)
        first_row, first_column = pick(top, 0, height - rows), pick(left, 0, width - columns)
        mask[first_row : first_row + rows, first_column : first_column + columns] = 1


def draw_strokes(mask: NDArray[np.float32], u: NDArray[np.float64]) -> None:
    """Draw one to four bent strokes of a round brush, 6 to 20 % of the picture's side thick."""
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for stroke in range(pick(u[0], *STROKES)):
        numbers = u[1 + 7 * stroke : 8 + 7 * stroke]
        radius = (0.03 + 0.07 * numbers[0]) * min(height, width)
        points = numbers[1:7].reshape(POINTS, 2) * (height, width)
        for begin, end in pairwise(points):
            mask[distance(y, x, begin, end) <= radius] = 1


def distance(
    y: NDArray[np.float64], x: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The distance of every pixel to the segment between two points (y, x)."""
    along = end - begin
    length = max(float(along @ along), 1e-12)
    fraction = np.clip(((y - begin[0]) * along[0] + (x - begin[1]) * along[1]) / length, 0, 1)
    pixels: NDArray[np.float64] = np.hypot(y - begin[0] - fraction * along[0], x - begin[1] - fraction * along[1])
    return pixels
