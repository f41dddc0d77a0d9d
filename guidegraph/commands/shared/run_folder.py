"""The folder that a command writes its files to."""

from __future__ import annotations

from pathlib import Path

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.graph.errors import WorkflowError
from guidegraph_runtime.files.run_folders import make_run_folder
from guidegraph_runtime.machine.shortages import with_shortage


def prepare_run_folder(out: Path | None, name: str) -> Path:
    """Make the folder for the files. Raises ``WorkflowError`` if it cannot be made."""
    try:
        return make_run_folder(out, name)
    except OSError as error:
        reason = with_shortage(str(error), error)
        problem = argument_problem("no-folder", f"the folder for the files cannot be made: {reason}", "--out")
        raise WorkflowError([problem]) from error
