"""No telemetry of onnxruntime, whose official builds send events and keep a device id in the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.runtime.running.loop_bundle import write_loop_bundle

NAME = "ORT_DISABLE_TELEMETRY"


def run_python(code: str, home: Path, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != NAME and not name.startswith("XDG_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"HOME": str(home), "PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.strip()


def test_a_run_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    bundle, home = write_loop_bundle(tmp_path / "bundle"), tmp_path / "home"
    home.mkdir()
    code = f"import guidegraph_runtime; print([*guidegraph_runtime.Bundle({str(bundle)!r}).run(steps=2)])"
    assert run_python(code, home) == "['image']"
    assert [*home.rglob("*")] == []


@pytest.mark.parametrize("package", ["guidegraph_runtime", "guidegraph"])
@pytest.mark.parametrize(("environment", "value"), [({}, "1"), ({NAME: "0"}, "0")])
def test_it_is_off_unless_the_user_says_otherwise(
    package: str, environment: dict[str, str], value: str, tmp_path: Path
) -> None:
    code = f"import os, sys, {package}; print(os.environ[{NAME!r}], 'onnxruntime' in sys.modules)"
    assert run_python(code, tmp_path, **environment) == f"{value} False"
