"""Port types and the link rule.

A port type is a Python class. ``Tensor`` and its descendants are *names* for the checker: at run
time their values are plain ``torch.Tensor`` objects. A link is valid when one side's type is an
ancestor of the other's; an ``int`` also feeds a ``float``; ``Any`` connects to everything. Of a source with several
types (``int | str``) that holds for each of them. What such a link does not promise is checked when it runs (``narrows``).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from guidegraph.graph.models import is_module

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor
else:

    class Tensor:
        """Any ``torch.Tensor``. A subclass names what the axes mean and checks them at run time.

        ``axes`` lists one entry an axis: an int is a fixed size, a string a name of one that is not empty; ``None``
        leaves the number of axes open. ``integer`` asks for an integer dtype.
        """

        axes: ClassVar[tuple[int | str, ...] | None] = None
        integer: ClassVar[bool] = False

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.no_info_plain_validator_function(_require_tensor)

        @classmethod
        def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
            return {"not": {}, "description": "a tensor: wire it with 'in'"}


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a ``torch.Tensor``, without importing torch."""
    return any(c.__name__ == "Tensor" and c.__module__ == "torch" for c in type(value).__mro__)


def _require_tensor(value: object) -> object:
    if not is_tensor(value):
        raise ValueError(f"expected a tensor, found {type(value).__name__}")
    return value


T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class SequenceOf:
    """A port that takes several values, in order."""

    element: PortType


@dataclass(frozen=True)
class PortType:
    """What a port accepts or gives: one or more alternatives, and whether ``None`` is among them."""

    alternatives: tuple[type | SequenceOf, ...]
    optional: bool = False

    def __str__(self) -> str:
        names = [f"Sequence[{a.element}]" if isinstance(a, SequenceOf) else type_name(a) for a in self.alternatives]
        return " | ".join(names) + (" | None" if self.optional else "")

    @property
    def is_any(self) -> bool:
        return object in self.alternatives

    @property
    def sequence(self) -> SequenceOf | None:
        """The alternative that takes a list of links, if there is one."""
        return next((a for a in self.alternatives if isinstance(a, SequenceOf)), None)


ANY = PortType((object,))

_NO_ANCESTORS: tuple[Any, ...] = (typing.Generic, typing.Protocol)

_LITERALS: tuple[type, ...] = (int, float, str, bool, Path, list, dict, tuple)


def type_name(cls: type) -> str:
    return "Any" if cls is object else cls.__name__


@dataclass(frozen=True)
class Beside:
    """Of a `Path` setting, in `Annotated`: files of this name in the folder of the file that it names are read too.

    So they are part of what a cached result depends on.
    """

    name: str


@cache
def port_type(annotation: Any) -> PortType:
    """The port type that an annotation names. Raises ``TypeError`` for what cannot be one."""
    if isinstance(annotation, TypeVar):
        return ANY
    if isinstance(annotation, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        return port_type(annotation.__value__)
    if supertype := getattr(annotation, "__supertype__", None):
        return port_type(supertype)
    origin = get_origin(annotation)
    if origin is Annotated:
        return port_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _union([port_type(a) for a in get_args(annotation)])
    if origin is Literal:
        return _union([PortType((type(a),)) if a is not None else PortType((), True) for a in get_args(annotation)])
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return PortType((SequenceOf(_element(get_args(annotation))),))
    if annotation in (Any, object):
        return ANY
    if annotation in (None, type(None)):
        return PortType((), optional=True)
    if annotation in (list, tuple, collections.abc.Sequence):
        return PortType((SequenceOf(ANY),))
    cls = origin or annotation
    if not isinstance(cls, type):
        raise TypeError(f"{annotation!r} is not a port type: annotate with a class, a union of classes or Sequence[T]")
    if cls.__name__ == "Tensor" and cls.__module__ == "torch":
        return PortType((Tensor,))
    return PortType((cls,))


def _element(args: tuple[Any, ...]) -> PortType:
    kept = [a for a in args if a is not Ellipsis]
    return _union([port_type(a) for a in kept]) if kept else ANY


def _union(parts: list[PortType]) -> PortType:
    alternatives = dict.fromkeys(a for p in parts for a in p.alternatives)
    return PortType((object,) if object in alternatives else tuple(alternatives), any(p.optional for p in parts))


def _related(a: type | SequenceOf, b: type | SequenceOf, quantify: Callable[[Iterable[bool]], bool]) -> bool:
    if a is object or b is object:
        return True
    if isinstance(a, SequenceOf) or isinstance(b, SequenceOf):
        if isinstance(a, SequenceOf) and isinstance(b, SequenceOf):
            return _linkable(a.element, b.element, quantify)
        plain = b if isinstance(a, SequenceOf) else a
        return plain in (list, tuple)
    if a is bool or b is bool:
        return a is b
    if a is int and b is float:
        return True
    return a in b.__mro__ or b in a.__mro__


def _linkable(source: PortType, target: PortType, quantify: Callable[[Iterable[bool]], bool]) -> bool:
    if source.optional and not source.alternatives:
        return target.optional or target.is_any
    return quantify(any(_related(a, b, quantify) for b in target.alternatives) for a in source.alternatives)


@cache
def linkable(source: PortType, target: PortType) -> bool:
    """The link rule: each alternative of the source is ancestor or descendant of one of the target's.

    A source that may be None can feed a port that takes none: that is checked when it runs.
    """
    return _linkable(source, target, all)


@cache
def may_fit(source: PortType, target: PortType) -> bool:
    """Whether a value of the source may be one that the target takes: the rule for values checked before a run."""
    return _linkable(source, target, any)


@cache
def narrows(source: PortType, target: PortType) -> bool:
    """Whether a valid link needs a check at run time: the source does not promise all that the target asks."""

    def promised(a: type | SequenceOf, b: type | SequenceOf) -> bool:
        if b is object:
            return True
        if isinstance(a, SequenceOf) or isinstance(b, SequenceOf):
            return isinstance(a, SequenceOf) and isinstance(b, SequenceOf) and not narrows(a.element, b.element)
        return b in a.__mro__ or (a is int and b is float)

    if source.optional and not (target.optional or target.is_any):
        return True
    return not all(any(promised(a, b) for b in target.alternatives) for a in source.alternatives)


@cache
def join(a: PortType, b: PortType) -> PortType:
    """The nearest type that holds every value of both: the type of a loop's carry."""
    if a == b:
        return a
    if len(a.alternatives) == 1 and len(b.alternatives) == 1:
        x, y = a.alternatives[0], b.alternatives[0]
        if isinstance(x, type) and isinstance(y, type):
            if {x, y} == {int, float}:
                return PortType((float,), a.optional or b.optional)
            common = next(c for c in x.__mro__ if c in y.__mro__ and c not in _NO_ANCESTORS)
            return PortType((common,), a.optional or b.optional)
    return _union([a, b])


def have_common(a: PortType, b: PortType) -> bool:
    """Whether one loop can carry values of both: a link is valid, or their classes share an ancestor."""
    return (
        linkable(a, b)
        or linkable(b, a)
        or any(
            isinstance(x, type)
            and isinstance(y, type)
            and (bool not in (x, y) or x is y)
            and any(c in y.__mro__ and c is not object and c not in _NO_ANCESTORS for c in x.__mro__)
            for x in a.alternatives
            for y in b.alternatives
        )
    )


def element_of(over: PortType) -> PortType:
    """The type of one entry of what a loop runs over."""
    return _union([_element_of(a) for a in over.alternatives])


def _element_of(over: type | SequenceOf) -> PortType:
    if isinstance(over, SequenceOf):
        return over.element
    if Tensor in over.__mro__:
        return PortType((Tensor,))
    return PortType((int,)) if over is int else ANY


def iterable(kind: PortType) -> bool:
    """Whether a loop can run over each alternative of a type: a sequence, a tensor or a number of times."""
    return bool(kind.alternatives) and all(map(_iterable, kind.alternatives))


def may_iterate(kind: PortType) -> bool:
    """Whether a loop can run over some alternative of a type."""
    return any(map(_iterable, kind.alternatives))


def _iterable(kind: type | SequenceOf) -> bool:
    if isinstance(kind, SequenceOf) or kind in (object, int, list, tuple) or Tensor in kind.__mro__:
        return True
    if issubclass(kind, (str, bytes, Mapping)):
        return False
    return all(any(name in vars(cls) for cls in kind.__mro__) for name in ("__len__", "__getitem__"))


def collected(kind: PortType) -> PortType:
    """The type of what a loop collects: tensors and structured values are stacked, all else is listed."""
    if kind.optional or kind.is_any or not kind.alternatives:
        return ANY if any(map(_stacks, kind.alternatives)) else PortType((SequenceOf(kind),))
    stacks = [_stacks(a) for a in kind.alternatives]
    if all(isinstance(a, type) and Tensor in a.__mro__ for a in kind.alternatives):
        return PortType((Tensor,))
    if all(stacks) and len(stacks) == 1:
        return kind
    return ANY if any(stacks) else PortType((SequenceOf(kind),))


def _stacks(kind: type | SequenceOf) -> bool:
    """Whether values of a type are stacked, leaf by leaf, where their shapes agree."""
    return isinstance(kind, type) and (kind is object or Tensor in kind.__mro__ or dataclasses.is_dataclass(kind))


def fields_of(kind: PortType) -> dict[str, PortType] | None:
    """Names and types of a NamedTuple's fields; ``None`` for anything else."""
    if len(kind.alternatives) != 1 or not isinstance(kind.alternatives[0], type):
        return None
    cls = kind.alternatives[0]
    if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: port_type(hints.get(name, Any)) for name in cls._fields}


def takes_literal(kind: PortType) -> bool:
    """Whether a YAML literal can feed a port of this type."""
    return any(
        a is object
        or (isinstance(a, SequenceOf) and takes_literal(a.element))
        or (isinstance(a, type) and (a in _LITERALS or issubclass(a, Enum)))
        for a in kind.alternatives
    )


def describe(value: object) -> str:
    """A short description of a run-time value for error messages."""
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"  # type: ignore[attr-defined]
    return type(value).__name__ if is_module(value) else f"{type(value).__name__} {value!r:.60}"


def mismatch(value: object, target: PortType) -> str | None:
    """Why ``value`` does not fit ``target``; ``None`` where it fits.

    An object that has a method of a protocol is taken for one of it; for a capability it needs all of them.
    """
    if value is None:
        return None if target.optional or target.is_any else f"expected {target}, found None"
    reasons = [_mismatch(value, a) for a in target.alternatives]
    if None in reasons or not reasons:
        return None
    return "; ".join([f"expected {target}, found {describe(value)}", *remedies(target)])


def _mismatch(value: object, target: type | SequenceOf) -> str | None:
    if isinstance(target, SequenceOf):
        if not isinstance(value, collections.abc.Sequence) or isinstance(value, str):
            return "not a sequence"
        if not isinstance(value, (list, tuple)):  # made on demand: its entries are checked where they are used
            return None
        return next((reason for v in value if (reason := mismatch(v, target.element))), None)
    if target is object:
        return None
    if getattr(target, "_is_protocol", False) and target not in _CAPABILITIES:
        return None if any(hasattr(value, name) for name in _methods(target)) else f"not a {target.__name__}"
    if issubclass(target, Tensor):
        return _tensor_mismatch(value, target) if is_tensor(value) else "not a tensor"
    if target is float:
        return None if isinstance(value, (int, float)) and not isinstance(value, bool) else "not a number"
    return None if isinstance(value, target) else f"not a {target.__name__}"


@cache
def _methods(protocol: Any) -> tuple[str, ...]:
    """The methods that a protocol asks for; a value that has one of them is taken for one of it."""
    bases = [cls for cls in protocol.__mro__ if getattr(cls, "_is_protocol", False)]
    names = [name for cls in bases for name, member in vars(cls).items() if callable(member)]
    methods = tuple(name for name in names if name == "__call__" or not name.startswith("_"))
    return methods or ("__class__",)


def _tensor_mismatch(value: Any, target: Any) -> str | None:
    if target.integer and (value.is_floating_point() or value.is_complex()):
        return "not of an integer dtype"
    if target.axes is None:
        return None
    if value.ndim != len(target.axes):
        return "wrong number of axes"
    if 0 in value.shape:
        return "empty"
    wrong = [a for a, size in zip(target.axes, value.shape, strict=True) if isinstance(a, int) and a != size]
    return "wrong size" if wrong else None


_CAPABILITIES: dict[type, str] = {}


def capability(remedy: str) -> Callable[[T], T]:
    """Mark a runtime-checkable protocol as a capability: an object without its methods is refused at a port.

    remedy: what the error says of where objects that have it come from.
    """

    def mark(cls: T) -> T:
        _CAPABILITIES[cls] = remedy
        return cls

    return mark


def remedies(target: PortType) -> list[str]:
    """What a port type's capabilities say of where they are found."""
    return [_CAPABILITIES[a] for a in target.alternatives if isinstance(a, type) and a in _CAPABILITIES]


_STRUCTURED: list[type] = []
_registered = 0


def structured(cls: T) -> T:
    """Mark a frozen dataclass as a structured port type: its fields are leaves of torch's pytrees."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass to be a structured port type")
    _STRUCTURED.append(cls)
    return cls


def register_structured() -> None:
    """Register every structured type with torch's pytrees (with keys). Imports torch; called before a run."""
    global _registered
    if _registered == len(_STRUCTURED):
        return
    from torch.utils import _pytree

    for cls in _STRUCTURED[_registered:]:
        if cls not in _pytree.SUPPORTED_NODES:
            _pytree.register_dataclass(cls)
    _registered = len(_STRUCTURED)


def structured_types() -> dict[str, type]:
    """The registered structured types by qualified name."""
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in _STRUCTURED}
