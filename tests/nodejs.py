"""Packages of npm for tests: installed once, from the registry or its cache. Scripts in Node."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

SECONDS = 300


def install_packages(config: pytest.Config, source: Path) -> Path:
    """A copy of a folder with package.json and its lock, and the packages that they name.

    Skips the test, with the reason, where they cannot be had.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if getattr(config, "cache", None) is None:
        pytest.skip("pytest runs without its cache, where the packages are kept")
    lock = (source / "package-lock.json").read_bytes()
    folder = Path(config.cache.mkdir(f"node-{hashlib.sha256(lock).hexdigest()[:12]}"))
    done = folder / "node_modules" / ".package-lock.json"
    for file in source.iterdir():
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


def run_node(*arguments: str | Path, cwd: Path) -> str:
    """Run Node; return its standard output. Fails if it writes to its standard error."""
    result = subprocess.run(["node", *arguments], cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout
