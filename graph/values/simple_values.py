"""Validates values of simple annotations without importing pydantic, whose answer it gives.

Numbers, text, paths, choices and lists of them are most settings. Whatever is not evidently valid is left to pydantic,
which also writes the error messages.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from guidegraph.graph.types import Beside, RunsCode, Tensor, Written

UNDECIDED: Final = object()
"""The result of a converter for a value that pydantic has to validate."""

Converter: TypeAlias = Callable[[object], object]

_EXACT_INTEGERS = 2**53
"""Integers up to this one are exact as floats."""
_NUMBERS = (int, float)


@dataclass(frozen=True)
class SameType:
    """Marks a ``Literal`` whose values must be equal in type too: pydantic takes 1.0 and True as the choice 1."""

    values: tuple[bool | int | str, ...]

    def check(self, value: object) -> object:
        """The value, or None, which is not a choice, for a value of another type."""
        return value if any(type(choice) is type(value) and choice == value for choice in self.values) else None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        function = {"type": "no-info", "function": self.check}
        return {"type": "function-before", "function": function, "schema": handler(source)}


_MARKS = (Beside, Written, RunsCode, SameType)
"""Marks, as classes or objects, that do not restrict what the converters return."""


def make_converter(annotation: Any) -> Converter | None:
    """A function that returns the converted value, or ``UNDECIDED``; None for an annotation that is not simple."""
    if annotation is None or isinstance(annotation, type):
        return _CONVERTERS.get(annotation or NoneType)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return lambda value: next((a for a in args if type(a) is type(value) and a == value), UNDECIDED)
    if origin is Annotated:
        return _make_constrained(args[0], args[1:])
    if origin in (Union, UnionType):
        return _make_alternatives(args)
    if origin in (list, Sequence) or (origin is tuple and args[1:] == (Ellipsis,)):
        return _make_list(args[0], tuple if origin is tuple else list)
    if origin is tuple:
        return _make_tuple(args)
    return None


def _keep_none(value: object) -> object:
    return value if value is None else UNDECIDED


def _keep_bool(value: object) -> object:
    return value if type(value) is bool else UNDECIDED


def _keep_int(value: object) -> object:
    return value if type(value) is int else UNDECIDED


def _to_float(value: object) -> object:
    if type(value) is float and math.isfinite(value):
        return value
    return float(value) if type(value) is int and abs(value) <= _EXACT_INTEGERS else UNDECIDED


def _keep_text(value: object) -> object:
    return value if type(value) is str and _is_unicode(value) else UNDECIDED


def _to_path(value: object) -> object:
    if isinstance(value, Path):
        return value
    return Path(value) if type(value) is str and _is_unicode(value) else UNDECIDED


def _is_unicode(text: str) -> bool:
    """Whether a text is free of halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keep_list(value: object) -> object:
    """A copy of a list of numbers, texts, flags and nulls."""
    if type(value) is not list:
        return UNDECIDED
    converters = [_CONVERTERS.get(type(element)) for element in value]
    decided = all(
        convert and convert(element) is not UNDECIDED for convert, element in zip(converters, value, strict=True)
    )
    return value.copy() if decided else UNDECIDED


_CONVERTERS: dict[Any, Converter] = {
    NoneType: _keep_none,
    bool: _keep_bool,
    int: _keep_int,
    float: _to_float,
    str: _keep_text,
    Path: _to_path,
    list: _keep_list,
    Sequence: _keep_list,
}


def _make_constrained(annotation: Any, constraints: Sequence[object]) -> Converter | None:
    convert = make_converter(annotation)
    tests = [test for test in map(_make_test, constraints) if test]
    if convert is None or len(tests) < len(constraints):
        return None

    def constrain(value: object) -> object:
        converted = convert(value)
        return converted if converted is not UNDECIDED and all(test(converted) for test in tests) else UNDECIDED

    return constrain


def _make_test(constraint: object) -> Callable[[Any], bool] | None:
    """Whether a value meets a constraint; None for a constraint that only pydantic knows."""
    from annotated_types import Ge, Gt, Le, Lt, MinLen

    from guidegraph_runtime.declare.settings import Fixed, NotEmpty, Range  # it imports NumPy

    if isinstance(constraint, Range):
        return lambda value: type(value) in _NUMBERS and constraint.contains(value)
    if isinstance(constraint, Fixed):
        return lambda value: type(value) in _NUMBERS and value == constraint.value
    if isinstance(constraint, (MinLen, NotEmpty)):
        length = constraint.min_length if isinstance(constraint, MinLen) else 1
        return lambda value: type(value) in (str, list, tuple) and len(value) >= length
    bounds = ((Ge, "ge", operator.ge), (Gt, "gt", operator.gt), (Le, "le", operator.le), (Lt, "lt", operator.lt))
    for kind, attribute, compare in bounds:
        if isinstance(constraint, kind):
            bound = getattr(constraint, attribute)
            return lambda value: type(value) in _NUMBERS and compare(value, bound)
    return (lambda value: True) if isinstance(constraint, _MARKS) or constraint in _MARKS else None


def _make_alternatives(annotations: Sequence[Any]) -> Converter | None:
    """The alternatives of a union. Only a node makes tensors, so they are left out."""
    members = [a for a in annotations if not (isinstance(a, type) and issubclass(a, Tensor))]
    if _is_ambiguous(members):
        return None
    converters = [converter for converter in map(make_converter, members) if converter]
    if len(converters) < len(members):
        return None

    def convert(value: object) -> object:
        results = [converter(value) for converter in converters]
        decided = [result for result in results if result is not UNDECIDED]
        if len(decided) > 1:  # pydantic prefers the value's own type
            decided = [result for result in decided if type(result) is type(value)]
        return decided[0] if decided else UNDECIDED

    return convert


def _is_ambiguous(members: Sequence[Any]) -> bool:
    """Whether pydantic may choose another alternative than the one that takes a value unchanged.

    It may read a text as a number before a path, compare 1.0 and True with the choice 1, and choose between lists by
    their elements.
    """
    bases = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
    bases = [base for base in bases if base not in (None, NoneType)]
    lists = [base for base in bases if {base, get_origin(base)} & {list, Sequence, tuple}]
    choices = [choice for base in bases if get_origin(base) is Literal for choice in get_args(base)]
    unions = [base for base in bases if get_origin(base) in (Union, UnionType)]
    return len(bases) > 1 and bool(
        Path in bases or unions or len(lists) > 1 or any(type(choice) is not str for choice in choices)
    )


def _make_list(annotation: Any, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Converter | None:
    convert = make_converter(annotation)
    if convert is None:
        return None

    def convert_list(value: object) -> object:
        if type(value) is not list:
            return UNDECIDED
        results = [convert(element) for element in value]
        return UNDECIDED if any(result is UNDECIDED for result in results) else kind(results)

    return convert_list


def _make_tuple(annotations: Sequence[Any]) -> Converter | None:
    converters = [converter for converter in map(make_converter, annotations) if converter]
    if len(converters) < len(annotations):
        return None

    def convert(value: object) -> object:
        if type(value) is not list or len(value) != len(converters):
            return UNDECIDED
        results = [converter(element) for converter, element in zip(converters, value, strict=True)]
        return UNDECIDED if any(result is UNDECIDED for result in results) else tuple(results)

    return convert
