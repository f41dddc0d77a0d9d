"""Temporary files of killed processes are removed at the next start, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guidegraph_runtime.files.atomic_write import (
    STALE_SECONDS,
    machine_id,
    remove_stale,
    stale_paths,
    temporary_path,
    write_text,
)

DEAD = 4_194_999
"""A process id that never exists: Linux uses none above 2**22."""


def make_stale_file(path: Path, pid: int = DEAD, machine: str | None = None) -> Path:
    """A temporary file as another process names it."""
    name = (
        temporary_path(path).name.replace(f"-{os.getpid()}-", f"-{pid}-").replace(machine_id(), machine or machine_id())
    )
    left = path.with_name(name)
    left.write_text("half")
    return left


def test_only_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    stale = [
        make_stale_file(tmp_path / "image.png"),
        make_stale_file(tmp_path / "run"),
        make_stale_file(tmp_path / ("n" * 250)),
    ]
    folder = temporary_path(tmp_path / "bundle").with_name(make_stale_file(tmp_path / "bundle").name)
    folder.unlink()
    (folder / "inside").mkdir(parents=True)
    kept = [make_stale_file(tmp_path / "image.png", os.getpid()), make_stale_file(tmp_path / "a.png", 1)]
    persons = [".image-4194999.tmp", "image.tmp", ".a-4194999-0123456789ab.tmp", stale[0].name[1:], f"{stale[0].name}~"]
    for name in persons:
        (tmp_path / name).write_text("mine")
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in kept), *persons])


def test_files_of_another_machine_are_removed_after_a_day(tmp_path: Path) -> None:
    fresh, stale = (make_stale_file(tmp_path / name, machine="0" * 8) for name in ("fresh.png", "old.png"))
    changed = fresh.stat().st_mtime
    os.utime(stale, (changed, changed - STALE_SECONDS - 10))
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]


def test_a_replaced_version_is_not_a_temporary_file(tmp_path: Path) -> None:
    previous = temporary_path(tmp_path / "bundle", "old")
    previous = previous.with_name(previous.name.replace(f"-{os.getpid()}-", f"-{DEAD}-"))
    previous.mkdir()
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [previous]
    assert list(stale_paths(tmp_path, "old", "bundle")) == [previous]
    assert list(stale_paths(tmp_path, "old", "bundl")) == []


def test_the_first_write_into_a_folder_removes_stale_files(tmp_path: Path) -> None:
    make_stale_file(tmp_path / "a.txt")
    write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_cannot_be_removed_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = make_stale_file(tmp_path / "a.txt")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_stale(tmp_path)
    remove_stale(tmp_path / "not there")
    assert left.exists()
