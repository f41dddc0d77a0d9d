"""Values to safetensors and back: tensors, plain data, and the structured types that are registered.

A value becomes a dict of tensors and a JSON tree that refers to them by name; no pickle anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.trust.files import require_regular
from guidegraph.graph.types import is_tensor, structured_types
from guidegraph_runtime.files import atomic_path

FORMAT = "guidegraph-value-1"


class NotSerialisable(TypeError):
    """A value holds something that safetensors and JSON cannot: a model, say."""


def encode(value: Any) -> tuple[dict[str, Any], Any]:
    """Tensors by name, and the JSON tree. Raises ``NotSerialisable``."""
    tensors: dict[str, Any] = {}
    return tensors, _encode(value, tensors)


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_tensor(value) and type(value).__name__ == "Tensor":
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().contiguous()
        return {"tensor": name}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return {"list" if isinstance(value, list) else "tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _encode(v, tensors) for k, v in value.items()}}
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if structured_types().get(name) is type(value):
        named: Any = value
        return {
            "struct": name,
            "fields": {f.name: _encode(getattr(value, f.name), tensors) for f in dataclasses.fields(named)},
        }
    raise NotSerialisable(f"{type(value).__name__} cannot be written to safetensors")


def decode(tree: Any, tensors: Mapping[str, Any]) -> Any:
    """The value that ``encode`` took apart. Raises ``ValueError`` for a tree it did not write."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
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


def write_value(path: Path, value: Any) -> None:
    """Write a value as one safetensors file, atomically. Raises ``NotSerialisable``."""
    from safetensors.torch import save_file

    tensors, tree = encode(value)
    separate = {name: tensor.clone() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(separate, str(temporary), metadata={"format": FORMAT, "tree": json.dumps(tree)})


def read_value(path: Path, device: str) -> Any:
    """Read what ``write_value`` wrote. Raises ``ValueError`` or ``OSError`` for a damaged file."""
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(str(path), "pt", device=device) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is not a cached value")
            return decode(json.loads(metadata["tree"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
