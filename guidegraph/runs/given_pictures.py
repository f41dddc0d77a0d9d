"""Pictures that Python gives for parameters that name files: arrays, tensors and Pillow's pictures become PNG files.

The files lie in a temporary folder of the process, named by their contents, and are removed when the process ends.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, UnwritableOutput, WorkflowError
from guidegraph.graph.types import is_tensor
from guidegraph.nodes.output_formats import to_pixels
from guidegraph_runtime.files.atomic_write import write_bytes

FORMS = (
    "the path of a file, a picture of Pillow's, an array of uint8 (H, W), (H, W, 3) or (H, W, 4), a mask of bool "
    "(H, W), or a tensor of floats in [-1, 1] of shape (3, H, W) or (1, 3, H, W)"
)

MOST = 1.5
"""The largest value of a picture: a decoder may go a little beyond 1, and a PNG of an output has 1 there."""


def write_given_pictures(params: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    """The values of parameters, where each picture among those of ``names`` is the path of a file with it.

    Pixels of uint8 are kept exactly; floats are rounded to 8 bits, as a PNG of an output is. Raises ``WorkflowError``
    for an array of another form.
    """
    values, problems = dict(params), []
    for name in names:
        if name not in params:
            continue
        value = params[name]
        try:
            values[name] = [*map(_as_path, value)] if isinstance(value, (list, tuple)) else _as_path(value)
        except ValueError as error:
            problems.append(Problem(Mark("params", 1, 1), "bad-value", f"'{name}': {error}", f"params.{name}"))
    if problems:
        raise WorkflowError(problems)
    return values


def _as_path(value: Any) -> Any:
    """The path of a file with a picture; any other value as it is. Raises ``ValueError`` for an unknown form."""
    is_pillow = any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)
    if not is_pillow and not is_tensor(value) and not hasattr(value, "__array_interface__"):
        return value
    if is_pillow:
        from PIL import ImageOps

        if value.mode in ("F", "I", "HSV"):
            raise ValueError(f"expected {FORMS}; found a picture of Pillow's in mode {value.mode}")
        turned = ImageOps.exif_transpose(value)
        has_png_mode = turned.mode not in ("CMYK", "YCbCr", "LAB")
        picture = turned if has_png_mode else turned.convert("RGB")
    else:
        picture = _as_picture(value)
    stream = BytesIO()
    picture.save(stream, "PNG")
    data = stream.getvalue()
    path = _folder(os.getpid()) / f"{hashlib.sha256(data).hexdigest()}.png"
    if not path.exists():
        write_bytes(path, data)
    return path


def _as_picture(value: Any) -> Any:
    """An array or a tensor as a picture of Pillow's."""
    import numpy as np
    from PIL import Image

    dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    if dtype.startswith(("float", "bfloat")) and is_tensor(value) and shape[:-2] in ((3,), (1, 3)):
        if (largest := float(value.abs().max())) > MOST:
            raise ValueError(
                f"expected floats in [-1, 1]; found {largest:g}: x / 127.5 - 1 converts pixels of 0 to 255"
            )
        try:
            return Image.fromarray(to_pixels(value.reshape(shape[-3:])))
        except UnwritableOutput as error:
            raise ValueError(str(error)) from None
    if dtype not in ("uint8", "bool") or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        raise ValueError(f"expected {FORMS}; found {dtype} {shape}")
    pixels = np.asarray(value.detach().cpu() if is_tensor(value) else value)
    return Image.fromarray(np.ascontiguousarray(pixels * np.uint8(255) if dtype == "bool" else pixels))


@cache
def _folder(process: int) -> Path:
    """The folder of a process. A forked one has a folder of its own, and leaves that of its parent."""
    folder = Path(tempfile.mkdtemp(prefix="guidegraph-pictures-"))

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
