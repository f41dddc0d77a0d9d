"""Two environments on one checkout: installing guidegraph into one does not disturb the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

BUILD = (
    "import sys; sys.path.append(sys.argv[2]); import setuptools.build_meta as b; print(b.build_editable(sys.argv[1]))"
)
WHERE = """
from importlib.util import find_spec
for name in ("guidegraph.graph.node", "guidegraph_runtime"):
    print(find_spec(name).origin)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packaged files, so that nothing is built in the checkout."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "gallery", "models", "data")
    for name in ("guidegraph", "graph", "nodes", "plugins", "workflows", "runtime"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def other_python() -> str:
    """A Python of another version, where there is one."""
    version = f"3.{11 if sys.version_info >= (3, 12) else 13}"
    candidates = [f"/usr/bin/python{version}", shutil.which(f"python{version}")]
    return next((path for path in candidates if path and Path(path).is_file()), sys.executable)


class Environment:
    """A virtual environment, with setuptools lent from the environment of the tests."""

    def __init__(self, folder: Path, python: str) -> None:
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.folder, self.python = folder, folder / "bin" / "python"

    def site_packages(self) -> Path:
        (folder,) = self.folder.glob("lib/python3*/site-packages")
        return folder

    def install(self, project: Path) -> None:
        """Do what `pip install --no-deps --no-build-isolation -e project` does with the wheel that it builds."""
        dist = self.folder / "dist" / project.name
        dist.mkdir(parents=True, exist_ok=True)
        command = [str(self.python), "-c", BUILD, str(dist), str(self._lend_setuptools())]
        with zipfile.ZipFile(dist / self._run(command, project)[-1]) as wheel:
            wheel.extractall(self.site_packages())

    def _lend_setuptools(self) -> Path:
        """A folder with links to setuptools alone: it imports whatever package beside it extends its commands."""
        folder = self.folder / "lent"
        folder.mkdir(exist_ok=True)
        packages = Path(sysconfig.get_path("purelib"))
        for path in (*packages.glob("setuptools*"), packages / "_distutils_hack"):
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        return folder

    def imported_from(self, folder: Path) -> list[Path]:
        """The files of the engine and of the runtime that this environment imports, before links are followed."""
        return [Path(line) for line in self._run([str(self.python), "-c", WHERE], folder)]

    def _run(self, command: list[str], folder: Path) -> list[str]:
        """The lines that a command prints, with nothing of the tests' own path."""
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=folder, env=plain, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.splitlines()


def stamps(folder: Path) -> dict[str, int]:
    """The inode of everything below a folder, to detect files that were written again."""
    return {str(path.relative_to(folder)): path.lstat().st_ino for path in folder.rglob("*")}


@pytest.mark.slow
def test_two_environments_do_not_disturb_each_other(checkout: Path, tmp_path: Path) -> None:
    first, second = Environment(tmp_path / "a", sys.executable), Environment(tmp_path / "b", other_python())
    for project in (checkout / "runtime", checkout):
        first.install(project)
    engine, runtime = first.imported_from(tmp_path)
    assert engine.resolve() == checkout / "graph" / "node.py"
    assert runtime.resolve() == checkout / "runtime" / "guidegraph_runtime" / "__init__.py"
    (tree,) = (checkout / "build").iterdir()
    before = stamps(tree)
    for project in (checkout / "runtime", checkout):
        second.install(project)
    assert stamps(tree) == before
    assert first.imported_from(tmp_path) == [engine, runtime]
    other_modules, _ = second.imported_from(tmp_path)
    assert other_modules.resolve() == checkout / "graph" / "node.py"
    assert not other_modules.is_relative_to(tree)
    shutil.rmtree(next(path for path in (checkout / "build").iterdir() if path != tree))  # the second one is given up
    assert first.imported_from(tmp_path) == [engine, runtime]
