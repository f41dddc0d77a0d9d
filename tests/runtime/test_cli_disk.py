"""guidegraph-run without space on the disk or in memory, and in a folder that is in use."""

from __future__ import annotations

import errno
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guidegraph_runtime.files.locks import FOLDER_LOCK, hold_lock
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running import compute
from guidegraph_runtime.sessions import sessions
from tests.os_limits import file_limit
from tests.runtime.files.test_temporary_names import make_stale_file
from tests.runtime.test_cli import Run, make
from tests.runtime.test_cli import run as run  # the fixture


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A bundle whose output x is a tensor of four numbers for each of a batch."""
    return make(tmp_path / "tiny")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_output_without_room_is_named(run: Run, tiny: Path) -> None:
    with file_limit(20_000):
        result = run(tiny, "--set", "batch=2000", "--only", "x", "--out", "out")
    assert result.code == 1
    expected = (
        f"{tiny}: output-failed: output 'x' has no file: 'out/x.safetensors' cannot be written: it would be larger"
    )
    assert result.err.startswith(expected)
    assert names(Path("out")) == ["run.json"]


def test_a_record_without_room_is_named(run: Run, tiny: Path) -> None:
    with file_limit(10):
        result = run(tiny, "--out", "out")
    assert result.code == 1
    assert result.err.startswith(
        "out/run.json: os-error: cannot be written: it would be larger than a file may be here"
    )


def test_a_folder_in_use_is_refused(run: Run, tiny: Path) -> None:
    out = Path("out")
    with hold_lock(out / FOLDER_LOCK, out, "guidegraph run"):
        result = run(tiny, "--out", out)
        assert names(out) == [FOLDER_LOCK]
    assert result.code == 2
    assert result.err.startswith(f"--out: folder-busy: guidegraph run (process {os.getpid()} on ")


def test_files_of_a_killed_run_are_removed_and_reported(run: Run, tiny: Path) -> None:
    out = Path("out")
    out.mkdir()
    make_stale_file(out / "x.safetensors")
    (out / FOLDER_LOCK).write_text("")
    (out / "run.json").write_text('{"status": "running", "started": "2026-01-31T12:00:00+01:00"}')
    result = run(tiny, "--out", out, "--only", "x")
    assert result.code == 0
    assert result.err.startswith("note: the last run into 'out', started 2026-01-31T12:00:00+01:00, was killed")
    assert names(out) == ["run.json", "x.safetensors"]


def test_an_operation_without_memory_is_named(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(**_: Any) -> Any:
        raise MemoryError("Unable to allocate 20.1 TiB for an array with shape (3, 30000, 30000)")

    too_large = replace(OPERATIONS["noise.gaussian"], function=noise)
    monkeypatch.setattr(compute, "OPERATIONS", {**OPERATIONS, "noise.gaussian": too_large})
    result = run(tiny, "--out", "out")
    assert result.code == 1
    expected = f"{tiny}: operation-failed: noise (noise.gaussian): there is not enough memory: 22.2 TB were asked for, "
    assert result.err.startswith(expected)


def test_a_part_without_memory_is_named(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = sessions.Session.call_onnxruntime

    def fail(self: sessions.Session, call: Any, *arguments: Any) -> Any:
        def full(*_: Any) -> Any:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 21600000000000")

        return guard(self, full)

    monkeypatch.setattr(sessions.Session, "call_onnxruntime", fail)
    result = run(tiny, "--out", "out", "--provider", "cpu")
    assert result.code == 1
    assert "needs-memory: there is not enough memory: 21.6 TB were asked for, " in result.err


class Full(io.StringIO):
    """Standard output on a full disk."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_failure_to_print_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    result = run(option)
    assert result.code == 1
    assert result.err.startswith("guidegraph-run: os-error: the output cannot be printed: no space is left on the disk")


def test_a_closed_stdout_is_no_error(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(tiny, "--out", "out", "--only", "x").code == 0
    assert names(Path("out")) == ["run.json", "x.safetensors"]
