"""Type checks and the link rule on Python annotations, independent of the engine."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch

from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image, Label, Latent, Mask, Noise, Sample, SemanticMap, Timesteps

FOUR: Mapping[Any, Any] = dict.fromkeys((Sample, Latent, Noise))
"""Tensor types with four axes of any size."""
CHANNELS: Mapping[Any, int] = {Image: 3, Mask: 1}
METHODS = ("__call__", "encode", "decode", "undo")
"""The methods of the models' protocols."""


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, with ``NoneType`` for None; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for part in get_args(annotation) for inner in members(part))
    if get_origin(annotation) is Literal:
        return tuple({type(choice) for choice in get_args(annotation)})
    return (NoneType,) if annotation is None else (annotation,)


def element(annotation: Any) -> Any:
    """The element type of a sequence; None for any other type."""
    if get_origin(annotation) not in (Sequence, list, tuple):
        return None
    (inner, *_) = get_args(annotation)
    return inner


def is_a(value: object, annotation: Any) -> bool:
    """Whether a value is of a type, including fields of NamedTuples and elements of lists."""
    return any(_is(value, member) for member in members(annotation))


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is NoneType:
        return value is None
    inner = element(kind)
    if inner is not None:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        return all(is_a(value[i], inner) for i in range(len(value)))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, Tensor):
        return isinstance(value, torch.Tensor) and _has_axes(value, kind)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for cls in kind.__mro__ for name in vars(cls) if name in METHODS)
    if not isinstance(value, kind):
        return False
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        return all(is_a(part, hints[name]) for name, part in zip(kind._fields, value, strict=True))
    return True


def _has_axes(value: torch.Tensor, kind: Any) -> bool:
    if kind in CHANNELS:
        return value.ndim == 4 and value.shape[1] == CHANNELS[kind]
    if kind in FOUR or kind is SemanticMap:
        return value.ndim == 4
    if kind in (Label, Timesteps):
        return value.ndim == 1 and (kind is Timesteps or not value.is_floating_point())
    return True


def is_subtype(source: Any, target: Any) -> bool:
    """Whether every value of ``source`` is a value of ``target``."""
    return all(any(_is_below(a, b) for b in members(target)) for a in members(source))


def _is_below(a: Any, b: Any) -> bool:
    if b is Any or a is b:
        return True
    if a is Any or NoneType in (a, b):
        return False
    inner, outer = element(a), element(b)
    if inner is not None or outer is not None:
        return inner is not None and outer is not None and is_subtype(inner, outer)
    if bool in (a, b):
        return False
    return (a is int and b is float) or b in a.__mro__


def can_link(source: Any, target: Any) -> bool:
    """The link rule: for each type of the source, one side's type is an ancestor of the other's."""
    return all(any(_is_related(a, b) for b in members(target)) for a in members(source))


def may_fit(source: Any, target: Any) -> bool:
    """Whether some value of ``source`` may be of type ``target``: weaker than the link rule."""
    return any(_is_related(a, b) for a in members(source) for b in members(target))


def _is_related(a: Any, b: Any) -> bool:
    if a is Any or b is Any or a is b:
        return True
    if NoneType in (a, b):
        return False
    inner, outer = element(a), element(b)
    if inner is not None or outer is not None:
        return inner is not None and outer is not None and can_link(inner, outer)
    if bool in (a, b):
        return False
    return (a is int and b is float) or b in a.__mro__ or a in b.__mro__
