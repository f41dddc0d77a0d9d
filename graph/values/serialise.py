"""Values to safetensors and back: tensors, plain data and registered structured types.

A value becomes a dict of tensors and a JSON tree that refers to them by name. Pickle is not used.

Checksums of values: CRC-32 over the bytes of tensors, arrays and plain data.

A CRC-32 finds every single flipped bit and all but one in 2³² of other accidents, at memory speed (`zlib.crc32`). It is
no defence against somebody who alters a file on purpose and computes the checksum again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.trust.file_checks import require_regular
from guidegraph.graph.types import is_tensor, structured_types
from guidegraph_runtime.files.atomic_write import atomic_path

if TYPE_CHECKING:
    import torch


FORMAT = "guidegraph-value-2"


class NotSerialisable(TypeError):
    """A value contains something that safetensors and JSON cannot represent, such as a model."""


def encode(value: Any) -> tuple[dict[str, Any], Any]:
    """The tensors of a value by name, and its JSON tree. Raises ``NotSerialisable``."""
    tensors: dict[str, Any] = {}
    return tensors, _encode(value, tensors)


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_tensor(value) and type(value).__name__ == "Tensor":
        if value.layout != sys.modules["torch"].strided or value.is_quantized:
            raise NotSerialisable(f"a tensor of layout {value.layout} cannot be written to safetensors")
        if value.is_nested or value.is_meta:
            raise NotSerialisable(
                f"a {'nested' if value.is_nested else 'meta'} tensor cannot be written to safetensors"
            )
        return _encode_tensor(value, tensors)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return {"list" if isinstance(value, list) else "tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _encode(v, tensors) for k, v in value.items()}}
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if structured_types().get(name) is type(value):
        structured: Any = value
        return {
            "struct": name,
            "fields": {f.name: _encode(getattr(value, f.name), tensors) for f in dataclasses.fields(structured)},
        }
    raise NotSerialisable(f"{type(value).__name__} cannot be written to safetensors")


def _encode_tensor(value: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """A tensor, with the order of its axes in memory unless it is contiguous.

    Operators round differently for another order, and a loop that goes on from its state gives the same bits.
    """
    name = f"t{len(tensors)}"
    axes = sorted(range(value.ndim), key=value.stride, reverse=True)
    in_order = value.detach().permute(axes)
    if value.is_contiguous() or not in_order.is_contiguous():
        tensors[name] = value.detach().contiguous()
        return {"tensor": name}
    tensors[name] = in_order
    return {"permuted": name, "axes": axes}


def decode(tree: Any, tensors: Mapping[str, Any]) -> Any:
    """The value that ``encode`` encoded. Raises ``ValueError`` for a tree of another origin."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "permuted" in tree:
        tensor, axes = tensors[tree["permuted"]], tree["axes"]
        if not isinstance(axes, list) or sorted(axes) != list(range(tensor.ndim)):
            raise ValueError(f"expected an order of {tensor.ndim} axes, found {axes}")
        return tensor.permute([axes.index(axis) for axis in range(tensor.ndim)])
    if "list" in tree:
        return [decode(v, tensors) for v in tree["list"]]
    if "tuple" in tree:
        return tuple(decode(v, tensors) for v in tree["tuple"])
    if "dict" in tree:
        return {k: decode(v, tensors) for k, v in tree["dict"].items()}
    cls = structured_types().get(tree.get("struct", ""))
    if cls is None:
        raise ValueError(f"unknown structured type {tree.get('struct')!r}")
    return cls(**{k: decode(v, tensors) for k, v in tree["fields"].items()})


def write_value(path: Path, value: Any, key: str) -> None:
    """Write a value under its key as one safetensors file with a checksum, atomically. Raises ``NotSerialisable``."""
    tensors, tree = encode(value)
    copies = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_checked(path, copies, {"format": FORMAT, "key": key, "tree": json.dumps(tree)})


def read_value(path: Path, device: str, key: str) -> Any:
    """Read the value that ``write_value`` wrote under a key. Raises ``ValueError`` or ``OSError`` for others."""
    require_regular(path)
    metadata, tensors = read_checked(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a cached value")
    if metadata.get("key") != key:
        raise ValueError(f"{path} holds the value of another key, {str(metadata.get('key'))[:40]!r}")
    try:
        return decode(json.loads(metadata["tree"]), {name: tensor.to(device) for name, tensor in tensors.items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


CHECKSUM = "checksum"


class DamagedFile(ValueError):
    """A file is damaged: it cannot be parsed, or its checksum does not match."""


def write_checked(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write dense, contiguous CPU tensors and metadata with a checksum, atomically."""
    from safetensors.torch import save_file

    checked_metadata = {**metadata, CHECKSUM: file_checksum(metadata, tensors)}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), str(temporary), metadata=checked_metadata)


def read_checked(path: Path, *, copy: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and CPU tensors of a file.

    copy: if off, the tensors are memory-mapped pages of the file and change with it. Raises ``DamagedFile`` and
    ``OSError``.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    if copy:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = metadata.pop(CHECKSUM, "none")
    actual = file_checksum(metadata, tensors)
    if expected != actual:
        raise DamagedFile(f"{path} is damaged: its checksum is {expected[:40]!r}, and that of its contents '{actual}'")
    return metadata, tensors


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a dense CPU tensor in row-major order; a view of its memory if it is contiguous."""
    import torch

    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().data


def file_checksum(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """The checksum, 8 hexadecimal digits, of a file's metadata and its tensors: names, dtypes, shapes and bytes.

    The tensors are dense and on the CPU. The order of the names does not matter.
    """
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    crc = zlib.crc32(json.dumps([dict(metadata), shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensor_bytes(tensors[name]), crc)
    return f"{crc:08x}"
