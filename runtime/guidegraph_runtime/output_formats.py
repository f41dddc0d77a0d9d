"""Write outputs as files by type: pictures to PNG, tensors to safetensors, numbers and texts to JSON.

Samples of other types are written by the functions of plugins, which may fail, hang, or write nothing.
"""

from __future__ import annotations

import contextvars
import importlib.metadata
import json
import math
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.files.atomic_write import atomic_path, write_text
from guidegraph_runtime.files.regular_files import read_regular
from guidegraph_runtime.machine.shortages import explain_shortage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


T = TypeVar("T")
GROUP = "guidegraph_runtime_outputs"
"""The entry points that write outputs of bundles: objects with ``type``, ``suffix`` and ``write``."""
SECONDS = 60.0


class FormatFailure(Exception):
    """A plugin's format failed; the message follows an output's name."""


class Writer(NamedTuple):
    """How a plugin writes samples of a type. owner: its name in messages. seconds: after which a call is given up."""

    write: Callable[[Any, Path], object]
    suffix: str
    owner: str
    seconds: float | None = SECONDS


def run_in_time(call: Callable[[], T], seconds: float | None) -> T:
    """The result of a call. Raises its error, or ``TimeoutError`` after some seconds; the call then goes on unseen."""
    if seconds is None:
        return call()
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"did not end within {seconds:g} s")
    return results[0]


def write_sample(
    writer: Writer,
    sample: Any,
    path: Path,
    finish: Callable[[Path], None] | None = None,
    passed: tuple[type[BaseException], ...] = (),
) -> None:
    """Write a sample to a file, under a temporary name first. finish: called with the written file before its renaming.

    Raises ``FormatFailure`` for a writer that fails, hangs, or writes nothing. A full disk, and errors of the classes
    ``passed``, go through.
    """
    with atomic_path(path) as temporary:
        try:
            run_in_time(lambda: writer.write(sample, temporary), writer.seconds)
        except KeyboardInterrupt:
            raise
        except passed:
            raise
        except TimeoutError as error:
            raise FormatFailure(f"was not written: {writer.owner} {error}") from error
        except BaseException as error:  # code of a plugin: other outputs are still written
            if explain_shortage(error):
                raise
            raise FormatFailure(f"was not written: {writer.owner} failed: {describe_error(error)}") from error
        if not temporary.is_file():
            raise FormatFailure(f"was not written: {writer.owner} wrote no file at the path that it was given")
        if finish is not None:
            finish(temporary)


def find_writers(type_name: str) -> list[Writer]:
    """The installed writers of a port type, one for each suffix; none if no entry point is for it.

    Raises ``FormatFailure`` for an entry point that is no writer, and if none is for the type but some cannot be
    imported: one of them may be.
    """
    writers: dict[str, Writer] = {}
    broken: list[str] = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        owner = f"the entry point {entry.name} of {GROUP} ({entry.value})"
        try:
            loaded = entry.load()
        except Exception as error:
            broken.append(f"{owner} cannot be imported: {describe_error(error)}")
            continue
        declared = getattr(loaded, "type", None)
        if getattr(declared, "__name__", declared) != type_name:
            continue
        suffix, write = getattr(loaded, "suffix", None), getattr(loaded, "write", None)
        if not isinstance(suffix, str) or not suffix.startswith(".") or not callable(write):
            raise FormatFailure(f"was not written: {owner} has no suffix such as '.wav', or no function 'write'")
        writers.setdefault(suffix, Writer(write, suffix, owner, getattr(loaded, "seconds", SECONDS)))
    if broken and not writers:
        raise FormatFailure(f"was not written: no entry point of {GROUP} is for {type_name}, and {'; '.join(broken)}")
    return list(writers.values())


def write_samples(
    folder: Path, name: str, value: NDArray[Any], axes: int, writers: list[Writer], files: list[str]
) -> None:
    """Write an output of a bundle by each writer, and append the names of the written files to a list.

    axes: how many axes a sample has; the others, which come before, count the samples.
    Raises ``FormatFailure`` after the last writer if one failed, for a value with fewer axes, and for no sample.
    """
    if value.ndim < axes:
        raise FormatFailure(f"was not written: it has {value.ndim} axes, and a sample has {axes}")
    samples = [value] if value.ndim == axes else list(value.reshape(-1, *value.shape[value.ndim - axes :]))
    if not samples:
        raise FormatFailure("is an empty batch: there is nothing to write")
    failures = []
    for writer in writers:
        try:
            for file, sample in zip(sample_names(name, len(samples), writer.suffix), samples, strict=True):
                write_sample(writer, sample, folder / file)
                files.append(file)
        except FormatFailure as error:
            failures.append(str(error))
    if failures:
        raise FormatFailure("; ".join(failures))


def write_encoded(name: str, value: NDArray[Any], type_name: str, axes: int) -> tuple[list[dict[str, str]], str]:
    """Write an output of a bundle by the writers of its type, as files with their ``name`` and ``base64``.

    Returns them, none without writers, and the message of a writer that failed, or an empty text. axes: as for
    `write_samples`.
    """
    files: list[str] = []
    failure = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if writers := find_writers(type_name):
                write_samples(Path(folder), name, value, axes, writers, files)
        except FormatFailure as error:
            failure = str(error)
        data = {file: read_regular(Path(folder) / file) for file in files}
    return [{"name": file, "base64": b64encode(content).decode()} for file, content in data.items()], failure


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
