"""Errors on the command line: what is printed, and with which exit code. Never a traceback, unless asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

import typer

from guidegraph.graph.errors import Cancelled, GuidegraphError, Mark, NodeError, Problem, WorkflowError
from guidegraph.outputs import OutputError
from guidegraph_runtime.say import visible, visible_json, visible_line

FAILED, WRONG, CANCELLED = 1, 2, 130
ID, NAME = "ID", "NAME"


def print_text(text: str, *, newline: bool = True, file: IO[str] | None = None) -> None:
    """Print on stdout (or ``file``), control characters as escapes."""
    typer.echo(visible(text), nl=newline, file=file)


def print_json(text: str, file: IO[str] | None = None) -> None:
    """Print a JSON text on stdout (or ``file``), control characters as JSON's own escapes."""
    typer.echo(visible_json(text), nl=not text.endswith("\n"), file=file)


def say(text: str) -> None:
    """A line for the person, not for a program: on stderr, control characters as escapes."""
    typer.echo(visible(text), err=True)


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
    except (Cancelled, KeyboardInterrupt):
        _end(CANCELLED, "cancelled")
    except (NodeError, OutputError) as error:
        _end(FAILED, str(error), error if tracebacks else None)
    except BrokenPipeError:
        # Who read us is gone: nothing is left to say, and the flush at exit must not fail too.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except (GuidegraphError, OSError) as error:
        _end(FAILED, f"error: {error}", error if tracebacks else None)
    except Exception as error:
        if torn := _unreadable():
            _end(FAILED, torn, error if tracebacks else None)
        hint = "" if tracebacks else " (GUIDEGRAPH_DEBUG=1 shows where)"
        text = f"internal error: {type(error).__name__}: {error}{hint}{_suspects()}"
        _end(FAILED, text, error if tracebacks else None)


def _suspects() -> str:
    """The plugins that have changed something of the process: what fails may be due to them."""
    from guidegraph.plugins.traces import in_words
    from guidegraph.plugins.watch import changed

    if not changed:
        return ""
    plugins = "; ".join(f"'{name}' ({in_words(changes)})" for name, changes in changed.items())
    return f"\nplugins that changed the process when they were imported: {plugins}; does it fail with --no-plugins too?"


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
