"""Runs every command of docs/learn/plugins.md in a fresh environment."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guidegraph.commands.plugin_template import render_template
from guidegraph.plugins.entry_points import PACKAGES
from tests.repository.test_packaging import ROOT, build_wheel, source, wheel

__all__ = ["source", "wheel"]

GUIDE = (ROOT / "docs" / "learn" / "plugins.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGE = "guidegraph_soft"


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCK.findall(GUIDE) if name == kind]


def edits() -> list[tuple[str, str]]:
    """The lines that the guide changes, before and after."""
    lines = "".join(blocks("diff")).splitlines()
    removed, added = ([line[1:] for line in lines if line[0] == sign] for sign in "-+")
    return list(zip(removed, added, strict=True))


def commands() -> list[str]:
    return [line for block in blocks("") for line in block.splitlines()]


def test_the_guide_shows_the_code_that_new_plugin_writes() -> None:
    code = render_template("soft")[f"{PACKAGE}/__init__.py"]
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        assert block in code
    for before, after in edits():
        assert code.count(f"{before}\n") == 1
        assert after not in code


def test_the_guide_counts_its_commands_and_its_edited_lines() -> None:
    match = re.search(r"in (\d+) commands and\s+(\d+) edited line", GUIDE)
    assert match is not None
    assert (int(match[1]), int(match[2])) == (len(commands()), len(edits()))


@dataclass
class Newcomer:
    """A shell in a fresh virtual environment."""

    bin: Path
    folder: Path

    def run(self, command: str) -> str:
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            assert self.folder.is_dir()
            output = ""
        else:
            # pip takes what is at hand: nothing is downloaded, and builds see the packages of this environment.
            pip = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
            env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GUIDEGRAPH_DISABLE_PLUGINS")}
            env |= pip | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            result = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=1800,
            )
            output = result.stdout
            assert result.returncode == 0, f"{command}\n{output}"
        return output

    def picture(self, name: str) -> np.ndarray:
        return np.asarray(Image.open(self.folder / name / "image.png"), dtype=np.int16)


@pytest.fixture
def newcomer(source: Path, wheel: Path, tmp_path: Path) -> Newcomer:
    """A fresh environment with guidegraph installed from its wheels; other packages are those of this one."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    script = tmp_path / "venv" / "bin" / "pytest"
    script.write_text(f'#!/bin/sh\nexec "{python}" -m pytest "$@"\n')
    script.chmod(0o755)
    runtime = build_wheel(source / "runtime", tmp_path / "runtime")
    home = tmp_path / "home"
    home.mkdir()
    actual = Newcomer(python.parent, home)
    actual.run("pip uninstall -q -y setuptools")  # an old one comes with venv, and would hide the one that is here
    packages = " ".join(str(build_wheel(source / "plugins" / name, tmp_path / name)) for name in PACKAGES)
    actual.run(f"pip install -q --ignore-installed '{runtime}' '{wheel}' {packages}")
    location = actual.run(
        "python -c 'import guidegraph.graph as g, guidegraph_runtime as r; print(g.__file__, r.__file__)'"
    )
    assert location.count(str(site)) == 2
    return actual


@pytest.mark.slow
def test_a_newcomer_follows_the_guide_from_nothing_to_a_bundle(newcomer: Newcomer) -> None:
    done: dict[str, str] = {}
    edited = False
    for command in commands():
        if not edited and "--out second" in command:
            assert re.search(r"\d+ passed", newcomer.run("pytest"))  # as it was written
            for before, after in edits():
                node = newcomer.folder / PACKAGE / "__init__.py"
                node.write_text(node.read_text().replace(f"{before}\n", f"{after}\n"))
            edited = True
        done[command] = newcomer.run(command)
    assert edited
    for before, after in (("first", "second"), ("first", "third"), ("second", "third")):
        assert np.abs(newcomer.picture(before) - newcomer.picture(after)).max() > 2  # more than rounding
    assert re.search(r"^\d+ passed", done["pytest"].splitlines()[-1].strip("= "))
    exported = next(output for command, output in done.items() if " export " in command)
    for name in ("prompt", "scale", "softness", "seed", "steps", "batch"):
        assert f"\ninput {name}: " in f"\n{exported}"
    assert "image: as the engine" in exported
    with zipfile.ZipFile(next(newcomer.folder.glob("dist/*.whl"))) as archive:
        assert f"{PACKAGE}/text_to_image.yaml" in archive.namelist()
    # From the installed wheel, in another folder: the bundle draws what the engine draws.
    newcomer.run("guidegraph run soft:text_to_image.yaml --set seed=3 --out engine")
    assert np.abs(newcomer.picture("engine") - newcomer.picture("headless")).max() <= 1  # 2/255 from −1 to 1
    assert "editable" not in newcomer.run("pip show -v guidegraph-soft").lower()
