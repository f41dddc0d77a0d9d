"""Nodes that fail in unusual ways, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import hookimpl, node


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Own(BaseException):
    """A user's exception that no ``except Exception`` catches."""


def make_circular_causes() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


FAILURES: dict[str, Callable[[], BaseException]] = {
    "no text": NoText,
    "own": lambda: Own("mine"),
    "exit": lambda: SystemExit(0),
    "generator exit": GeneratorExit,
    "interrupt": KeyboardInterrupt,
    "lines": lambda: ValueError("the first line,\n\n\tthe second\n"),
    "huge": lambda: ValueError("x" * 10_000_000),
    "memory": lambda: MemoryError("Unable to allocate 20.1 TiB for an array"),
    "torch": lambda: RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 10800000000000 bytes. Error code 12"
    ),
}


@node("failing.fail")
def fail(x: float, *, how: str) -> float:
    """Raise an exception."""
    raise FAILURES[how]()


class Rows:
    """Data whose items cannot be read."""

    def __init__(self, how: str):
        self.how = how

    def __len__(self) -> int:
        if self.how == "no length":
            raise SystemExit(0)
        return 3

    def __getitem__(self, index: int) -> float:
        raise FAILURES[self.how]()


@node("failing.rows")
def rows(*, how: str) -> Any:
    """Data whose items cannot be read."""
    return Rows(how)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [fail, rows]
