"""The fields of a request's body beside its parameters: one declaration checks each and describes it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from guidegraph_runtime.serve.request_checks import PRIORITIES
from guidegraph_runtime.serve.requests import RequestRefused

JSON_NAMES: Mapping[type, str] = {
    bool: "boolean",
    str: "string",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}
"""The names that JSON Schema has for the types of Python that JSON is read as."""


def name_type(kinds: tuple[type, ...]) -> str:
    """JSON Schema's name of a value that is of one of some types; a whole number is a number, too."""
    return JSON_NAMES[float if float in kinds else kinds[0]]


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what another one describes, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


@dataclass(frozen=True)
class BodyField:
    """A field of a body, which may be left out or null.

    kinds: the types of its value. expected: the same in words. default: its value where it is left out. help: what it
    sets. limits: the keywords of JSON Schema that hold beside its type; whoever takes the field checks these.
    """

    name: str
    kinds: tuple[type, ...]
    expected: str
    default: Any = None
    help: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)

    def take(self, body: dict[str, Any]) -> Any:
        """Remove the field from a body and return its value or its default. Raises ``RequestRefused``."""
        value = body.pop(self.name, None)
        if value is None:
            return copy(self.default)
        if not isinstance(value, self.kinds) or (isinstance(value, bool) and bool not in self.kinds):
            raise RequestRefused(f"'{self.name}': expected {self.expected}, found {value!r:.80}", self.name)
        return value

    def describe(self, **limits: Any) -> dict[str, Any]:
        """The field as JSON Schema, with limits of a server beside its own."""
        schema = or_null({"type": name_type(self.kinds), **self.limits, **limits})
        schema |= {"description": self.help} if self.help else {}
        return schema | ({} if self.default is None else {"default": self.default})


MODEL = BodyField("model", (str,), "the name of a bundle", help="the name of a bundle")
WAIT = BodyField("wait", (bool,), "true or false", True, "false: answer at once, with the id of the job")
PARAMS = BodyField("params", (dict,), "an object of parameters", {})
NODES = BodyField(
    "nodes", (dict,), "an object of 'node.setting': value", {}, "settings of the plan's nodes, by node.setting"
)
PRIORITY = BodyField(
    "priority",
    (int,),
    "a whole number",
    0,
    "higher ones go first",
    {"minimum": PRIORITIES[0], "maximum": PRIORITIES[-1]},
)
DEADLINE = BodyField(
    "deadline",
    (int, float),
    "a number of seconds",
    help="seconds until the job fails if it has not ended",
    limits={"exclusiveMinimum": 0},
)
