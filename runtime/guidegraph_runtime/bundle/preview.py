"""Previews of a run: a linear map from a sample that a loop carries to the colours of the picture.

A latent of C channels is a small picture of its own: a least-squares fit to the decoded picture's colours, averaged
over the pixels of each position, shows what is being drawn, and costs a matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Operation, Preview
from guidegraph_runtime.running.values import Loop

RGB = 3


def find_carry(plan: Sequence[Operation], source: str) -> str | None:
    """The value that a loop carries and that a picture is made of: by a part after the loop, or as it is.

    source: the name of the picture in the plan. None if the picture is made otherwise.
    """
    results: dict[str, str] = {}
    for operation in plan:
        if operation.op == "loop":
            results |= Loop.of(operation).result
        elif operation.op == "part" and source in operation.outputs:
            carries = [results[name] for name in operation.inputs.values() if name in results]
            return carries[0] if len(carries) == 1 else None
    return results.get(source)


def fit_preview(plan: Sequence[Operation], source: str, sample: NDArray[Any], picture: NDArray[Any]) -> Preview | None:
    """Fit a preview to a run's last sample (B, C, h, w) and its picture (B, 3, H, W) in [-1, 1].

    None if the picture is not made of a carried sample, or if its sides are no multiples of the sample's.
    """
    carry = find_carry(plan, source)
    if carry is None or sample.ndim != 4 or picture.ndim != 4 or picture.shape[1] != RGB:
        return None
    count, channels, height, width = sample.shape
    if len(picture) != count or picture.shape[2] % height or picture.shape[3] % width:
        return None
    blocks = picture.reshape(count, RGB, height, picture.shape[2] // height, width, picture.shape[3] // width)
    colours = blocks.astype(np.float64).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, RGB)
    values = sample.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, channels)
    if not (np.isfinite(colours).all() and np.isfinite(values).all()):
        return None
    solution = np.linalg.lstsq(np.column_stack([values, np.ones(len(values))]), colours, rcond=None)[0]
    return Preview(carry, tuple(tuple(map(float, row)) for row in solution.T))


def draw_preview(preview: Preview, carries: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Draw a carried sample as pictures (B, 3, h, w) in [-1, 1], float32; None if the run carries no such sample."""
    sample = carries.get(preview.carry)
    weights = np.array(preview.matrix, np.float32)
    if sample is None or sample.ndim != 4 or sample.shape[1] != weights.shape[1] - 1:
        return None
    picture = np.tensordot(weights[:, :-1], sample.astype(np.float32), (1, 1)).transpose(1, 0, 2, 3)
    coloured: NDArray[Any] = np.clip(picture + weights[:, -1].reshape(1, RGB, 1, 1), -1, 1)
    return coloured
