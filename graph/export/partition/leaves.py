"""Values as named pytree leaves: the tensors that an exported graph reads and returns, and their free axes.

A structured value, such as a condition, is represented by its tensors, each named by its path: ``positive.tokens``. Its
non-tensor fields, such as the kind of a prediction, are the same in every run and become constants of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from guidegraph.graph import torch_private
from guidegraph.graph.sources import Carry, Index, Item, Output, Param, Source, format_link
from guidegraph.graph.types import PortType, SequenceOf, Tensor, is_tensor

DYNAMIC: Mapping[str, str] = {
    "B": "batch",
    "A": "samples",
    "H": "height",
    "W": "width",
    "M": "tokens",
    "N": "chunks",
    "R": "rows",
}
"""The letters of a port type's axes whose sizes are free at run time, and the names of those axes.

A is a leading axis that is not the batch's, although the type says B: see ``separate_batches``.
"""

Axes = tuple[str | int, ...]


@dataclass(frozen=True)
class Leaf:
    """A tensor of a value. path: in the value, "" for the value itself. axes: a letter or size for each axis."""

    path: str
    tensor: Any
    axes: Axes

    def full_name(self, base: str) -> str:
        return f"{base}.{self.path}" if self.path else base


def base_name(source: Source, items: Mapping[str, str]) -> str:
    """The name of a value in a bundle. items: the name of each loop's item by the loop's key."""
    match source:
        case Output() | Param():
            return format_link(source)
        case Carry(loop, name):
            return f"{loop}.carry.{name}"
        case Item(loop, None):
            return f"{loop}.{items[loop]}"
        case Item(loop, field):
            return f"{loop}.{items[loop]}.{field}"
        case Index(loop):
            return f"{loop}.index"
    raise TypeError(f"{source} has no name")


def tensor_leaves(value: Any, kind: PortType | None = None) -> list[Leaf]:
    """The tensors of a value, in the order of its pytree."""
    leaves = []
    for keys, leaf in torch_private.pytree.tree_flatten_with_path(value)[0]:
        if is_tensor(leaf):
            path = path_of(keys)
            leaves.append(Leaf(path, leaf, _leaf_axes(value, kind, path, leaf)))
    return leaves


def rebuild(value: Any, tensors: Sequence[Any]) -> Any:
    """A value with its tensors replaced by others, in the order of its pytree."""
    flat, spec = torch_private.pytree.tree_flatten(value)
    remaining = iter(tensors)
    return torch_private.pytree.tree_unflatten([next(remaining) if is_tensor(leaf) else leaf for leaf in flat], spec)


def plain_fields(value: Any) -> dict[str, Any]:
    """The non-tensor fields of a structured value by path, including fields that are None."""
    flat = torch_private.pytree.tree_flatten_with_path(value)[0]
    plain = {path_of(keys): leaf for keys, leaf in flat if keys and not is_tensor(leaf)}
    return plain | dict.fromkeys(_none_fields(value, ""))


def _none_fields(value: Any, base: str) -> Iterator[str]:
    """The paths of fields that are None, which are not leaves of a pytree."""
    if not is_dataclass(value) or isinstance(value, type):
        return
    for field in fields(value):
        field_value = getattr(value, field.name)
        if field_value is None:
            yield base + field.name
        else:
            yield from _none_fields(field_value, f"{base}{field.name}.")


def path_of(keys: Sequence[Any]) -> str:
    """The dotted path of a leaf in a pytree."""
    attributes = ("name", "key", "idx")
    return ".".join(str(next((getattr(key, a) for a in attributes if hasattr(key, a)), key)) for key in keys)


def _leaf_axes(value: Any, kind: PortType | None, path: str, tensor: Any) -> Axes:
    """The axes that a type, or that of a list's element, declares; by default those of a sample, or a leading batch."""
    alternatives = kind.alternatives if kind is not None else ()
    if type(value) in (list, tuple) and path:
        index, _, path = path.partition(".")
        element_kind = next((each.element for each in alternatives if isinstance(each, SequenceOf)), None)
        return _leaf_axes(value[int(index)], element_kind, path, tensor)
    if path:
        declared: Any = getattr(type(value), "leaf_axes", {}).get(path)
    else:
        tensors = (each for each in alternatives if not isinstance(each, SequenceOf) and issubclass(each, Tensor))
        declared = next((axes for each in tensors if (axes := getattr(each, "axes", None)) is not None), None)
    if declared is not None and len(declared) == tensor.ndim:
        return tuple(
            axis if isinstance(axis, str) and axis in DYNAMIC else size
            for axis, size in zip(declared, tensor.shape, strict=True)
        )
    sizes = tuple(tensor.shape)
    if tensor.ndim == 4:
        return ("B", sizes[1], "H", "W")
    return ("B", *sizes[1:]) if sizes else ()
