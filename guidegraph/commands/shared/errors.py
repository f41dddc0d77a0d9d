"""Errors on the command line: their messages and exit codes. A traceback is printed only on request."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from guidegraph.commands.shared.printing import output_stream, print_note
from guidegraph.graph.errors import (
    Cancelled,
    GuidegraphError,
    Mark,
    NodeError,
    OutOfTime,
    Problem,
    UnwritableOutput,
    WorkflowError,
)
from guidegraph.plugins.entry_points import find_unreadable
from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.limits import LimitExceeded
from guidegraph_runtime.machine.shortages import explain_shortage, os_error_number, with_shortage, write_reason
from guidegraph_runtime.printing import visible_line

FAILED, WRONG, CANCELLED = 1, 2, 130
_PRINTING_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
ID, NAME, VALUE = "ID", "NAME", "VALUE"


def flush_output(code: int) -> int:
    """Flush stdout and stderr, and return the exit code: 1 in place of 0 if stdout cannot be written.

    Python flushes again when it exits, and would print a traceback of its own.
    """
    output = output_stream()
    for stream in (output, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError):  # discard its unwritten content
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, stream.fileno())
                os.close(devnull)
            if stream is output and code == 0:
                code = FAILED
                if not isinstance(error, BrokenPipeError):
                    print_note(_printing_failure(error))
    return code


def _printing_failure(exception: Exception) -> str:
    reason = "" if (number := os_error_number(exception)) is None else write_reason(number)
    return f"error: the output cannot be printed: {reason or error_text(exception)}"


def argument_problem(code: str, message: str, option: str) -> Problem:
    """A problem with a command-line argument."""
    return Problem(Mark(option, 1, 1), code, message)


def format_problems(error: WorkflowError) -> str:
    """All problems, one per line; those of arguments have no line and column."""
    lines = []
    for problem in error.problems:
        argument = problem.mark.file.startswith("--") or problem.mark.file in (ID, NAME, VALUE)
        location = problem.mark.file if argument else str(problem.mark)
        lines.append(visible_line(location + str(problem).removeprefix(str(problem.mark))))
    return "\n".join(lines)


def check_names(command: str, arguments: Sequence[str]) -> None:
    """Raise ``WorkflowError`` for a command or option with control characters, which click would print unescaped.

    A shell pattern may expand to an untrusted file called ``--…``. No option or command has such a name.
    """
    names = [command, *(argument.partition("=")[0] for argument in arguments if argument.startswith("-"))]
    if unknown := [name for name in names if visible_line(name) != name]:
        raise WorkflowError(argument_problem("unknown-option", "there is no such option", name) for name in unknown)


@contextmanager
def exit_on_error(tracebacks: bool) -> Iterator[None]:
    """Context manager: print an error raised inside it, and exit with its code."""
    try:
        yield
    except WorkflowError as error:
        _exit_with(WRONG, format_problems(error), error.__cause__ if tracebacks else None)
    except OutOfTime as error:
        _exit_with(FAILED, f"error: {error}")
    except (Cancelled, KeyboardInterrupt):
        _exit_with(CANCELLED, "cancelled")
    except (NodeError, UnwritableOutput) as error:
        _exit_with(FAILED, str(error), error if tracebacks else None)
    except BrokenPipeError:  # the reader has gone away
        raise SystemExit(FAILED) from None
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except (GuidegraphError, LimitExceeded, OSError) as error:
        # An ``OSError`` without a file comes from printing.
        is_printing = isinstance(error, OSError) and error.filename is None and error.errno in _PRINTING_ERRNOS
        text = _printing_failure(error) if is_printing else f"error: {with_shortage(error_text(error), error)}"
        _exit_with(FAILED, text, error if tracebacks else None)
    except BaseException as error:
        reported = error if tracebacks else None
        if shortage := explain_shortage(error):
            _exit_with(FAILED, f"error: {shortage}", reported)
        if broken := _describe_broken_distributions():
            _exit_with(FAILED, broken, reported)
        hint = "" if tracebacks else " (GUIDEGRAPH_DEBUG=1 shows where)"
        _exit_with(FAILED, f"internal error: {describe_error(error)}{hint}", reported)


def _describe_broken_distributions() -> str:
    """A line for each distribution with broken metadata, which makes unrelated imports fail."""
    return "\n".join(
        f"error: the entry points of {name} cannot be read ({reason}), and while they are there networkx, torch and "
        f"others cannot be imported; install it again: pip install --force-reinstall {name.partition(' ')[0]}"
        for name, reason in find_unreadable()
    )


def _exit_with(code: int, text: str, error: BaseException | None = None) -> NoReturn:
    """Print the traceback of ``error``, then ``text``, and exit with ``code``."""
    if error is not None:
        print_note("".join(traceback.format_exception(error)))
    print_note(text)
    raise SystemExit(code) from None
