"""The errors a person meets: where it is, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.shortages import with_shortage

MANY = 300
LONG = 100


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with a workflow."""

    mark: Mark
    code: str
    message: str
    path: str = ""

    def __str__(self) -> str:
        where = f" [{self.path}]" if self.path else ""
        return f"{self.mark}: {self.code}: {self.message}{where}"


class GuidegraphError(Exception):
    """Base of all errors that are for the user."""


class WorkflowError(GuidegraphError):
    """A workflow or its arguments are wrong: nothing was run. ``problems`` lists everything found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems: list[Problem] = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


class NodeError(GuidegraphError):
    """A node failed while it ran. ``path`` names it in the workflow; the cause is chained."""

    def __init__(self, path: str, node_id: str, mark: Mark, cause: BaseException, iteration: str = ""):
        self.path, self.node_id, self.mark, self.cause, self.iteration = path, node_id, mark, cause, iteration
        at = f" at iteration {iteration}" if iteration else ""
        super().__init__(f"{mark}: node-failed: {path} ({node_id}){at}: {describe_failure(cause)}")


def describe_failure(error: BaseException) -> str:
    """What went wrong, for the person: disk or memory that ran out with a remedy, else class and text of the error."""
    own = error_text(error) if isinstance(error, GuidegraphError) else ""
    return with_shortage(own or describe_error(error), error)


class Cancelled(GuidegraphError):
    """The run was cancelled; outputs finished before that are kept. ``status`` is how its record says that it ended."""

    status: Literal["cancelled", "failed"] = "cancelled"


class OutOfTime(Cancelled):
    """A run took longer than its limit of seconds, and ended as if it had been cancelled."""

    status = "failed"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely means."""
    names = list(known)
    if len(names) > MANY:  # comparing with all of a huge file's names, for each mistake in it, would take minutes
        names = [n for n in names if n[:1] == name[:1] and abs(len(n) - len(name)) < 3][:MANY]
    found = difflib.get_close_matches(name[:LONG], names, n=1, cutoff=0.6)
    return found[0] if found else None


def choices(name: str, known: Sequence[str] | Iterable[str], what: str, limit: int = 20) -> str:
    """The tail of a message: the closest name, or the names that exist."""
    names = list(known)
    if guess := closest(name, names):
        hint = f"did you mean '{guess}'?"
        return f"{hint} {what}: {', '.join(names)}" if len(names) <= limit else hint
    if not names:
        return f"there are no {what}"
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return f"{what}: {', '.join(names[:limit])}{more}"
