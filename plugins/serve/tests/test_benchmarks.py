"""The benchmarks of the servers refuse a folder without a bundle by a line, before they measure."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("name", ["serve.py", "ray_serve.py"])
@pytest.mark.parametrize("has_manifest", [False, True])
def test_a_folder_without_a_bundle_is_one_line(tmp_path: Path, name: str, has_manifest: bool) -> None:
    if name == "ray_serve.py" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    folder = tmp_path / "folder"
    if has_manifest:
        folder.mkdir()
        (folder / "bundle.json").write_text('{"a": 1}')
    command = [sys.executable, str(ROOT / "benchmarks" / name), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: error: "), result.stderr
    assert str(folder) in last
    assert last.endswith("(BUNDLE is a folder that guidegraph export wrote)")
    assert "Traceback" not in result.stderr
