"""Sizes of a graph's inputs, as numbers or arithmetic expressions of other inputs' sizes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

MAX_TEXT = 200

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Axis:
    """An axis of an input of the graph."""

    input: str
    index: int


@dataclass(frozen=True)
class Size:
    """A size expression. text: a number, or e.g. ``height/4``. of: for each name, axes; its value is their maximum."""

    text: str
    of: Mapping[str, tuple[Axis, ...]]

    def value(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Evaluate the size for shapes of the inputs. Raises ``ValueError`` for an invalid expression."""
        return evaluate_size(
            self.text, {name: max(shapes[axis.input][axis.index] for axis in axes) for name, axes in self.of.items()}
        )


def evaluate_size(text: str, names: Mapping[str, int]) -> int:
    """Evaluate a size expression. Raises ``ValueError`` if it is invalid or its value is not a positive integer."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"expected a size of at most {MAX_TEXT} characters; found {len(text)}")
    try:
        value = _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(f"'{text}' is not a size ({error})") from None
    if value != int(value) or value < 1:
        raise ValueError(f"'{text}' is {value} for these inputs, where a whole size is due")
    return int(value)


def _value(node: ast.expr, names: Mapping[str, int]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "floor":
        if len(node.args) == 1 and not node.keywords:
            return floor(_value(node.args[0], names))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    raise KeyError(ast.unparse(node))
