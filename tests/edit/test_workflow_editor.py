"""``WorkflowEditor``: edits of files are checked, written with care, and undone byte for byte."""

from __future__ import annotations

import errno
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


def test_extracted_nodes_compute_the_same_and_are_inlined_again(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)
    expected = run(editor.path)
    editor.extract(["nodes.sum.body.more", "nodes.sum.body.total"], "both", "blocks/step.yaml")
    block = (tmp_path / "blocks" / "step.yaml").read_text()
    assert block.splitlines() == [
        "guidegraph: 1",
        "params:",
        "  x: {type: float}",
        "  by: {type: float}",
        "  i: {type: int}",
        "nodes:",
        "  # The step.",
        "  more: {use: toy.add, in: {a: params.x, b: params.by}}",
        "  total: {use: toy.add, in: {a: more, b: params.i}}",
        "outputs: {total: total}",
    ]
    assert (
        "      both: {use: ./blocks/step.yaml, in: {x: carry.x, by: params.by, i: loop.i}}\n" in editor.path.read_text()
    )
    assert "    next: {x: both.total}\n" in editor.path.read_text()
    assert run(editor.path) == expected
    editor.inline("nodes.sum.body.both")
    assert editor.path.read_text() == TEXT
    editor.undo()
    editor.undo()
    assert editor.path.read_text() == TEXT
    assert not (tmp_path / "blocks").exists()


def test_the_folder_of_an_undone_extraction_stays_if_it_has_other_files(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)
    editor.extract(["nodes.sum"], "sum2", "blocks/inner/sum.yaml")
    (tmp_path / "blocks" / "notes.txt").write_text("mine")
    editor.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["blocks", "notes.txt", "w.yaml"]


def test_an_extraction_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = make_editor(tmp_path)

    def replace(source: Any, target: Path) -> None:
        if target == editor.path:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no space is left"):
        editor.extract(["nodes.sum"], "sum2", "blocks/sum.yaml")
    assert [path.name for path in tmp_path.rglob("*")] == ["w.yaml"]
    assert editor.path.read_text() == TEXT
    assert editor.changes == []


def test_the_only_node_of_a_loop_is_extracted_with_its_comment(tmp_path: Path) -> None:
    text = TEXT.replace("      total: {use: toy.add, in: {a: more, b: loop.i}}\n", "").replace("x: total", "x: more")
    editor = make_editor(tmp_path, text)
    editor.extract(["nodes.sum.body.more"], "step", "step.yaml")
    assert "nodes:\n  # The step.\n  more: " in (tmp_path / "step.yaml").read_text()
    assert "    body:\n      step: {use: ./step.yaml, " in editor.path.read_text()
    editor.inline("nodes.sum.body.step")
    assert editor.path.read_text() == text


def test_a_loop_is_extracted_with_its_body(tmp_path: Path) -> None:
    editor = make_editor(tmp_path)
    expected = run(editor.path)
    editor.extract(["nodes.sum", "nodes.zero"], "added", tmp_path / "added.yaml")
    assert run(editor.path) == expected
    assert "added: {use: ./added.yaml, in: {n: params.n, by: params.by}}" in editor.path.read_text()
    assert "outputs: {x: sum.x, zero: zero}" in (tmp_path / "added.yaml").read_text()
    editor.inline("nodes.added")
    assert run(editor.path) == expected


def test_inlining_renames_nodes_and_moves_literals(tmp_path: Path) -> None:
    block = """\
guidegraph: 1
params: {a: {type: float}, b: 4.0, n: 2}
nodes:
  zero: {use: toy.add, in: {a: params.a, b: params.b}}
  sum:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body: {more: {use: toy.add, in: {a: carry.x, b: params.b}}}
    next: {x: more}
outputs: {last: sum.x, first: zero}
"""
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "b.yaml").write_text(block)
    text = """\
guidegraph: 1
params: {n: 1}
nodes:
  zero: {use: toy.number, with: {value: 1.0}}
  used: {use: ./blocks/b.yaml, in: {a: zero}, with: {b: 3.0}}   # a block
  out: {use: toy.add, in: {a: used.last, b: used.first}}
outputs: {out: out}
"""
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.inline("nodes.used")
    assert run(editor.path) == expected == (1 + 3 + 3 + 3) + (1 + 3)
    lines = editor.path.read_text().splitlines()
    assert "params: {n: 1, used_n: 2}" in lines
    assert "  used_zero: {use: toy.add, in: {a: zero}, with: {b: 3.0}}" in lines
    assert "    loop: {over: params.used_n, as: i}" in lines
    assert "  out: {use: toy.add, in: {a: sum.x, b: used_zero}}" in lines
    editor.undo()
    assert editor.path.read_text() == text


def test_inlined_nodes_keep_their_order_whatever_their_names(tmp_path: Path) -> None:
    nodes = "  one: {use: toy.number}\n  used: {use: toy.number}\n  used_: {use: toy.add, in: {a: one, b: used}}\n"
    (tmp_path / "u.yaml").write_text(f"guidegraph: 1\nnodes:\n{nodes}outputs: {{out: used_}}\n")
    editor = make_editor(tmp_path, "guidegraph: 1\nnodes:\n  used: {use: ./u.yaml}\noutputs: {out: used}\n")
    editor.inline("nodes.used")
    assert editor.path.read_text() == f"guidegraph: 1\nnodes:\n{nodes}outputs: {{out: used_}}\n"


def test_inlining_tells_parameters_of_one_name_apart(tmp_path: Path) -> None:
    (tmp_path / "u.yaml").write_text(
        """\
guidegraph: 1
params: {a: {type: float}, b: {type: float}, c: 5.0}
nodes:
  first: {use: toy.add, in: {a: params.a, b: params.a}}
  second: {use: toy.add, in: {a: first, b: params.b}}
  third: {use: toy.add, in: {a: second, b: params.c}}
outputs: {out: third}
"""
    )
    text = """\
guidegraph: 1
params: {a: 1.0, b: 10.0, c: 100.0}
nodes:
  swapped: {use: ./u.yaml, in: {a: params.b, b: params.a}}
  out: {use: ./u.yaml, in: {a: swapped, b: params.c}, with: {c: 7.0}}
outputs: {out: out}
"""
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.inline("nodes.out")
    editor.inline("nodes.swapped")
    assert run(editor.path) == expected == 2 * (20 + 1 + 5) + 100 + 7


def test_relative_paths_follow_the_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("12")
    text = """\
guidegraph: 1
nodes:
  read: {use: toy.read, with: {path: data/a.txt}}
outputs: {out: read}
"""
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.extract(["nodes.read"], "reading", "deep/er/r.yaml")
    assert "path: ../../data/a.txt" in (tmp_path / "deep" / "er" / "r.yaml").read_text()
    assert run(editor.path) == expected
    editor.inline("nodes.reading")
    assert "path: ./data/a.txt" in editor.path.read_text()
    assert run(editor.path) == expected


@pytest.mark.parametrize("kind", ["Path", "str"])
def test_relative_paths_follow_the_file_also_in_nodes_that_use_workflows(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.txt").write_text("12")
    block = "guidegraph: 1\nparams: {file: {type: Path}}\nnodes:\n  r: {use: toy.read, in: {path: params.file}}\n"
    (tmp_path / "block.yaml").write_text(block.replace("Path", kind) + "outputs: {out: r}\n")
    text = "guidegraph: 1\nnodes:\n  read: {use: ./block.yaml, with: {file: a.txt}}\noutputs: {out: read}\n"
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.extract(["nodes.read"], "reading", "deep/r.yaml")
    assert "{use: ../block.yaml, with: {file: ../a.txt}}" in (tmp_path / "deep" / "r.yaml").read_text()
    assert run(editor.path) == expected


def test_a_setting_that_reaches_a_path_behind_a_choice_follows_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12")
    choice = "{choose: {when: params.first, of: {true: params.file, false: params.file}}}"
    block = (
        f"params: {{file: {{type: Any}}, first: true}}\nnodes: {{c: {choice}, r: {{use: toy.read, in: {{path: c}}}}}}\n"
    )
    (tmp_path / "block.yaml").write_text(f"guidegraph: 1\n{block}outputs: {{out: r}}\n")
    text = "guidegraph: 1\nnodes:\n  read: {use: ./block.yaml, with: {file: a.txt}}\noutputs: {out: read}\n"
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.extract(["nodes.read"], "reading", "deep/r.yaml")
    assert "{use: ../block.yaml, with: {file: ../a.txt}}" in (tmp_path / "deep" / "r.yaml").read_text()
    assert run(editor.path) == expected


def test_a_default_that_reaches_a_path_through_a_used_workflow_follows_the_file(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "a.txt").write_text("12")
    inner = "guidegraph: 1\nparams: {p: {type: str}}\nnodes: {r: {use: toy.read, in: {path: params.p}}}\n"
    (tmp_path / "blocks" / "inner.yaml").write_text(f"{inner}outputs: {{out: r}}\n")
    outer = "guidegraph: 1\nparams: {f: a.txt}\nnodes: {i: {use: ./inner.yaml, in: {p: params.f}}}\n"
    (tmp_path / "blocks" / "outer.yaml").write_text(f"{outer}outputs: {{out: i}}\n")
    text = "guidegraph: 1\nnodes:\n  used: {use: ./blocks/outer.yaml}\noutputs: {out: used}\n"
    editor = make_editor(tmp_path, text)
    expected = run(editor.path)
    editor.inline("nodes.used")
    assert "{use: ./blocks/inner.yaml, with: {p: " in editor.path.read_text()
    assert run(editor.path) == expected


@pytest.mark.parametrize(
    ("paths", "file", "message"),
    [
        (["nodes.zero", "nodes.sum.body.more"], "b.yaml", "bad-move: expected nodes of one block"),
        (["nodes.nobody"], "b.yaml", "unknown-path"),
        ([], "b.yaml", "unknown-path: expected the paths of one node or more"),
        (["nodes.zero"], "w.yaml", "file-changed: the file already exists"),
        (["nodes.zero"], "../b.yaml", "forbidden-write: expected a file below"),
        (["nodes.zero"], "b.txt", "expected the name of a workflow's file"),
        (["nodes.zero"], "b\0.yaml", "expected the name of a workflow's file"),
        (["nodes.zero"], "w.yaml/b.yaml", "forbidden-write: expected a folder '.*w.yaml', found a file"),
        (["nodes.zero", "nodes.twice"], "b.yaml", "cycle"),
    ],
)
def test_an_extraction_that_cannot_be_is_refused(tmp_path: Path, paths: list[str], file: str, message: str) -> None:
    (tmp_path / "inner").mkdir()
    editor = make_editor(tmp_path / "inner")
    with pytest.raises(WorkflowError, match=message):
        editor.extract(paths, "new", file)
    assert editor.path.read_text() == TEXT
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "w.yaml"]


def test_a_node_that_uses_no_workflow_is_not_inlined(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="bad-value: expected a node that uses a workflow"):
        make_editor(tmp_path).inline("nodes.zero")
