"""Folders that were created and left empty are removed, and no others."""

from __future__ import annotations

from pathlib import Path

from guidegraph_runtime.files.run_folders import list_missing_folders, remove_empty_folders


def test_new_folders_are_removed_while_they_are_empty(tmp_path: Path) -> None:
    inner = tmp_path / "kept" / "outer" / "inner"
    (tmp_path / "kept").mkdir()
    missing = list_missing_folders(inner)
    assert missing == [inner, inner.parent]
    inner.mkdir(parents=True)
    remove_empty_folders(missing)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_with_a_file_stays_and_so_do_its_parents(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    missing = list_missing_folders(inner)
    inner.mkdir(parents=True)
    (inner.parent / "file").touch()
    remove_empty_folders(missing)
    assert [path.name for path in inner.parent.iterdir()] == ["file"]
