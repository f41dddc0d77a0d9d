"""onnxruntime in Node, for tests: installed once, from the registry of npm or its cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).with_name("node")
SECONDS = 300


def node_folder(config: pytest.Config) -> Path:
    """A folder with the script and its packages. Skips the test, with the reason, where they cannot be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if getattr(config, "cache", None) is None:
        pytest.skip("pytest runs without its cache, where the packages are kept")
    lock = (HERE / "package-lock.json").read_bytes()
    folder = Path(config.cache.mkdir(f"node-{hashlib.sha256(lock).hexdigest()[:12]}"))
    done = folder / "node_modules" / ".package-lock.json"
    for file in HERE.iterdir():
        shutil.copyfile(file, folder / file.name)
    if not done.is_file():
        # The package's own script would fetch CUDA from elsewhere; the CPU's library is in the package.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        try:
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm ci took more than {SECONDS} seconds")
        if result.returncode:
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            error = next((line for line in result.stderr.splitlines() if "npm error" in line), "no reason given")
            pytest.skip(f"npm ci failed, maybe for lack of a network: {error}")
    return folder


def run_in_node(folder: Path, file: Path, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of one call of a single file on its examples."""
    command = ["node", "run.mjs", str(file), str(out)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return {
        name: np.fromfile(out / f"{name}.bin", item["type"]).reshape(item["dims"])
        for name, item in json.loads(result.stdout).items()
    }
