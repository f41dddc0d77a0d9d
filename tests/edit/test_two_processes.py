"""Edits of one file by several processes follow each other: none is lost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from guidegraph import WorkflowError, edit
from guidegraph.edit import WorkflowEditor, set_value
from guidegraph_runtime.files.locks import hold_lock
from tests.commands.command import environment
from tests.graph import toys
from tests.paths import ROOT

TEXT = """\
guidegraph: 1
params: {n: {default: 0}}
nodes:
  zero: {use: toy.number, with: {value: 1.0}}
outputs: {out: zero}
"""


@pytest.mark.parametrize("times", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_no_edit_of_two_processes_is_lost(tmp_path: Path, times: int) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(TEXT)
    command = [sys.executable, str(ROOT / "tests" / "edit" / "counting_editor.py"), str(file), str(times)]
    processes = [subprocess.Popen(command, env=environment(), cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert f"default: {2 * times}}}" in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["w.yaml"]


def test_an_edit_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(TEXT)
    monkeypatch.setattr(edit, "LOCK_SECONDS", 0.0)
    editor = WorkflowEditor(file, registry=toys.REGISTRY)
    with (
        hold_lock(tmp_path / ".w.yaml.lock", file, "a program that hangs"),
        pytest.raises(WorkflowError, match=r"folder-busy: a program that hangs \(process"),
    ):
        editor.apply(set_value, "params.n.default", 5)
    assert file.read_text() == TEXT


def test_an_edit_of_two_files_whose_long_names_begin_alike_does_not_wait_for_itself(tmp_path: Path) -> None:
    paths = [tmp_path / f"{'a' * 70}{i}.yaml" for i in (1, 2)]
    with ExitStack() as stack:
        for path in paths:
            path.write_text(TEXT)
            stack.enter_context(edit._lock_file(path))
