"""``run.json`` is written at the start and at the end of a run, however it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guidegraph_runtime.run_json import (
    RECORD,
    RunJson,
    describe_killed_run,
    describe_older_files,
    summarise_files,
    with_machine,
)


@dataclass
class Example(RunJson):
    name: str

    def content(self) -> dict[str, Any]:
        return {"name": self.name, "started": self.started, "seconds": self.seconds()}


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def test_a_run_is_running_and_then_done(tmp_path: Path) -> None:
    with Example("a").keep(tmp_path):
        assert (read(tmp_path)["status"], read(tmp_path)["error"]) == ("running", None)
        assert describe_killed_run(tmp_path).startswith(
            f"note: the last run into '{tmp_path}', started {read(tmp_path)['started']}"
        )
    assert list(read(tmp_path)) == ["format", "status", "error", "name", "started", "seconds"]
    assert read(tmp_path)["status"] == "done"
    assert describe_killed_run(tmp_path) == ""


@pytest.mark.parametrize(("error", "status"), [(ValueError("bad"), "failed"), (KeyboardInterrupt(), "cancelled")])
def test_an_error_is_recorded_and_raised(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), Example("a").keep(tmp_path):
        raise error
    assert (read(tmp_path)["status"], read(tmp_path)["error"]) == (status, str(error) or "KeyboardInterrupt")


def fail_without_a_place_for_the_record(folder: Path) -> None:
    with Example("a").keep(folder):
        (folder / RECORD).unlink()
        (folder / RECORD).mkdir()
        raise ValueError("bad")


def test_the_error_of_the_run_is_reported_though_the_record_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"):
        fail_without_a_place_for_the_record(tmp_path)


@pytest.mark.parametrize(
    ("earlier", "note"),
    [
        (["image-0000.png", "image-0001.png", "image-0002.png", "gone.png"], "image-0001.png … image-0002.png in"),
        (["image-0000.png", "image-0002.png"], "image-0002.png in"),
        (["image-0000.png"], ""),
    ],
)
def test_files_of_an_earlier_run_that_remain_are_named(tmp_path: Path, earlier: list[str], note: str) -> None:
    for name in ("image-0000.png", "image-0001.png", "image-0002.png"):
        (tmp_path / name).touch()
    record = {"outputs": {"image": {"type": "Image", "files": earlier}}}
    text = describe_older_files(tmp_path, record, {"image": ["image-0000.png"]})
    assert text.startswith(f"note: {note}") if note else text == ""


@pytest.mark.parametrize("record", [None, {}, {"outputs": 3}, {"outputs": {"a": 1, "b": {"files": "x", "type": 2}}}])
def test_a_record_of_another_form_names_no_files(tmp_path: Path, record: dict[str, Any] | None) -> None:
    assert describe_older_files(tmp_path, record, {}) == ""


def test_versions_end_with_those_of_the_machine() -> None:
    assert list(with_machine({"numpy": "2.0"})) == ["numpy", "python", "platform", "machine"]


def test_one_line_names_the_files(tmp_path: Path) -> None:
    assert summarise_files(tmp_path, {"image": ["image.png"]}) == f"wrote {tmp_path / 'image.png'}"
    several = {"image": ["image-0000.png", "image-0001.png", "image-0002.png"], "table": ["table.json", "table.md"]}
    assert summarise_files(tmp_path, several) == (
        f"wrote image-0000.png … image-0002.png, table.json … table.md in {tmp_path}"
    )
    assert summarise_files(tmp_path, several, listed={"table": ""}) == (
        f"wrote image-0000.png … image-0002.png, table.json, table.md in {tmp_path}"
    )
