"""Port types, and checks of values against them.

A port type is a Python class. ``Tensor`` and its subclasses are *names* for the checker: at run time
their values are plain ``torch.Tensor`` objects. ``link_rule`` says which types may be linked.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from guidegraph.graph import torch_private
from guidegraph.graph.frozen_models import is_module

NEVER_ITERATED = (str, bytes, Mapping)
"""Classes with a length and items that a loop does not run over."""

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor
else:

    class Tensor:
        """Any ``torch.Tensor``. A subclass names the axes, which are checked at run time.

        ``axes`` has one element per axis: an int is a fixed size, a string names a non-empty axis; ``None`` allows
        any number of axes. ``integer`` requires an integer dtype.
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
    kind: Any = type(value)  # mypy takes a class of objects for one without a hash
    return is_tensor_class(kind)


def is_iterable(value: object) -> bool:
    """Whether a loop can run over a value: a sequence, or a tensor with an axis, but no text and no mapping."""
    if is_tensor(value):
        return len(value.shape) > 0  # type: ignore[attr-defined]
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, NEVER_ITERATED)


@lru_cache(maxsize=1024)
def is_tensor_class(cls: Any) -> bool:
    """Whether a class is ``torch.Tensor`` or derives from it, without importing torch."""
    return any(base.__name__ == "Tensor" and base.__module__ == "torch" for base in cls.__mro__)


def _require_tensor(value: object) -> object:
    if not is_tensor(value):
        raise ValueError(f"expected a tensor, found {type(value).__name__}")
    return value


T = TypeVar("T", bound=type)


class SequenceOf(NamedTuple):
    """A port that takes a list of values, in order."""

    element: PortType


class PortType(NamedTuple):
    """The type of a port: its alternatives, and whether ``None`` is allowed."""

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
        """The alternative that takes a list of links, or ``None``."""
        for alternative in self.alternatives:
            if isinstance(alternative, SequenceOf):
                return alternative
        return None

    @property
    def is_path(self) -> bool:
        """Whether a value may be the path of a file or folder, or a list of such paths."""
        for alternative in self.alternatives:
            if isinstance(alternative, SequenceOf):
                if alternative.element.is_path:
                    return True
            elif alternative is Path:
                return True
        return False

    @property
    def takes_enum(self) -> bool:
        """Whether a value may be one of an enumeration."""
        return any(isinstance(a, type) and issubclass(a, Enum) for a in self.alternatives)


ANY = PortType((object,))

_LITERALS: tuple[type, ...] = (int, float, str, bool, Path, list, dict, tuple)


def type_name(cls: type) -> str:
    """A type's name for messages; an unnamed tensor type is shown with its axes."""
    if "derived" in vars(cls):
        return f"Tensor ({', '.join(map(str, vars(cls)['axes']))})"
    return "Any" if cls is object else cls.__name__


@cache
def make_tensor_type(axes: tuple[int | str, ...], integer: bool = False) -> type:
    """An unnamed tensor type with these axes: the rows of a named type, or a stack of its values."""
    return type("Tensor", (Tensor,), {"axes": axes, "integer": integer, "derived": True})


@dataclass(frozen=True)
class Beside:
    """Marks a `Path` setting, in `Annotated`: the file of this name in the same folder is read too.

    Cached results then depend on that file as well.
    """

    name: str


@dataclass(frozen=True)
class Written:
    """Marks a `Path` setting, in `Annotated`: the node writes this file or folder."""


@dataclass(frozen=True)
class RunsCode:
    """Marks a `Path` setting, in `Annotated`: loading the file may run code stored in it."""


@cache
def to_port_type(annotation: Any) -> PortType:
    """The port type of an annotation. Raises ``TypeError`` if the annotation cannot be a port type."""
    if isinstance(annotation, TypeVar):
        bounds = annotation.__constraints__ or (annotation.__bound__,)
        return ANY if bounds == (None,) else union([to_port_type(bound) for bound in bounds])
    if isinstance(annotation, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        return to_port_type(annotation.__value__)
    if supertype := getattr(annotation, "__supertype__", None):
        return to_port_type(supertype)
    origin = get_origin(annotation)
    if origin is Annotated:
        return to_port_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return union([*map(to_port_type, get_args(annotation))])
    if origin is Literal:
        return union([PortType((type(a),)) if a is not None else PortType((), True) for a in get_args(annotation)])
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return PortType((SequenceOf(_to_element_type(get_args(annotation))),))
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


def read_types(hints: Mapping[str, Any]) -> tuple[dict[str, PortType], dict[str, PortType], bool]:
    """The port types of a function's parameters and those of its outputs, by name, and whether it names the outputs.

    Raises ``TypeError`` for an annotation that cannot be a port type, and without ``return``.
    """
    kinds: dict[str, PortType] = {}
    for name, annotation in hints.items():
        try:
            kinds[name] = to_port_type(annotation)
        except TypeError as error:
            place = "return annotation" if name == "return" else f"parameter '{name}'"
            raise TypeError(f"{place}: {error}") from error
    if "return" not in kinds:
        raise TypeError("the return annotation gives the outputs; write one (None for no output)")
    returned = kinds.pop("return")
    if hints["return"] in (None, type(None)):
        return kinds, {}, False
    fields = namedtuple_fields(returned)
    return kinds, fields or {"out": returned if returned.alternatives else ANY}, bool(fields)


def to_annotation(kind: PortType) -> Any:
    """An annotation of a port type. A sequence is a list."""
    parts = [list[to_annotation(a.element)] if isinstance(a, SequenceOf) else a for a in kind.alternatives]  # type: ignore[misc]
    if object in parts:
        return Any
    return Union[tuple([*parts, None] if kind.optional else parts)]  # noqa: UP007 - of a number of parts


def _to_element_type(args: tuple[Any, ...]) -> PortType:
    elements = [a for a in args if a is not Ellipsis]
    return union([to_port_type(a) for a in elements]) if elements else ANY


def union(parts: list[PortType]) -> PortType:
    """The type whose values are of any of these types."""
    alternatives: dict[type | SequenceOf, None] = {}
    optional = False
    for part in parts:
        alternatives |= dict.fromkeys(part.alternatives)
        optional = optional or part.optional
    return PortType((object,) if object in alternatives else tuple(alternatives), optional)


def namedtuple_fields(kind: PortType) -> dict[str, PortType] | None:
    """Names and types of a NamedTuple's fields; ``None`` for any other type."""
    if len(kind.alternatives) != 1 or not isinstance(kind.alternatives[0], type):
        return None
    cls = kind.alternatives[0]
    if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: to_port_type(hints.get(name, Any)) for name in cls._fields}


def takes_literal(kind: PortType) -> bool:
    """Whether a YAML literal can feed a port of this type."""
    for alternative in kind.alternatives:
        if isinstance(alternative, SequenceOf):
            if takes_literal(alternative.element):
                return True
        elif alternative is object or alternative in _LITERALS or issubclass(alternative, Enum):
            return True
    return False


def describe_value(value: object) -> str:
    """A short description of a value for error messages."""
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"  # type: ignore[attr-defined]
    return type(value).__name__ if is_module(value) else f"{type(value).__name__} {value!r:.60}"


def explain_mismatch(value: object, target: PortType) -> str | None:
    """Why ``value`` does not fit ``target``; ``None`` if ``make_fit`` says that it fits."""
    if make_fit(target)(value):
        return None
    if value is None:
        return f"expected {target}, found None"
    return "; ".join([f"expected {target}, found {describe_value(value)}", *list_remedies(target)])


@cache
def make_fit(target: PortType) -> Callable[[Any], bool]:
    """A function that returns whether a value fits a type.

    An object with any one method of a protocol fits; for a capability it needs all of them. The elements of lists are
    checked; the elements of lazy sequences are checked when they are used.
    """
    takes_none = target.optional or target.is_any
    fits_alternative = [_make_alternative_fit(alternative) for alternative in target.alternatives or (object,)]

    def fits(value: Any) -> bool:
        if value is None:
            return takes_none
        for fit in fits_alternative:  # noqa: SIM110 - faster than a generator
            if fit(value):
                return True
        return False

    return fits


def _make_alternative_fit(target: type | SequenceOf) -> Callable[[Any], bool]:
    if isinstance(target, SequenceOf):
        fits_element, sequence = make_fit(target.element), collections.abc.Sequence
        return lambda value: (
            all(map(fits_element, value))
            if isinstance(value, (list, tuple))
            else isinstance(value, sequence) and not isinstance(value, str)
        )
    if target is object:
        return lambda _: True
    if getattr(target, "_is_protocol", False) and target not in _CAPABILITIES:
        methods = _list_methods(target)
        return lambda value: any(hasattr(value, name) for name in methods)
    if issubclass(target, Tensor):
        return _make_tensor_fit(target)
    if target is float:
        return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    return lambda value: isinstance(value, target)


def _make_tensor_fit(target: Any) -> Callable[[Any], bool]:
    """Whether a value is a tensor with the axes of a type; none of them may be empty."""
    integer, axes = target.integer, target.axes

    def fits(value: Any) -> bool:
        if not is_tensor(value) or (integer and (value.is_floating_point() or value.is_complex())):
            return False
        shape = value.shape
        if axes is None:
            return True
        if len(shape) != len(axes) or 0 in shape:
            return False
        return not any(type(axis) is int and axis != size for axis, size in zip(axes, shape, strict=True))

    return fits


@cache
def _list_methods(protocol: Any) -> tuple[str, ...]:
    """Names of a protocol's methods; a value with any one of them is accepted."""
    bases = [cls for cls in protocol.__mro__ if getattr(cls, "_is_protocol", False)]
    names = [name for cls in bases for name, member in vars(cls).items() if callable(member)]
    methods = tuple(name for name in names if name == "__call__" or not name.startswith("_"))
    return methods or ("__class__",)


_CAPABILITIES: dict[type, str] = {}


def capability(remedy: str) -> Callable[[T], T]:
    """Mark a runtime-checkable protocol as a capability: ports refuse objects that lack any of its methods.

    remedy: the hint in the error message: where such objects come from.
    """

    def mark(cls: T) -> T:
        _CAPABILITIES[cls] = remedy
        return cls

    return mark


def list_remedies(target: PortType) -> list[str]:
    """The remedies of the capabilities in a port type."""
    return [_CAPABILITIES[a] for a in target.alternatives if isinstance(a, type) and a in _CAPABILITIES]


_STRUCTURED: list[type] = []
_FIELDS: dict[type, tuple[str, ...]] = {}
"""Of each structured type: the names of its fields that are passed to its constructor."""
_registered = 0


def structured(cls: T) -> T:
    """Mark a frozen dataclass as a structured port type: its fields become pytree leaves in torch.

    Caches and checkpoints name it by its qualified name, so one that moves is not found in earlier files, unless its
    class variable ``stored_as`` has the earlier name.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass to be a structured port type")
    _STRUCTURED.append(cls)
    _FIELDS[cls] = tuple([field.name for field in dataclasses.fields(cls) if field.init])
    return cls


def fields_of_structure(cls: type) -> tuple[str, ...] | None:
    """The names of the fields that a structured type's constructor takes; None for other types."""
    return _FIELDS.get(cls)


def register_structured() -> None:
    """Register every structured type with torch's pytrees, with keys. Imports torch; called before a run."""
    global _registered
    if _registered == len(_STRUCTURED):
        return
    for cls in _STRUCTURED[_registered:]:
        if cls not in torch_private.pytree.SUPPORTED_NODES:
            torch_private.pytree.register_dataclass(cls)
    _registered = len(_STRUCTURED)


def structured_types() -> dict[str, type]:
    """The structured types by the names that files have for them."""
    return {name_structure(cls): cls for cls in _STRUCTURED}


def name_structure(cls: type) -> str:
    """The name that files have for a structured type: ``stored_as``, or its qualified name."""
    return str(vars(cls).get("stored_as", f"{cls.__module__}.{cls.__qualname__}"))
