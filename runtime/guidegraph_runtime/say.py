"""Lines for a person or a program: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from contextlib import suppress


def out(text: str) -> None:
    """A line of a result; nothing where stdout was closed before we began."""
    if sys.stdout is not None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def note(text: str) -> None:
    """A line beside the result. One that cannot be read, on a full disk say, is lost."""
    with suppress(OSError, ValueError, AttributeError):  # there is no stderr where it was closed before we began
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
