"""Write a run's outputs by type: pictures to PNG, tensors to safetensors, numbers and texts to JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph_runtime.files.atomic_write import atomic_path, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PictureText: TypeAlias = Callable[[str, int, int], Mapping[str, str]]
"""Returns the texts of a PNG from the output, the index in the batch and the size of the batch."""


def pixels(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert a picture (3, H, W) in [-1, 1] to uint8 (H, W, 3): round((v + 1) · 127.5), clamped.

    Computes in float64 for float64 input, otherwise in float32. Raises ``ValueError`` for other dtypes and for values
    that are not finite.
    """
    import numpy as np

    if picture.dtype.kind != "f":
        raise ValueError(f"is an image of {picture.dtype}: floats in [-1, 1] are expected")
    exact: NDArray[Any] = picture.astype(np.float64 if picture.dtype == np.float64 else np.float32, copy=False)
    if bad_count := int((~np.isfinite(exact)).sum()):
        kind = "NaN" if np.isnan(exact).any() else "infinite"
        raise ValueError(
            f"is not a picture: {bad_count} of {exact.size} values are {kind}; look at the scale and the steps"
        )
    scaled: NDArray[np.uint8] = ((exact + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def sample_names(output: str, count: int, suffix: str = ".png") -> list[str]:
    """The file names of a batch: ``image.png`` for one sample, else ``image-0000.png``, …"""
    return [f"{output}{suffix}"] if count == 1 else [f"{output}-{i:04}{suffix}" for i in range(count)]


def write_output(folder: Path, name: str, kind: str, value: NDArray[Any], text: PictureText) -> list[str]:
    """Write one output of a bundle, an "image", "tensor" or "table", atomically; return the names of its files.

    Raises ``ValueError`` for a value that cannot be written, and ``OSError``.
    """
    if kind == "image":
        from guidegraph_runtime.pictures.png import write_png

        arrays = split_pictures(value)
        files = sample_names(name, len(arrays))
        for i, (file, array) in enumerate(zip(files, arrays, strict=True)):
            write_png(folder / file, array, text(name, i, len(arrays)))
        return files
    if kind == "table" or value.dtype.kind in "US":
        write_text(folder / f"{name}.json", json.dumps(plain_table(value), indent=2) + "\n")
        return [f"{name}.json"]
    from safetensors.numpy import save

    with atomic_path(folder / f"{name}.safetensors") as temporary:
        temporary.write_bytes(save({name: value}))
    return [f"{name}.safetensors"]


def split_pictures(value: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """The pictures of an image (B, 3, H, W) or one with further leading axes, in [-1, 1], each (H, W, 3) in uint8.

    Raises ``ValueError``, whose message follows the output's name, for another shape, no picture, or bad values.
    """
    if value.ndim < 4 or value.shape[-3] != 3:
        raise ValueError(f"is declared as an image (B, 3, H, W), found {value.shape}")
    pictures = [pixels(picture) for picture in value.reshape(-1, *value.shape[-3:])]
    if not pictures:
        raise ValueError("is an empty batch: there is no picture to write")
    return pictures


def plain_table(value: NDArray[Any]) -> Any:
    """Numbers or texts for JSON: lists as the array has axes; of a table, a dict of its columns."""
    if value.dtype.names is None:
        return plain_numbers(value.tolist())
    from guidegraph_runtime.checks import list_columns

    return {name: plain_numbers(column) for name, column in list_columns(value).items()}


def plain_numbers(value: Any) -> Any:
    """Replace numbers that JSON lacks by the texts "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
