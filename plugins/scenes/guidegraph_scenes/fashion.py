"""Fashion-MNIST (Xiao et al. 2017): grey photographs of clothes in ten classes."""

from __future__ import annotations

import gzip
import io
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Label, Sample
from guidegraph.nodes.uniforms import uniforms
from guidegraph_runtime.limits import check_limit, current_limits
from guidegraph_scenes.scene_sprites import data_file

Split = Literal["train", "test"]

CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SIZE = 32
STEMS = {"train": "train", "test": "t10k"}
IDX_BYTES = 8  # the type code of unsigned bytes


class FashionBatch(NamedTuple):
    """sample (B, 1, 32, 32) in [-1, 1], −1 outside the 28 × 28 pixels of the original; label (B), 0 … 9."""

    sample: Sample
    label: Label


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of bytes, gzipped or not. Raises ``ValueError`` for anything else."""
    try:
        raw = read_regular(path, limit="file_bytes")
        data = _decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if data[:3] != bytes([0, 0, IDX_BYTES]) or len(data) < 4:
        raise ValueError(f"{path} is not an idx file of bytes: expected it to begin with 00 00 08")
    axes = data[3]
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    actual = len(data) - 4 - 4 * axes
    if actual != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is damaged: shape {shape} needs {np.prod(shape)} bytes, found {actual}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _decompress(raw: bytes) -> bytes:
    """Decompress gzip data, up to the limit on elements, which are bytes here. Raises ``LimitExceeded``."""
    limit = current_limits().elements
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        data = file.read(limit + 1)
    check_limit("elements", len(data), f"an idx file has more elements than that: at least {len(data):,}")
    return data


@lru_cache(maxsize=4)
def load_fashion(split: Split, folder: Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (N, 28, 28) and labels (N), from the subset in the package or from a folder of idx files."""
    if folder is None:
        with np.load(data_file("fashion.npz"), allow_pickle=False) as packed:
            return packed[f"{split}_images"], packed[f"{split}_labels"].astype(np.int64)
    pictures = read_idx(find_idx_file(folder, f"{STEMS[split]}-images-idx3-ubyte"))
    labels = read_idx(find_idx_file(folder, f"{STEMS[split]}-labels-idx1-ubyte"))
    if pictures.shape[1:] != (28, 28) or len(pictures) == 0 or labels.shape != pictures.shape[:1]:
        raise ValueError(
            f"{folder}: expected pictures (N, 28, 28) and N labels; found {pictures.shape}, {labels.shape}"
        )
    return pictures, labels.astype(np.int64)


def find_idx_file(folder: Path, name: str) -> Path:
    """The file `name` in the folder, with or without .gz."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise ValueError(f"'{folder}' has no {name} or {name}.gz: give the folder of Fashion-MNIST's idx files")


def fashion_batch(
    seed: int, batch: int, index: int, *, split: Split, folder: Path | None, shuffle: bool
) -> FashionBatch:
    """`batch` pictures drawn with replacement; without `shuffle`, those in file order, starting over at the end."""
    if not shuffle:
        return consecutive_fashion_batch(index * batch, batch, split=split, folder=folder)
    pictures, labels = load_fashion(split, folder)
    indices = (uniforms(seed, index, batch) * len(pictures)).astype(np.int64)
    return make_batch(pictures[indices], labels[indices])


def consecutive_fashion_batch(start: int, batch: int, *, split: Split, folder: Path | None) -> FashionBatch:
    """Pictures start … start + batch − 1 in file order, starting over at the end."""
    pictures, labels = load_fashion(split, folder)
    indices = (start % len(pictures) + np.arange(batch)) % len(pictures)
    return make_batch(pictures[indices], labels[indices])


def make_batch(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> FashionBatch:
    """Pad pictures (B, 28, 28) to samples and add their labels (B)."""
    margin = (SIZE - pictures.shape[1]) // 2
    padded = np.pad(pictures, ((0, 0), (margin, margin), (margin, margin)))
    sample: Tensor = torch.from_numpy(padded).float()[:, None] / 127.5 - 1
    return FashionBatch(sample, torch.from_numpy(labels))
