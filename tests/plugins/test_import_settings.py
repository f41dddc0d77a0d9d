"""Changes that a plugin's import makes to the process are noted, and undone where possible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guidegraph.plugins import import_guard
from guidegraph.plugins.manager import PluginManager
from tests.commands.command import environment
from tests.plugins.test_manager import GOOD, Installed, installed, status

__all__ = ["installed"]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_guard, "SLOW", 60.0)


def notes_of(installed: Installed, code: str) -> list[str]:
    installed.add("good", code + "\n" + GOOD)
    actual = status(PluginManager(), "good")
    assert actual.ok
    return list(actual.notes)


def test_a_plugin_that_does_nothing_has_no_notes(installed: Installed) -> None:
    assert notes_of(installed, "") == []


def test_printed_text_goes_to_stderr(installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    assert notes_of(installed, "print('welcome')\nprint('to this plugin')") == []
    assert capsys.readouterr() == ("", "welcome\nto this plugin\n")


def test_an_import_that_takes_long_is_noted(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_guard, "SLOW", 0.01)
    (note,) = notes_of(installed, "import time\ntime.sleep(0.02)")
    assert note.startswith("takes 0.0 s to import, and commands wait for it")


CHANGES = {
    "dtype": ("set_default_dtype(torch.float64)", "torch's default dtype to torch.float64", "torch.float32"),
    "device": ("set_default_device('meta')", "torch's default device to meta", "cpu"),
    "gradients": ("set_grad_enabled(False)", "torch's recording of gradients to False", "True"),
    "precision": (
        "set_float32_matmul_precision('medium')",
        "torch's precision of matrix products to medium",
        "highest",
    ),
    "precision by device": (
        "backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch's precision of matrix products to tf32 on CUDA and none on the CPU",
        "highest",
    ),
    "deterministic": (
        "use_deterministic_algorithms(True)",
        "torch's use of deterministic algorithms to True",
        "False",
    ),
    "threads": ("set_num_threads(3)", "torch's number of threads to 3", "1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_state_of_torch_is_restored(installed: Installed, name: str) -> None:
    import torch

    call, setting, before = CHANGES[name]
    backends: Any = torch.backends
    for place in (backends.cuda.matmul, backends.mkldnn.matmul):
        place.fp32_precision = "none"
    assert notes_of(installed, f"import torch\ntorch.{call}") == [
        f"changes {setting} when it is imported; it was put back to {before}"
    ]
    assert torch.empty(1).dtype == torch.float32
    assert torch.empty(1).device.type == "cpu"
    assert torch.is_grad_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


def test_state_is_restored_after_a_failing_plugin_too(installed: Installed) -> None:
    import torch

    installed.add("fails", "import torch\ntorch.set_default_dtype(torch.float64)\nraise ValueError('no')")
    plugin = status(PluginManager(), "fails")
    assert plugin.state == "failed"
    assert plugin.notes[0].startswith("changes torch's default dtype to torch.float64")
    assert torch.get_default_dtype() == torch.float32


def test_the_current_directory_is_restored(installed: Installed, tmp_path: Path) -> None:
    folder = Path.cwd()
    (note,) = notes_of(installed, f"import os\nos.chdir({str(tmp_path)!r})")
    assert note == f"changes the current directory to {tmp_path} when it is imported; it was put back to {folder}"
    assert Path.cwd() == folder


def test_a_plugin_that_imports_torch_is_compared_with_torchs_defaults(tmp_path: Path) -> None:
    code = "import torch\ntorch.set_default_dtype(torch.float64)\n" + GOOD
    (tmp_path / "first.py").write_text(code, encoding="utf-8")
    program = (
        "from guidegraph.plugins.manager import PluginManager as M\n"
        "(found,) = [s for s in M(['first'], entry_points=False).statuses if s.name == 'first']\n"
        "import torch\n"
        "print(*found.notes, found.state, torch.get_default_dtype(), sep='\\n')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    *notes, state, dtype = result.stdout.splitlines()
    assert (state, dtype) == ("ok", "torch.float32"), result.stderr
    assert notes[-1] == (
        "changes torch's default dtype to torch.float64 when it is imported; it was put back to torch.float32"
    )


def test_ctrl_c_while_a_plugin_is_imported_ends_the_command(installed: Installed) -> None:
    installed.add("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PluginManager()
