"""Types of an operation's ports and settings, which the runtime checks and the engine reads.

A setting is annotated with its range, a port with the engine's name for its type. pydantic reads the ranges through
``__get_pydantic_core_schema__``, so the engine's messages and JSON Schema come from the same declaration.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_choice, check_flag, check_int, check_number, describe_range, is_flag
from guidegraph_runtime.errors import SettingError

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes a setting's name and value; returns the value, or raises ``ValueError``."""


class Kind(NamedTuple):
    """Marks a value of a port, in ``Annotated``: the engine's name for its type."""

    name: str


class Range(NamedTuple):
    """Marks a number, in ``Annotated``: at least `low` or above `above`, at most `high` or below `below`."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    @property
    def integers(self) -> tuple[int | None, int | None]:
        """The least and the largest integer in the range."""
        low = self.low if self.above is None else self.above + 1
        high = self.high if self.below is None else self.below - 1
        return None if low is None else int(low), None if high is None else int(high)

    def contains(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """The bounds in words, to follow the type of a number; "" if there are none."""
        return describe_range(self.low, self.above, self.high, self.below)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        bounds = {"ge": self.low, "gt": self.above, "le": self.high, "lt": self.below}
        return handler(source) | {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True)
class Fixed:
    """Marks a number that has one valid value, in ``Annotated``. reason: the message for any other."""

    value: float
    reason: str

    def check(self, value: float) -> float:
        """Return the value. Raises ``ValueError`` with the reason if it is another one."""
        if value != self.value:
            raise ValueError(self.reason)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        function = {"type": "no-info", "function": self.check}
        return {"type": "function-after", "function": function, "schema": handler(source)}


@dataclass(frozen=True)
class NotEmpty:
    """Marks a list of one entry or more, in ``Annotated``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(source) | {"min_length": 1}


@dataclass(frozen=True)
class AtMost:
    """Marks a list with a largest number of entries, in ``Annotated``; the operation checks it, too."""

    count: int


Steps: TypeAlias = Annotated[int, Range(low=1)]
Offset: TypeAlias = Annotated[int, Range(low=0)]
Count: TypeAlias = Annotated[int, Range(above=0)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
NotNegative: TypeAlias = Annotated[float, Range(low=0)]
Fraction: TypeAlias = Annotated[float, Range(above=0, high=1)]
Clip: TypeAlias = bool | Positive

Size: TypeAlias = Count | tuple[Count, Count]
"""The side of a picture, or [height, width]."""
FilePath: TypeAlias = Annotated[os.PathLike[str] | bytes, Kind("Path")]
"""A file's path, or its contents as bytes."""

Schedule: TypeAlias = Annotated[Mapping[str, Any], Kind("Schedule")]
Scheduler: TypeAlias = Annotated[Mapping[str, Any], Kind("Scheduler")]
SchedulerState: TypeAlias = Annotated[Mapping[str, Any], Kind("SchedulerState")]
Levels: TypeAlias = Annotated[Mapping[str, Any], Kind("Levels")]
Tensor: TypeAlias = Annotated[NDArray[Any], Kind("Tensor")]
Sample: TypeAlias = Annotated[NDArray[Any], Kind("Sample")]
Noise: TypeAlias = Annotated[NDArray[Any], Kind("Noise")]
Latent: TypeAlias = Annotated[NDArray[Any], Kind("Latent")]
Image: TypeAlias = Annotated[NDArray[Any], Kind("Image")]
Mask: TypeAlias = Annotated[NDArray[np.float32], Kind("Mask")]
SemanticMap: TypeAlias = Annotated[NDArray[np.float32], Kind("SemanticMap")]
Label: TypeAlias = Annotated[NDArray[np.int64], Kind("Label")]
Timesteps: TypeAlias = Annotated[NDArray[np.float32], Kind("Timesteps")]
Table: TypeAlias = Annotated[NDArray[Any], Kind("Table")]
"""Rows of named columns, as a structured array; an empty text is a cell without a value."""


def marks_of(annotation: Any) -> tuple[Any, ...]:
    """The marks of an ``Annotated`` type; () of any other."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def kind_of(annotation: Any) -> str | None:
    """The engine's name for a type, or None if the type is the same in the engine."""
    return next((mark.name for mark in marks_of(annotation) if isinstance(mark, Kind)), None)


def names_file(annotation: Any) -> bool:
    """Whether a setting names a file."""
    return any(kind_of(member) == "Path" for member in alternatives_of(annotation))


def alternatives_of(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, flat; any other type alone."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return tuple(inner for member in get_args(annotation) for inner in alternatives_of(member))


def words_of(annotation: Any) -> list[str]:
    """The words of the ``Literal`` types in an annotation."""
    members = [get_args(member) for member in alternatives_of(annotation) if get_origin(member) is Literal]
    return [word for words in members for word in words if isinstance(word, str)]


def make_check(annotation: Any) -> Check | None:
    """The check of a setting: a flag, a number in its range, or a word, and None if that is allowed.

    Returns None for other types, such as lists and files: their operations check them.
    """
    alternatives = alternatives_of(annotation)
    members = [member for member in alternatives if member is not types.NoneType]
    checks = [check for member in members if (check := _make_single_check(member)) is not None]
    if len(checks) != len(members) or len(checks) > 2:
        return None
    if len(checks) == 2:
        if members[0] is not bool:
            return None
        check = _flag_or(checks[1])
    else:
        (check,) = checks
    return _or_none(check) if len(members) < len(alternatives) else check


def _make_single_check(annotation: Any) -> Check | None:
    if get_origin(annotation) is Literal:
        return lambda name, value: check_choice(name, value, get_args(annotation))
    base = get_args(annotation)[0] if marks_of(annotation) else annotation
    mark = next((mark for mark in marks_of(annotation) if isinstance(mark, (Range, Fixed))), Range())
    if base is bool:
        return check_flag
    if isinstance(mark, Fixed):
        return _make_fixed_check(mark)
    if base is int:
        low, high = mark.integers
        return lambda name, value: check_int(name, value, low, high)
    if base is float:
        return lambda name, value: check_number(
            name, value, low=mark.low, above=mark.above, high=mark.high, below=mark.below
        )
    return None


def _make_fixed_check(mark: Fixed) -> Check:
    def check(name: str, value: Any) -> float:
        number = check_number(name, value)
        try:
            return mark.check(number)
        except ValueError as error:
            raise SettingError(name, str(error)) from None

    return check


def _flag_or(check: Check) -> Check:
    return lambda name, value: bool(value) if is_flag(value) else check(name, value)


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)
