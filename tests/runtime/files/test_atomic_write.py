"""Written files are complete or missing, never partial."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from guidegraph_runtime.files.atomic_write import atomic_files, atomic_folder, atomic_path, write_bytes, write_text
from guidegraph_runtime.machine.shortages import WriteError


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_file_appears_only_at_the_end(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        assert not (tmp_path / "a.json").exists()
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "{}"


def write_half_a_file(path: Path, failure: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(failure):
        write_half_a_file(tmp_path / "a.txt", failure)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"
    assert names(tmp_path) == ["a"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"\0\r\n")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\0\r\n"


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(str(tmp_path / "a.txt"), "σ\nα\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "σ\nα\r\n".encode()


def test_writers_that_go_by_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert names(tmp_path) == ["a.npz"]


def test_long_names_fit(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 251 + ".txt"), "")
    assert len(names(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_equal_those_of_a_plain_write(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


Steps = list[tuple[str, str]]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The order in which files and folders are flushed, by the start of their names, and renamed."""
    order: Steps = []
    rename, fsync = os.replace, os.fsync

    def flush(descriptor: int) -> None:
        order.append(("flush", Path(f"/proc/self/fd/{descriptor}").resolve().name.split("-")[0]))
        fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        order.append(("rename", Path(target).name.split("-")[0]))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    return order


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the names of open files are read in /proc")


@LINUX
def test_only_durable_files_wait_for_the_disk(tmp_path: Path, steps: Steps) -> None:
    write_text(tmp_path / "in" / "a.txt", "soon written anew", durable=False)
    assert (tmp_path / "in" / "a.txt").read_text() == "soon written anew"
    assert steps == [("rename", "a.txt")]
    steps.clear()
    write_text(tmp_path / "in" / "a.txt", "to stay")
    assert steps == [("flush", ".a"), ("rename", "a.txt"), ("flush", "in")]


@LINUX
def test_all_files_of_a_folder_are_on_the_disk_before_it_has_its_name(tmp_path: Path, steps: Steps) -> None:
    with atomic_folder(tmp_path / "in" / "cell") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        (folder / "elsewhere").symlink_to(tmp_path / "nothing")
    renamed = steps.index(("rename", "cell"))
    assert sorted(steps[:renamed]) == [("flush", ".cell"), ("flush", "a.txt"), ("flush", "sub")]
    assert steps[renamed + 1 :] == [("flush", "in")]


@LINUX
def test_all_of_several_files_are_on_the_disk_before_the_first_is_moved(tmp_path: Path, steps: Steps) -> None:
    with atomic_files(tmp_path / "in" / "a.onnx") as folder:
        for name in ("a.onnx", "b.json"):
            (folder / name).write_text("")
    assert sorted(steps[:3]) == [("flush", ".a"), ("flush", "a.onnx"), ("flush", "b.json")]
    assert steps[3:] == [("rename", "b.json"), ("rename", "a.onnx"), ("flush", "in")]


def test_files_are_moved_together_and_replace_those_of_their_names(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "old")
    with atomic_files(tmp_path / "a.onnx") as folder:
        (folder / "a.onnx").write_text("graph")
        (folder / "a.json").write_text("new")
        assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == ["a.json", "a.onnx"]
    assert (tmp_path / "a.json").read_text() == "new"


def write_half_of_the_files(path: Path) -> None:
    with atomic_files(path) as folder:
        (folder / "a.json").write_text("half")
        raise OSError(errno.ENOSPC, "full")


def test_a_failure_moves_no_file(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"a\.onnx' cannot be written"):
        write_half_of_the_files(tmp_path / "a.onnx")
    assert names(tmp_path) == []


def make_folder(path: Path, text: str, failure: type[BaseException] | None = None) -> None:
    with atomic_folder(path) as folder:
        (folder / "a.txt").write_text(text)
        if failure is not None:
            raise failure


def test_a_folder_takes_the_place_of_another_one(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "run", "first")
    (tmp_path / "new" / "run" / "b.txt").write_text("gone")
    make_folder(tmp_path / "new" / "run", "second")
    assert names(tmp_path / "new") == ["run"]
    assert names(tmp_path / "new" / "run") == ["a.txt"]
    assert (tmp_path / "new" / "run" / "a.txt").read_text() == "second"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_folder(tmp_path: Path, failure: type[BaseException]) -> None:
    make_folder(tmp_path / "run", "first")
    with pytest.raises(failure):
        make_folder(tmp_path / "run", "second", failure)
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "a.txt").read_text() == "first"


def test_the_old_folder_comes_back_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "run", "first")
    replace = os.replace

    def fail_for_the_new(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError("refused")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new)
    with pytest.raises(OSError, match="refused"):
        make_folder(tmp_path / "run", "second")
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "a.txt").read_text() == "first"
