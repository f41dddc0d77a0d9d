"""Printing on the command line: control characters become escapes, and a full disk drops only messages."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, TextIO

import typer

from guidegraph_runtime.printing import visible, visible_json

_reserved: TextIO | None = None


def reserve_stdout() -> None:
    """Keep stdout for this module's text. Whatever else writes to it, such as a plugin's C code, writes to stderr."""
    global _reserved
    with suppress(OSError, ValueError):  # there is no stdout or no stderr
        sys.stdout.flush()
        kept = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
        os.dup2(2, 1)
        _reserved = kept


def release_stdout() -> None:
    """Give stdout back to the process, for processes that it starts and that print in its place."""
    if _reserved is not None:
        _reserved.flush()
        os.dup2(_reserved.fileno(), 1)


def output_stream() -> TextIO:
    """The stream that commands print to."""
    return _reserved or sys.stdout


def print_text(text: str, *, newline: bool = True, file: IO[str] | None = None) -> None:
    """Print on stdout (or ``file``), with control characters as escapes."""
    typer.echo(visible(text), nl=newline, file=file or output_stream())


def print_json(text: str, file: IO[str] | None = None) -> None:
    """Print JSON text on stdout (or ``file``), with control characters as JSON escapes."""
    typer.echo(visible_json(text), nl=not text.endswith("\n"), file=file or output_stream())


def print_note(text: str) -> None:
    """Print a message for the user on stderr, with control characters as escapes.

    A message that cannot be written (a full disk, for instance) is dropped.
    """
    with suppress(OSError, ValueError):
        typer.echo(visible(text), err=True)


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a Python warning (``warnings.showwarning``): the message alone, without its source line."""
    print_note(f"warning: {message}")
