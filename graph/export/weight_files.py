"""The weights of a bundle's parts in files beside the graphs: each stored once, however many parts compute with it.

onnxruntime frees them after it has laid them out for its kernels, which it does not do with weights inside of a graph.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir

from guidegraph.graph.export.onnx.adaptable_weights import LEAST_BYTES

ALIGNMENT = 64
"""The offset of each weight is a multiple of so many bytes."""

Content: TypeAlias = "tuple[int, str]"
"""The contents of a weight: its size in bytes, and its sha256, or its name where no other weight has that size."""


@dataclass
class _File:
    """A file of weights: those that the same parts read. offsets: of each, by its contents."""

    name: str
    offsets: dict[Content, int] = field(default_factory=dict)
    size: int = 0


def save_graphs(models: Mapping[str, onnx_ir.Model], folder: Path) -> dict[str, tuple[str, ...]]:
    """Write models (by the name of the file without its ending) as ``NAME.onnx``, with their weights beside them.

    A weight of 1024 bytes or more is in ``NAME.onnx.data``, or, if several models have the same, in
    ``weights-HASH.data``, a file for each set of models. Smaller ones are in the graph. Returns the names of the files
    of weights that each model reads.
    """
    contents = _find_contents(models)
    readers: dict[Content, list[str]] = {}
    for name, by_value in contents.items():
        for content in dict.fromkeys(by_value.values()):
            readers.setdefault(content, []).append(name)
    files: dict[tuple[str, ...], _File] = {}
    tensors = {
        content: models[name].graph.initializers[value].const_value
        for name, by_value in contents.items()
        for value, content in by_value.items()
    }
    for names in dict.fromkeys(map(tuple, readers.values())):
        kept = {content: tensors[content] for content, users in readers.items() if tuple(users) == names}
        files[names] = _write_weights(kept, folder, f"{names[0]}.onnx.data" if len(names) == 1 else "")
    for name, model in models.items():
        placed = {value: files[tuple(readers[content])] for value, content in contents[name].items()}
        with _place_outside(model, {v: (file.name, file.offsets[contents[name][v]]) for v, file in placed.items()}):
            (folder / f"{name}.onnx").write_bytes(onnx_ir.to_proto(model).SerializeToString())
    return {
        name: tuple(dict.fromkeys(files[tuple(readers[content])].name for content in by_value.values()))
        for name, by_value in contents.items()
    }


def _find_contents(models: Mapping[str, onnx_ir.Model]) -> dict[str, dict[str, Content]]:
    """The contents of each model's large weights, by model and value. Weights of a size of their own are not hashed."""
    large = {
        name: {
            str(value.name): value.const_value
            for value in model.graph.initializers.values()
            if value.const_value is not None and value.const_value.nbytes >= LEAST_BYTES
        }
        for name, model in models.items()
    }
    sizes = Counter(tensor.nbytes for by_value in large.values() for tensor in by_value.values())
    return {
        name: {
            value: (
                tensor.nbytes,
                hashlib.sha256(tensor.tobytes()).hexdigest() if sizes[tensor.nbytes] > 1 else f"{name}/{value}",
            )
            for value, tensor in by_value.items()
        }
        for name, by_value in large.items()
    }


def _write_weights(tensors: Mapping[Content, Any], folder: Path, name: str) -> _File:
    """Write a file of weights. name: "" for one after the hash of its contents."""
    written, digest = _File(name), hashlib.sha256()
    path = folder / (name or "weights.data")
    with path.open("wb") as file:
        for content, tensor in tensors.items():
            padding = bytes(-written.size % ALIGNMENT)
            data = tensor.tobytes()
            for piece in (padding, data):
                file.write(piece)
                if not name:
                    digest.update(piece)
            written.offsets[content] = written.size + len(padding)
            written.size += len(padding) + len(data)
    if not name:
        written.name = f"weights-{digest.hexdigest()[:16]}.data"
        os.replace(path, folder / written.name)
    return written


@contextmanager
def _place_outside(model: onnx_ir.Model, places: Mapping[str, Sequence[Any]]) -> Iterator[None]:
    """The model with references in place of weights, for a while. places: the file and the offset of each."""
    initializers = model.graph.initializers
    inside = {value: initializers[value].const_value for value in places}
    try:
        for value, (file, offset) in places.items():
            tensor: Any = inside[value]
            initializers[value].const_value = onnx_ir.ExternalTensor(
                file, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value
            )
        yield
    finally:
        for value, tensor in inside.items():
            initializers[value].const_value = tensor
