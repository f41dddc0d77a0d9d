"""The leaves of a value: its tensors and plain values, apart from its structure."""

from __future__ import annotations

import dataclasses
from typing import Any

from guidegraph.graph.types import fields_of_structure
from guidegraph.graph.values.serialise import tensor_bytes

_TENSOR = object()
"""The structure of a value that is a tensor."""
PLAIN_LEAVES = frozenset({type(None), bool, int, float, str})


def flatten(value: Any) -> tuple[list[Any], Any]:
    """The leaves of a value, and its structure, as in torch's pytrees.

    A tensor, and a structured value whose fields are tensors and plain values, are taken apart here, with fewer calls.
    Structures are comparable; the structure of the second kind is its class.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return [value], _TENSOR
    names = fields_of_structure(type(value))
    if names is not None:
        leaves = [getattr(value, name) for name in names]
        if not [leaf for leaf in leaves if type(leaf) not in PLAIN_LEAVES and not isinstance(leaf, torch.Tensor)]:
            return leaves, type(value)
    from guidegraph.graph.torch_private import pytree

    return pytree.tree_flatten(value)


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
    from guidegraph.graph.torch_private import pytree

    return pytree.tree_unflatten(leaves, structure)


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
