"""Lines for a person or a program: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys


def out(text: str) -> None:
    """A line of a result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line beside the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
