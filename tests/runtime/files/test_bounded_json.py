"""JSON from elsewhere is read within limits, from regular files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guidegraph_runtime.files import regular_files
from guidegraph_runtime.files.regular_files import parse_json, read_json
from guidegraph_runtime.run_json import read_record


def test_json_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xa4", null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, "ä", None]}
    assert parse_json("[1, 2]") == parse_json(b"[1, 2]") == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" + "[]," * 1_000_000 + "[]]", "expected JSON with at most 1,000,000 values, found about 2,000,002"),
        ("[" * 100_000 + "]" * 100_000, "lists or objects in each other that are too deep"),
        ('{"a": 1', "Expecting"),
        ("9" * 10_000, "integer string conversion"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_json_that_is_none_or_would_take_much_memory_is_refused(text: str, message: str, as_bytes: bool) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text.encode() if as_bytes else text)


def test_large_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (5 << 30, 100 << 20):
        with (tmp_path / "hole.json").open("wb") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match=r"has 5.37 GB|expected JSON of at most 67.2 MB, found 105 MB"):
            read_json(tmp_path / "hole.json")
        assert read_record(tmp_path / "hole.json") is None
    monkeypatch.setattr(regular_files, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="at most 10 bytes"):
        parse_json('{"a": "0123456789"}')


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_a_pipe_and_a_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="expected a regular file"):
            read_json(tmp_path / name)
        assert read_record(tmp_path / name) is None
