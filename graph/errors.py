"""Errors for the user: each gives its location, the expected and the actual value, and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.machine.shortages import with_shortage

MAX_COMPARED = 300
MAX_LENGTH = 100


class Mark(NamedTuple):
    """A position in a file; line and column count from 1. A tuple, as each value of a workflow file has one."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Problem:
    """One error in a workflow."""

    mark: Mark
    code: str
    message: str
    path: str = ""

    def __str__(self) -> str:
        location = f" [{self.path}]" if self.path else ""
        return f"{self.mark}: {self.code}: {self.message}{location}"


class GuidegraphError(Exception):
    """Base class of all errors shown to the user."""


class WorkflowError(GuidegraphError):
    """A workflow or its arguments are invalid, and nothing was run. ``problems`` lists every error."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: list[Problem] = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


class PortError(ValueError):
    """A value does not fit the port that it was linked to.

    names_giver: whether the engine adds the node that the value comes from.
    """

    def __init__(self, port: str, message: str, *, names_giver: bool = False):
        self.port, self.message, self.names_giver = port, message, names_giver
        super().__init__(f"port '{port}': {message}")


class NodeError(GuidegraphError):
    """A node raised an exception. ``path`` is the node's path in the workflow; the cause is chained.

    The message is one line, whatever the cause's text is.
    """

    def __init__(self, path: str, node_id: str, mark: Mark, cause: BaseException, iteration: str = ""):
        self.path, self.node_id, self.mark, self.cause, self.iteration = path, node_id, mark, cause, iteration
        suffix = f" at iteration {iteration}" if iteration else ""
        reason = " ".join(filter(None, map(str.strip, describe_failure(cause).splitlines())))
        super().__init__(f"{mark}: node-failed: {path} ({node_id}){suffix}: {reason}")


def describe_failure(error: BaseException) -> str:
    """The cause of a failure in words: a full disk or memory with its remedy, else the error's class and text.

    ``GuidegraphError`` and ``SettingError`` are told by their text alone.
    """
    own = error_text(error) if isinstance(error, (GuidegraphError, SettingError)) else ""
    return with_shortage(own or describe_error(error), error)


class UnwritableOutput(GuidegraphError):
    """An output of a workflow cannot be written to a file."""


class Cancelled(GuidegraphError):
    """The run was cancelled; outputs that were complete are kept. ``status`` is the status in the run's record."""

    status: Literal["cancelled", "failed", "stopped"] = "cancelled"


class OutOfTime(Cancelled):
    """A run exceeded its time limit and was stopped as if cancelled."""

    status = "failed"


def closest_match(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to a misspelt name; ``None`` if none is similar enough."""
    names = list(candidates)
    if len(names) > MAX_COMPARED:  # comparing every mistake in a huge file with all of its names would take minutes
        names = [n for n in names if n[:1] == name[:1] and abs(len(n) - len(name)) < 3][:MAX_COMPARED]
    matches = difflib.get_close_matches(name[:MAX_LENGTH], names, n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggest(name: str, candidates: Sequence[str] | Iterable[str], noun: str, limit: int = 20) -> str:
    """The end of a message: 'did you mean' with the closest name, or the first ``limit`` names that exist."""
    names = list(candidates)
    if guess := closest_match(name, names):
        hint = f"did you mean '{guess}'?"
        return f"{hint} {noun}: {', '.join(names)}" if len(names) <= limit else hint
    if not names:
        return f"there are no {noun}"
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return f"{noun}: {', '.join(names[:limit])}{more}"
