"""``pytest --guidegraph-plugin NAME --device sim``: a plugin's author learns of strays and waits without a GPU."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.command import environment

pytest_plugins = ["pytester"]

PLUGIN = '''"""A plugin."""

import torch

from guidegraph import Prediction, Scale, hookimpl, node


@node("mine.guide")
def guide(cond: Prediction, uncond: Prediction, *, scale: Scale = 4.0) -> Prediction:
    """Guidance. scale: of the difference."""
    difference = cond - uncond
    return uncond + scale * {expression}


@hookimpl
def guidegraph_nodes():
    return [guide]
'''
LINE = 12
FAULTS = {
    "waits": (
        "(difference if bool(difference.value.abs().max() > 0) else cond)",
        f"_local_scalar_dense at mine.py:{LINE}",
    ),
    "uploads": (
        "difference * torch.ones(()).to(cond.value.device)",
        f"copy of pageable memory at mine.py:{LINE}",
    ),
    "strays": ("difference * torch.ones(cond.value.shape)", f"mine.py:{LINE}"),
}


def check_plugin(folder: Path, expression: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The checks of a plugin with this expression, from the command line."""
    (folder / "mine.py").write_text(PLUGIN.format(expression=expression), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", "--guidegraph-plugin", "mine.py"]
    selected = ["-k", "waits or device"]
    return subprocess.run(
        [*command, *selected, *options], cwd=folder, env=environment(), capture_output=True, text=True
    )


def test_a_node_that_computes_on_its_device_passes(tmp_path: Path) -> None:
    done = check_plugin(tmp_path, "difference", "--device", "sim")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    without = check_plugin(tmp_path, "difference")
    assert "1 passed" in without.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    expression, place = FAULTS[fault]
    done = check_plugin(tmp_path, expression, "--device", "sim")
    assert done.returncode == 1
    assert place in done.stdout
    assert "to do: " in done.stdout


def test_a_device_that_cannot_be_compiled_is_an_error_of_use(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(expression="difference"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--guidegraph-plugin", "mine.py", "--device", "sim"]
    bare = environment() | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert done.returncode == 4
    assert "--device sim: there is no g++" in done.stderr


def test_a_torch_with_cuda_is_an_error_of_use_and_not_a_silent_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    monkeypatch.delitem(sys.modules, "torch")
    result = pytester.runpytest_inprocess("--guidegraph-plugin", "mine", "--device", "sim")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--device sim: this torch is built with CUDA*"])


def test_a_plugin_of_pytest_that_imports_torch_is_told(tmp_path: Path) -> None:
    (tmp_path / "eager.py").write_text("import torch\n", encoding="utf-8")
    done = check_plugin(tmp_path, "difference", "-p", "eager", "--device", "sim")
    assert done.returncode == 4
    assert "another plugin of pytest imports torch: leave it out, with -p no:PLUGIN" in done.stderr


def test_the_option_leaves_that_of_other_projects_alone(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--device')\n")
    (tmp_path / "test_own.py").write_text(
        "def test_own(request):\n    assert request.config.getoption('device') == 'x'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--device", "x"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
