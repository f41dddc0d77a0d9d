"""Errors on the command line: what is printed, and with which exit code. Never a traceback, unless asked for."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NoReturn, TextIO

import typer

from guidegraph.graph.errors import Cancelled, GuidegraphError, Mark, NodeError, OutOfTime, Problem, WorkflowError
from guidegraph.outputs import OutputError
from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.limits import LimitExceeded
from guidegraph_runtime.say import visible, visible_json, visible_line
from guidegraph_runtime.shortages import explain_shortage, os_error_number, with_shortage, write_reason

FAILED, WRONG, CANCELLED = 1, 2, 130
_OF_PRINTING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
ID, NAME = "ID", "NAME"


def print_text(text: str, *, newline: bool = True, file: IO[str] | None = None) -> None:
    """Print on stdout (or ``file``), control characters as escapes."""
    typer.echo(visible(text), nl=newline, file=file)


def print_json(text: str, file: IO[str] | None = None) -> None:
    """Print a JSON text on stdout (or ``file``), control characters as JSON's own escapes."""
    typer.echo(visible_json(text), nl=not text.endswith("\n"), file=file)


def say(text: str) -> None:
    """A line for the person, not for a program: on stderr, control characters as escapes.

    One that cannot be read, on a full disk say, is lost.
    """
    with suppress(OSError, ValueError):
        typer.echo(visible(text), err=True)


def flush_output(code: int) -> int:
    """Write out what is printed. The exit code: one that was 0 is 1 where stdout cannot be written.

    Python flushes at its end too, and would print a traceback of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _discard(stream)
            if stream is sys.stdout and code == 0:
                code = FAILED
                if not isinstance(error, BrokenPipeError):
                    say(_unprinted(error))
    return code


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _unprinted(error: Exception) -> str:
    reason = "" if (number := os_error_number(error)) is None else write_reason(number)
    return f"error: the output cannot be printed: {reason or error_text(error)}"


def say_warning(message: Warning | str, *_: object, **__: object) -> None:
    """How Python's warnings are shown: the message alone; where in the sources it arose is not the user's concern."""
    say(f"warning: {message}")


def argument_problem(code: str, message: str, option: str) -> Problem:
    """Something wrong with an argument."""
    return Problem(Mark(option, 1, 1), code, message)


def shown(error: WorkflowError) -> str:
    """All problems, one a line; an argument has no line and column."""
    lines = []
    for problem in error.problems:
        argument = problem.mark.file.startswith("--") or problem.mark.file in (ID, NAME)
        place = problem.mark.file if argument else str(problem.mark)
        lines.append(visible_line(place + str(problem).removeprefix(str(problem.mark))))
    return "\n".join(lines)


def check_names(command: str, arguments: Sequence[str]) -> None:
    """Raise ``WorkflowError`` for a command or an option with control characters: click would print them as they are.

    A pattern of the shell may expand to a stranger's file called ``--…``. No option and no command has such a name.
    """
    names = [command, *(argument.partition("=")[0] for argument in arguments if argument.startswith("-"))]
    if unknown := [name for name in names if visible_line(name) != name]:
        raise WorkflowError(argument_problem("unknown-option", "there is no such option", name) for name in unknown)


@contextmanager
def reported(tracebacks: bool) -> Iterator[None]:
    """Print the errors of what happens inside, and exit."""
    try:
        yield
    except WorkflowError as error:
        _end(WRONG, shown(error), error.__cause__ if tracebacks else None)
    except OutOfTime as error:
        _end(FAILED, f"error: {error}")
    except (Cancelled, KeyboardInterrupt):
        _end(CANCELLED, "cancelled")
    except (NodeError, OutputError) as error:
        _end(FAILED, str(error), error if tracebacks else None)
    except BrokenPipeError:  # who read us is gone: nothing is left to say
        raise SystemExit(FAILED) from None
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except (GuidegraphError, LimitExceeded, OSError) as error:
        _end(FAILED, _sentence(error), error if tracebacks else None)
    except BaseException as error:
        shown_error = error if tracebacks else None
        if shortage := explain_shortage(error):
            _end(FAILED, f"error: {shortage}", shown_error)
        if torn := _unreadable():
            _end(FAILED, torn, shown_error)
        hint = "" if tracebacks else " (GUIDEGRAPH_DEBUG=1 shows where)"
        _end(FAILED, f"internal error: {describe_error(error)}{hint}{_suspects()}", shown_error)


def _suspects() -> str:
    """The plugins that have changed something of the process: what fails may be due to them."""
    from guidegraph.plugins.traces import in_words
    from guidegraph.plugins.watch import changed

    if not changed:
        return ""
    plugins = "; ".join(f"'{name}' ({in_words(changes)})" for name, changes in changed.items())
    return f"\nplugins that changed the process when they were imported: {plugins}; does it fail with --no-plugins too?"


def _sentence(error: Exception) -> str:
    """What is said of an error that is for the person. One of the system without a file is of what we print."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _OF_PRINTING:
        return _unprinted(error)
    return f"error: {with_shortage(error_text(error), error)}"


def _unreadable() -> str:
    """Distributions whose metadata is broken, which makes imports fail that have nothing to do with them."""
    from guidegraph.plugins.entries import unreadable

    return "\n".join(
        f"error: the entry points of {name} cannot be read ({reason}), and while they are there networkx, torch and "
        f"others cannot be imported; install it again: pip install --force-reinstall {name.partition(' ')[0]}"
        for name, reason in unreadable()
    )


def _end(code: int, text: str, error: BaseException | None = None) -> NoReturn:
    """Exit with ``code``; the traceback of ``error`` ends in a line of its own, so ``text`` comes after it."""
    if error is not None:
        say("".join(traceback.format_exception(error)))
    say(text)
    raise SystemExit(code) from None
