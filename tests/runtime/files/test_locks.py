"""Only one process at a time writes into a folder, and the lock leaves no files behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guidegraph_runtime.files import locks
from guidegraph_runtime.files.locks import FOLDER_LOCK, FolderBusy, hold_lock
from guidegraph_runtime.machine.shortages import WriteError
from tests.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from guidegraph_runtime.files.locks import FOLDER_LOCK, hold_lock
folder = Path(sys.argv[1])
with hold_lock(folder / FOLDER_LOCK, folder, "a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> Any:
    return hold_lock(folder / FOLDER_LOCK, folder, "a test")


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(FolderBusy) as busy, hold(tmp_path):
        pass
    message = str(busy.value)
    assert f"a test (process {os.getpid()} on " in message
    assert f"writes to '{tmp_path}' now: wait until it ends, or choose another folder" in message


def test_a_lock_creates_missing_folders_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with hold(folder):
        assert [path.name for path in folder.iterdir()] == [FOLDER_LOCK]
    assert list(tmp_path.iterdir()) == []
    with hold(folder):
        (folder / "file").write_text("")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderBusy, match=f"process {holder.pid} on "), hold(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
    assert (tmp_path / FOLDER_LOCK).exists()
    with hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_removed_in_between_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the file just before its holder removed it must not hold a file that the next does not see."""
    lock, calls = locks._lock, 0

    def remove_first(descriptor: int, file: Path, place: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            file.unlink()
        lock(descriptor, file, place)

    monkeypatch.setattr(locks, "_lock", remove_first)
    with hold(tmp_path):
        assert (tmp_path / FOLDER_LOCK).exists()
        with pytest.raises(FolderBusy), hold(tmp_path):
            pass


def test_a_foreign_lock_file_is_described_as_far_as_possible(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / FOLDER_LOCK).write_text('{"pid": "\x1b[31m"}')
        with pytest.raises(FolderBusy, match="another process writes to"), hold(tmp_path):
            pass


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nobody_may_write_there_is_nothing_to_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_to_open(monkeypatch, number)
    with hold(tmp_path), hold(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_who_must_write_is_told_at_the_lock_where_nobody_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_to_open(monkeypatch, number)
    file = tmp_path / "new" / FOLDER_LOCK
    with pytest.raises(WriteError, match="write to another folder"), hold_lock(file, tmp_path, "", must_write=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_at_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_open(monkeypatch, errno.ENOSPC)
    with pytest.raises(WriteError, match="no space is left"), hold(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def fail_to_lock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail_to_lock)
    with pytest.warns(UserWarning, match="has no locks"), hold(tmp_path):
        pass
