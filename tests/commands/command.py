"""Run the command line: in this process for speed, or in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guidegraph.commands import load_commands, main
from guidegraph.commands.shared.plugins import load_plugins
from tests.paths import ROOT

TOYS = str(Path(__file__).with_name("toys.py"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Command:
    """Runs ``guidegraph`` in this process, in a temporary folder that also holds the workflows."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]):
        self.folder, self._capture = folder, capture

    def __call__(self, *arguments: str | Path) -> Result:
        self._capture.readouterr()
        load_plugins.cache_clear()
        app = load_commands()
        own = list(app.registered_commands)
        try:
            with pytest.raises(SystemExit) as ended:
                main([*map(str, arguments), "--plugin", TOYS])
        finally:
            app.registered_commands[:] = own
        out, err = self._capture.readouterr()
        assert "Traceback" not in err or "--traceback" in arguments
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    def workflow(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "runtime")))
    return {**os.environ, "PYTHONPATH": path, "GUIDEGRAPH_DEBUG": "", **more}


def process(
    arguments: Sequence[str | Path],
    folder: Path,
    *,
    python: Sequence[str] = ("-m", "guidegraph"),
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, *map(str, arguments)],
        cwd=folder,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        **more,
    )


def start(
    arguments: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None, *, group: bool = False
) -> subprocess.Popen[str]:
    """Start the command line as a process. group: whether it leads a process group, to which signals can be sent."""
    return subprocess.Popen(
        [sys.executable, "-m", "guidegraph", *map(str, arguments)],
        cwd=folder,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )
