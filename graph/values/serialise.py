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
from typing import Any

from guidegraph.graph import torch_private
from guidegraph.graph.late import torch
from guidegraph.graph.trust.file_checks import require_regular
from guidegraph.graph.types import fields_of_structure, is_tensor, name_structure, structured_types
from guidegraph_runtime.files.atomic_write import atomic_path

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
    name = name_structure(type(value))
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


_TENSOR = object()
"""The structure of a value that is a tensor."""
PLAIN_LEAVES = frozenset({type(None), bool, int, float, str})


def flatten(value: Any) -> tuple[list[Any], Any]:
    """The leaves of a value, and its structure, as in torch's pytrees.

    A tensor, and a structured value whose fields are tensors and plain values, are taken apart here, with fewer calls.
    Structures are comparable; the structure of the second kind is its class.
    """
    if isinstance(value, torch.Tensor):
        return [value], _TENSOR
    names = fields_of_structure(type(value))
    if names is not None:
        leaves = [getattr(value, name) for name in names]
        if not [leaf for leaf in leaves if type(leaf) not in PLAIN_LEAVES and not isinstance(leaf, torch.Tensor)]:
            return leaves, type(value)
    return torch_private.pytree.tree_flatten(value)


def has_fixed_leaves(structure: Any) -> bool:
    """Whether the leaves of a value, with this structure from `flatten`, cannot be replaced.

    The leaf of a tensor, and the leaves of a frozen structured value of tensors and plain values, cannot.
    """
    if not isinstance(structure, type):
        return structure is _TENSOR
    parameters: Any = structure.__dataclass_params__  # type: ignore[attr-defined]
    return bool(parameters.frozen)


def unflatten(leaves: list[Any], structure: Any) -> Any:
    """The value with a structure from `flatten` and these leaves."""
    if structure is _TENSOR:
        return leaves[0]
    names = fields_of_structure(structure) if isinstance(structure, type) else None
    if names is not None:
        return structure(**dict(zip(names, leaves, strict=True)))
    return torch_private.pytree.tree_unflatten(leaves, structure)


def is_equal_leaf(leaf: Any, other: Any) -> bool:
    """Whether two leaves that are no tensors are the same, or equal values of one type.

    Values whose comparison is not a truth value, such as arrays and objects that hold tensors, count as different.
    """
    if leaf is other:
        return True
    if type(leaf) is not type(other):
        return False
    try:
        return bool(leaf == other)
    except Exception:  # of an array, of a tensor inside, or of a class of a plugin
        return False


def find_difference(before: Any, after: Any) -> str:
    """The first difference between two values, in words; empty if all bits are the same."""
    (old, old_structure), (new, new_structure) = flatten(before), flatten(after)
    if old_structure != new_structure or len(old) != len(new):
        return "its structure is another one"
    for was, now in zip(old, new, strict=True):
        if not hasattr(now, "dtype") or not hasattr(was, "dtype"):
            if type(was) is not type(now):
                return f"a {type(was).__name__} in the cache, a {type(now).__name__} now"
            if repr(was) != repr(now):
                return f"{was!r:.60} in the cache, {now!r:.60} now"
        elif was.dtype != now.dtype or was.shape != now.shape:
            return f"a tensor {was.dtype} {tuple(was.shape)} in the cache, {now.dtype} {tuple(now.shape)} now"
        elif tensor_bytes(was.cpu()) != tensor_bytes(now.cpu()):
            was, now = was.cpu(), now.cpu()
            differing = f"{int((was != now).sum())} of {was.numel()} elements of a tensor"
            if not was.dtype.is_floating_point:
                return differing
            return f"{differing}, by up to {float((was.double() - now.double()).abs().max()):.3g}"
    return ""


def list_named_fields(item: Any) -> dict[str, Any] | None:
    """The values of a dataclass, NamedTuple or dictionary by name; ``None`` for anything else."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return dict(zip(item._fields, item, strict=True))
    return dict(item) if isinstance(item, dict) else None
