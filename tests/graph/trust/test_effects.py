"""Effects: the files that a workflow reads and writes, listed before the run."""

from __future__ import annotations

from pathlib import Path

from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.effects import list_effects
from tests.graph.toys import REGISTRY
from tests.must_end import must_end
from tests.work_counter import growth


def build_text(folder: Path, text: str) -> Graph:
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    return build(path, REGISTRY)


def build_chain(folder: Path, length: int) -> Graph:
    """A chain of choices that feeds a path: both branches of each are the choice before it."""
    branch, lines = "params.file", ["params: {file: {type: path, default: a.txt}, first: true}", "nodes:"]
    for i in range(length):
        lines.append(f"  c{i}: {{choose: {{when: params.first, of: {{true: {branch}, false: {branch}}}}}}}")
        branch = f"c{i}"
    lines += [f"  read: {{use: toy.read, in: {{path: {branch}}}}}", "outputs: {text: read}", ""]
    return build_text(folder, "\n".join(lines))


def test_the_branches_of_nested_choices_are_followed_once(tmp_path: Path) -> None:
    graphs = {length: build_chain(tmp_path, length) for length in (8, 16)}
    assert growth(lambda length: list_effects(graphs[length].ops, {"file": tmp_path / "a.txt"}), 8) < 3
    with must_end(60):
        long = build_chain(tmp_path, 1500)
        (effect,) = list_effects(long.ops, bind(long, {}))
    assert (effect.path, effect.param) == (tmp_path / "a.txt", "file")


def test_files_are_found_behind_choices_and_the_items_of_loops(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
params: {some: {type: "list[path]", default: [a.txt]}, others: {type: "list[path]", default: [b.txt]}, first: true}
nodes:
  files: {choose: {when: params.first, of: {true: params.some, false: params.others}}}
  all:
    loop: {over: files, as: file}
    body: {text: {use: toy.read, in: {path: loop.file}}}
    collect: {texts: text}
outputs: {texts: all.texts}
""",
    )
    found = [(effect.path, effect.param) for effect in list_effects(graph.ops, bind(graph, {}))]
    assert found == [(tmp_path / "a.txt", "some"), (tmp_path / "b.txt", "others")]
