"""The distributions of the project: one version, an extra for each, and an environment for whatever the extras name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from guidegraph.plugins.entry_points import PACKAGES
from tests.paths import ROOT

EXTRAS = ("", *PACKAGES, "all")
NEEDED_BY = {"page": ("lab",), "scenes": ("lab",), "all": tuple(PACKAGES)}
"""The packages that come with another one, or with an extra."""
SCRIPTS = {"serve": "guidegraph_serve.command"}


def read_project(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def test_each_folder_in_plugins_is_a_distribution_with_all_that_belongs_to_one() -> None:
    folders = [path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file()]
    assert sorted(path.name for path in folders) == sorted(PACKAGES)
    for path in folders:
        assert read_project(path)["name"] == f"guidegraph-{path.name}"
        assert read_project(path)["version"] == version("guidegraph")
        for part in ("README.md", "LICENSE", "tests", f"guidegraph_{path.name}/__init__.py"):
            assert (path / part).exists(), f"{path.name} has no {part}"


def test_each_distribution_has_an_extra_and_asks_for_the_same_version_of_the_others() -> None:
    extras = read_project(ROOT)["optional-dependencies"]
    assert {name: extras[name] for name in PACKAGES} == {name: [f"guidegraph-{name}"] for name in PACKAGES}
    assert extras["all"] == [f"guidegraph[{','.join(sorted(PACKAGES))}]"]
    for name in PACKAGES:
        own = [item for item in read_project(ROOT / "plugins" / name)["dependencies"] if item.startswith("guidegraph")]
        assert own
        assert all(item.endswith(f"=={version('guidegraph')}") for item in own), f"{name}: {own}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of each distribution, built from a copy, so that nothing is left in the checkout."""
    copy, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".*", "gallery", "tests", "node_modules")
    for name in ("guidegraph", "graph", "nodes", "plugins", "workflows", "runtime"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    projects = [copy, copy / "runtime", *(copy / "plugins" / name for name in PACKAGES)]
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, "-w", folder, *projects], check=True, cwd=copy)
    return folder


@pytest.fixture(scope="module")
def bare(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with guidegraph and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install(folder, wheels, "guidegraph")
    return folder


def install(environment: Path, wheels: Path, requirement: str) -> None:
    command = [environment / "bin" / "python", "-m", "pip", "install", "-q", "--find-links", wheels, requirement]
    subprocess.run(command, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_environment_has_what_its_extra_names(extra: str, wheels: Path, bare: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    # Links to the files of the bare one: pip replaces files, and writes into none.
    shutil.copytree(bare, environment, symlinks=True, copy_function=os.link)
    if extra:
        install(environment, wheels, f"guidegraph[{extra}]")
    present = {extra, *NEEDED_BY.get(extra, ())} & {*PACKAGES}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "python"), "-m", *arguments]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    checked = run("pip", "check")
    assert checked.returncode == 0, checked.stdout
    described = run("guidegraph", "--help")
    assert described.returncode == 0, described.stderr
    for package, commands in PACKAGES.items():
        for command in commands:
            assert (f"\n  {command} " in described.stdout) == (package in present), command
            if package not in present:
                assert f"pip install guidegraph-{package}" in run("guidegraph", command, "draw.yaml").stderr
    for package, module in SCRIPTS.items():
        assert (run(module, "--help").returncode == 0) == (package in present)
    drawn = run("guidegraph", "run", "pkg:text_to_image.yaml", "--set", "steps=2", "--out", "out")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "out" / "image.png").is_file()
