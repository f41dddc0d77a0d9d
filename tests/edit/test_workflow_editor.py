"""``WorkflowEditor``: edits of files are checked, written with care, and undone byte for byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from guidegraph import WorkflowError, load_workflow
from guidegraph.edit import (
    Document,
    WorkflowEditor,
    add_node,
    rename_parameter,
    set_value,
)
from tests.graph import toys
from tests.paths import ROOT

TEXT = """\
# Adds.
guidegraph: 1
params: {n: 3, by: 2.0}   # how often
nodes:
  zero: {use: toy.number, with: {value: 1.0}}
  sum:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      # The step.
      more: {use: toy.add, in: {a: carry.x, b: params.by}}
      total: {use: toy.add, in: {a: more, b: loop.i}}
    next: {x: total}
  twice: {use: toy.add, in: {a: sum.x, b: zero}}
outputs: {out: twice}
"""


def make_editor(folder: Path, text: str | bytes = TEXT) -> WorkflowEditor:
    path = folder / "w.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return WorkflowEditor(path, registry=toys.REGISTRY)


def run(path: Path, **params: Any) -> Any:
    return load_workflow(path, registry=toys.REGISTRY).run(**params)["out"]


def test_a_valid_edit_is_written_and_undone(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)
    change = editor.apply(set_value, "nodes.zero.with.value", 5.0)
    assert editor.path.read_text() == TEXT.replace("value: 1.0", "value: 5.0")
    assert change.diff().splitlines()[2:] == [
        "@@ -5 +5 @@",
        "-  zero: {use: toy.number, with: {value: 1.0}}",
        "+  zero: {use: toy.number, with: {value: 5.0}}",
    ]
    editor.apply(rename_parameter, "by", "step")
    assert editor.apply(set_value, "params.n", 3).diff() == ""  # changes nothing, so there is nothing to undo
    assert editor.undo() is not None
    assert editor.undo() is not None
    assert editor.undo() is None
    assert editor.path.read_text() == TEXT


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes.twice.in.b", "nobody", r"w.yaml:14:\d+: unknown-link: no node 'nobody'.*\[nodes.twice.in.b\]"),
        ("nodes.zero.with.value", "x", r"w.yaml:5:\d+: bad-value"),
        ("nodes.twice.use", "toy.ad", r"unknown-node: .*did you mean 'toy.add'"),
        ("nodes.sum.body.more.in.c", "zero", r"unknown-port"),
        ("outputs.out", "sum.more", r"inside-loop"),
        ("params.n.default", -1, r"bad-value"),
    ],
)
def test_an_edit_that_makes_the_workflow_invalid_is_refused(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    editor = make_editor(tmp_path)
    with pytest.raises(WorkflowError, match=message):
        editor.apply(set_value, path, value)
    assert editor.path.read_text() == TEXT
    assert editor.changes == []
    assert [file.name for file in tmp_path.iterdir()] == ["w.yaml"]


def test_edits_are_combined_to_one(tmp_path: Path) -> None:
    def insert(document: Document) -> Document:
        document = add_node(
            document, "half", "toy.add", {"a": "more", "b": "zero"}, block="nodes.sum.body", after="more"
        )
        return set_value(document, "nodes.sum.body.total.in.a", "half")

    editor = make_editor(tmp_path)
    editor.apply(insert)
    assert run(editor.path, n=1) == 1.0 + 2.0 + 1.0 + 0 + 1.0
    editor.undo()
    assert editor.path.read_text() == TEXT


def test_a_file_that_is_invalid_may_be_corrected(tmp_path: Path) -> None:
    editor = make_editor(tmp_path, TEXT.replace("a: sum.x", "a: sm.x"))
    with pytest.raises(WorkflowError, match="unknown-link"):
        editor.apply(set_value, "params.by", 3.0)
    editor.apply(set_value, "nodes.twice.in.a", "sum.x")
    assert editor.path.read_text() == TEXT


@pytest.mark.parametrize(
    "data",
    [
        TEXT.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.rstrip("\n").encode(),
        b"\xef\xbb\xbf" + TEXT.rstrip("\n").replace("\n", "\r\n").encode(),
    ],
    ids=["crlf", "bom", "no-line-end", "all"],
)
def test_line_ends_and_marks_of_the_file_stay(tmp_path: Path, data: bytes) -> None:
    editor = make_editor(tmp_path, data)
    editor.apply(set_value, "params.by", 3.5)
    assert editor.path.read_bytes() == data.replace(b"by: 2.0", b"by: 3.5")
    editor.apply(add_node, "last", "toy.number", settings={"value": 1.0})
    line = b"  last: {use: toy.number, with: {value: 1.0}}"
    break_ = b"\r\n" if b"\r\n" in data else b"\n"
    assert break_ + line + break_ + b"outputs" in editor.path.read_bytes()
    assert len(editor.path.read_bytes().splitlines()) == len(data.splitlines()) + 1
    editor.undo()
    editor.undo()
    assert editor.path.read_bytes() == data


@pytest.mark.skipif(os.name != "posix", reason="modes and links as POSIX has them")
def test_mode_and_link_stay(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    editor = make_editor(tmp_path / "elsewhere")
    editor.path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(editor.path)
    linked = WorkflowEditor(link, registry=toys.REGISTRY)
    linked.apply(set_value, "params.by", 3.5)
    assert link.is_symlink()
    assert editor.path.stat().st_mode & 0o777 == 0o640
    assert "by: 3.5" in editor.path.read_text()
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["w.yaml"]


def test_a_change_elsewhere_is_not_overwritten(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)
    change = editor.preview(set_value, "params.by", 3.5)
    editor.path.write_text(TEXT + "# mine\n")
    with pytest.raises(WorkflowError, match="file-changed: the file has been changed since it was read"):
        editor.save(change)
    editor.apply(set_value, "params.by", 3.5)
    editor.path.write_text(TEXT)
    with pytest.raises(WorkflowError, match="file-changed"):
        editor.undo()
    assert editor.path.read_text() == TEXT
    editor.path.unlink()
    editor.path.mkdir()
    with pytest.raises(WorkflowError, match="no-file: cannot read the file: expected a regular file, found a folder"):
        editor.undo()


def test_a_change_elsewhere_during_the_edit_is_not_overwritten(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)

    def edit_as_another_saves(document: Document) -> Document:
        editor.path.write_text(TEXT + "# mine\n")
        return set_value(document, "params.by", 3.5)

    with pytest.raises(WorkflowError, match="file-changed: the file has been changed since it was read"):
        editor.apply(edit_as_another_saves)
    assert editor.path.read_text() == TEXT + "# mine\n"


def test_files_that_ship_are_not_edited(tmp_path: Path) -> None:
    shipped = ROOT / "workflows" / "text_to_image.yaml"
    before = shipped.read_bytes()
    link = tmp_path / "mine.yaml"
    link.symlink_to(shipped)
    for path in (shipped, link):
        with pytest.raises(WorkflowError, match="forbidden-write: this file ships with guidegraph and is read-only"):
            WorkflowEditor(path, registry=toys.REGISTRY).apply(set_value, "params.scale", 3)
    with pytest.raises(WorkflowError, match="not-editable: expected a file"):
        WorkflowEditor("pkg:text_to_image.yaml", registry=toys.REGISTRY).apply(set_value, "params.scale", 3)
    assert shipped.read_bytes() == before


def test_what_is_no_workflow_file_is_refused(tmp_path: Path) -> None:
    picture = tmp_path / "a.yaml"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"guidegraph: 1 # \xe9")
    broken = tmp_path / "broken.yaml"
    broken.write_text("guidegraph: [")
    messages = {
        picture: "not-editable: a picture's workflow cannot be edited",
        pipe: "expected a regular file",
        latin: "not-text",
        broken: "yaml-syntax",
        tmp_path: "no-file: .*found a folder",
        tmp_path / "absent.yaml": "no-file",
    }
    for path, message in messages.items():
        with pytest.raises(WorkflowError, match=message):
            WorkflowEditor(path, registry=toys.REGISTRY).apply(set_value, "params.scale", 3)
