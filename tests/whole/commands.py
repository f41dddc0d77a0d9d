"""Commands for tests of whole workflows: run one, and make a model folder from a workflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from guidegraph import load_workflow
from tests.paths import ROOT


def guidegraph(*arguments: object, cwd: Path = ROOT) -> str:
    """The output of a command that succeeds, messages included."""
    command = [sys.executable, "-m", "guidegraph", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def set_options(**settings: object) -> list[str]:
    """The options of a command for these parameters."""
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def write_model(workflow: str, folder: Path) -> Path:
    """The model folder that a workflow's text writes to its parameter `path`."""
    (folder / "model.yaml").write_text(workflow)
    load_workflow(folder / "model.yaml").run(path=folder / "model")
    return folder / "model"
