"""The parts that the runtime's commands share: exit codes, errors for the person, and options."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from guidegraph_runtime import __version__
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits, parse_limits
from guidegraph_runtime.machine.shortages import WriteError, explain_shortage, with_shortage, write_reason
from guidegraph_runtime.printing import print_note

DONE, FAILED, WRONG, CANCELLED = 0, 1, 2, 130
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")
_RUN_ERRORS = ("operation-failed", "run-failed", "output-failed", "bad-input", "limit-reached", "needs-memory")


def end_with_code(program: str, command: Callable[[], int]) -> NoReturn:
    """Run a command, and exit with its code; print errors as a line on stderr, with the code 1, 2 or 130."""
    warnings.showwarning = _print_warning
    try:
        code = command()
    except BundleError as error:
        code = _print_end(FAILED if error.code in _RUN_ERRORS else WRONG, str(error))
    except KeyboardInterrupt:
        code = _print_end(CANCELLED, "cancelled")
    except BrokenPipeError:
        # The reader of our output is gone; the flush at exit must not fail too.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        if isinstance(error, WriteError):
            reason = f"cannot be written: {error.strerror}"
        elif error.filename is None and error.errno is not None:  # no file, so it concerns printing
            reason = f"the output cannot be printed: {write_reason(error.errno)}"
        else:
            reason = with_shortage(error.strerror or str(error), error)
        code = _print_end(FAILED, f"{error.filename or program}: os-error: {reason}")
    except Exception as error:
        shortage = explain_shortage(error)
        code = _print_end(FAILED, f"{program}: {shortage or f'internal-error: {describe_error(error)}'}")
    raise SystemExit(code)


def end_process(main: Callable[[], NoReturn]) -> NoReturn:
    """Run ``main`` and end the process at once, without releasing its memory.

    Releasing every session, array and module takes as long as two steps of a small model.
    """
    try:
        main()
    except SystemExit as exit_error:
        code = exit_error.code
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it may have been closed before the start
                stream.flush()
        except OSError:  # the reader is gone, or the disk is full
            code = code or FAILED
    os._exit(code if isinstance(code, int) else DONE)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises if help or version cannot be printed; argparse hides such errors."""

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = sys.stderr if file is None else file
        if message and stream is not None:
            stream.write(message)
            stream.flush()


def read_limits(settings: Sequence[str]) -> Limits:
    """The limits of ``--limit`` options. Raises ``BundleError``."""
    try:
        return parse_limits(settings)
    except ValueError as error:
        raise BundleError("--limit", "bad-limit", str(error)) from None


def parse_folder(text: str) -> Path:
    """The value of ``--out``, in which an empty text would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty text: '.' is the current folder")
    return Path(text)


def parse_threads(text: str) -> int:
    """The value of ``--threads``."""
    if not text.isascii() or not text.isdigit() or int(text) > 1024:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1024, found {text!r}")
    return int(text)


def show_version() -> str:
    return __version__


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print_note(f"warning: {message}")


def _print_end(code: int, text: str) -> int:
    print_note(" ".join(text.split("\n")))
    return code
