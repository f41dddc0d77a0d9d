"""The file of ``-o``: a path that cannot be written is a problem of the arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.printing import print_text
from guidegraph.graph.errors import WorkflowError
from guidegraph_runtime.files.atomic_write import write_text
from guidegraph_runtime.machine.shortages import WriteError


def write_or_print(text: str, output: Path | None, print_: Callable[[str], object] = print_text) -> None:
    """Write text to a file, or print it with ``print_``. Raises as ``write_output`` does."""
    if output is None or str(output) == "-":
        print_(text)
    else:
        write_output(output, text)


def write_output(target: Path, text: str) -> None:
    """Write the file of ``-o``. Raises ``WorkflowError`` for a wrong path, ``WriteError`` for a full disk."""
    check_output(target)
    try:
        write_text(target, text)
    except WriteError:
        raise
    except OSError as error:
        raise _not_written(target, error) from error


def check_output(target: Path) -> None:
    """Raise ``WorkflowError`` if ``target`` is a folder, or lies inside of a file."""
    try:
        file = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
        is_folder = target.is_dir()
    except OSError as error:
        raise _not_written(target, error) from error
    if file is not None:
        raise WorkflowError([argument_problem("not-a-folder", f"'{file}' is not a folder", "--output")])
    if is_folder:
        problem = argument_problem("not-a-file", f"'{target}' is a folder; name the file to write", "--output")
        raise WorkflowError([problem])


def _not_written(target: Path, error: OSError) -> WorkflowError:
    message = f"'{target}' cannot be written: {error.strerror}; name another file"
    return WorkflowError([argument_problem("not-written", message, "--output")])
