"""Parse JSON strictly, and read it through a cursor that checks types and reports locations."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from guidegraph_runtime.errors import BundleError, format_value, suggest_name

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_INTEGER = 2**64
"""Seeds go up to 2**64 - 1; larger integers are mistakes, and may take minutes to read."""

CODE = "bad-manifest"
REMEDY = "; get the bundle again, or export the workflow again"
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = 400  # of a number; more are useless
_TOO_DEEP = f"expected at most {MAX_DEPTH} levels of lists and objects, found more"


@dataclass(frozen=True)
class _Rejected:
    """A number that is refused once its key is known."""

    message: str


def parse_json(data: bytes, location: str, remedy: str = REMEDY) -> Json:
    """Parse JSON text in UTF-8. remedy: the end of an error message.

    Raises ``BundleError`` for text larger than 16 MiB, duplicate keys, NaN and infinities, integers beyond ±2**64, lone
    surrogates, and more than 32 levels. Its ``param`` is the key around what is wrong.
    """

    def fail(message: str, key: str | None = None) -> NoReturn:
        raise BundleError(location, CODE, f"{message}{remedy}", param=key)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                fail(f"expected each key once, found {format_value(key)} twice in one object", key)
            result[key] = value
        return result

    if len(data) > MAX_BYTES:
        fail(f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=_reject_number,
            parse_float=_parse_number,
            parse_int=_parse_integer,
        )
    except RecursionError:
        fail(_TOO_DEEP)
    except UnicodeDecodeError as error:
        fail(f"expected UTF-8, found the byte {data[error.start]:#04x} at {error.start}")
    except json.JSONDecodeError as error:
        fail(f"expected JSON, found none at line {error.lineno}, column {error.colno} ({error.msg})")
    if (problem := _find_problem(value)) is not None:
        fail(*problem)
    return value  # type: ignore[no-any-return]


def _reject_number(text: str) -> _Rejected:
    return _Rejected(f"expected a finite number, found {text}")


def _parse_number(text: str) -> float | _Rejected:
    if len(text) > _DIGITS or not math.isfinite(value := float(text)):
        return _Rejected(f"expected a finite number, found {format_value(text)}")
    return value


def _parse_integer(text: str) -> int | _Rejected:
    if len(text) > 21 or abs(value := int(text)) > MAX_INTEGER:
        return _Rejected(f"expected an integer from -2**64 to 2**64, found {format_value(text)}")
    return value


def _find_problem(value: Any) -> tuple[str, str | None] | None:
    """A message about the first value that is refused, and the key around it; None without one."""
    nodes: list[tuple[str | None, Any]] = [(None, value)]
    for _ in range(MAX_DEPTH):
        children: list[tuple[str | None, Any]] = []
        for key, node in nodes:
            if isinstance(node, dict):
                children += [*((key, name) for name in node), *node.items()]
            elif isinstance(node, list):
                children += [(key, item) for item in node]
            elif isinstance(node, _Rejected):
                return _name_key(key, node.message), key
            elif isinstance(node, str) and _SURROGATE.search(node):
                return _name_key(key, f"expected text, found half a surrogate pair in {format_value(node)}"), key
        if not children:
            return None
        nodes = children
    return _name_key(nodes[0][0], _TOO_DEEP), nodes[0][0]


def _name_key(key: str | None, message: str) -> str:
    return message if key is None else f"{message} (in {format_value(key)})"


@dataclass(frozen=True)
class Cursor:
    """A JSON value and its location; each method raises ``BundleError`` if the value has another type."""

    value: Any
    location: str
    path: str = ""

    def fail(self, expected: str, actual: str | None = None, do: str = "export the workflow again") -> NoReturn:
        actual = actual or (format_value(self.value) if not isinstance(self.value, dict) else "an object")
        raise BundleError(
            self.location, CODE, f"expected {expected}, found {actual}; {do}", self.path or "the top level"
        )

    def at(self, key: str | int) -> Cursor:
        inside = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Cursor(self.value[key], self.location, f"{self.path}{inside}")

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Cursor]:
        """The fields of an object with all required fields, and no others than optional ones."""
        required, allowed = list(required), [*required, *optional]
        if not isinstance(self.value, dict):
            self.fail(f"an object with the fields {', '.join(allowed)}")
        for key in self.value:
            if key not in allowed:
                self.fail("known fields only", f"{format_value(key)} ({suggest_name(key, allowed)})")
        for key in required:
            if key not in self.value:
                self.fail(f"the field '{key}'", f"only {', '.join(map(format_value, self.value)) or 'an empty object'}")
        return {key: self.at(key) for key in self.value}

    def entries(self, name: Callable[[str], str | None]) -> Iterator[tuple[str, Cursor]]:
        """Yield the keys and values of an object. name: returns the expected form of an invalid key, or None."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        for key in self.value:
            if (wrong := name(key)) is not None:
                self.fail(wrong, format_value(key))
            yield key, self.at(key)

    def items(self) -> list[Cursor]:
        if not isinstance(self.value, list):
            self.fail("a list")
        return [self.at(i) for i in range(len(self.value))]

    def text(self, limit: int = 10_000) -> str:
        if not isinstance(self.value, str):
            self.fail("a text")
        if len(self.value) > limit:
            self.fail(f"a text of at most {limit} characters", f"{len(self.value)} characters")
        return self.value

    def name(self, check: Callable[[str], str | None]) -> str:
        if (wrong := check(self.text())) is not None:
            self.fail(wrong)
        return self.text()

    def choice(self, choices: Iterable[str]) -> str:
        choices = list(choices)
        if not isinstance(self.value, str) or self.value not in choices:
            self.fail(f"one of {', '.join(choices)}")
        return self.value

    def integer(self, low: int, high: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not low <= self.value <= high:
            self.fail(f"an integer from {low} to {high}")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            self.fail("a number")
        return float(self.value)

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value
