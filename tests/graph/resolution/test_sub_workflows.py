"""Sub-workflows give the same results as their nodes written inline."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph import NodeError, WorkflowError
from guidegraph.graph.planning.passes import ALL_PASSES
from tests.graph.engine_nodes import run_text

BLOCK = """guidegraph: 1
params: {a: {type: float}, by: 3.0, n: 2}
nodes:
  first: {use: toy.scale, in: {a: params.a, by: params.by}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: first}
    body: {up: {use: toy.add, in: {a: carry.x, b: params.by}}}
    next: {x: up}
outputs: {out: work.x, first: first, by: params.by, a: params.a}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "block.yaml").write_text(BLOCK)
    return tmp_path


@pytest.mark.parametrize("passes", [ALL_PASSES, frozenset()])
def test_links_literals_and_defaults_are_passed_to_a_sub_workflow(folder: Path, passes: frozenset[str]) -> None:
    text = """
params: {k: 4}
nodes:
  one: {use: toy.number, with: {value: 1}}
  plain: {use: ./block.yaml, in: {a: one}}
  partial: {use: ./block.yaml, in: {a: one, n: params.k}, with: {by: 10}}
  chained: {use: ./block.yaml, in: {a: plain.out, by: partial.by}}
outputs: {plain: plain.out, partial: partial.out, chained: chained.out, by: partial.by, a: chained.a}
"""
    outputs = run_text(text, folder, {"k": 4}, passes=passes).outputs
    assert outputs == {"plain": 9.0, "partial": 50.0, "chained": 110.0, "by": 10.0, "a": 9.0}


@pytest.mark.parametrize("passes", [ALL_PASSES, frozenset()])
def test_a_sub_workflow_in_the_loop_of_a_sub_workflow(folder: Path, passes: frozenset[str]) -> None:
    (folder / "outer.yaml").write_text(
        """guidegraph: 1
params: {start: {type: float}}
nodes:
  work:
    loop: {over: params.times, as: i}
    carry: {x: params.start}
    body: {b: {use: block.yaml, in: {a: carry.x, n: loop.index}, with: {by: 1}}}
    next: {x: b.out}
    collect: {seen: b.first}
outputs: {x: work.x, seen: work.seen}
""".replace("params: {start", "params: {times: 3, start")
    )
    text = """
nodes:
  two: {use: toy.number, with: {value: 2}}
  outer: {use: outer.yaml, in: {start: two}}
outputs: {x: outer.x, seen: outer.seen}
"""
    assert run_text(text, folder, passes=passes).outputs == {"x": 5.0, "seen": [2.0, 2.0, 3.0]}


def test_an_error_inside_names_both_positions(folder: Path) -> None:
    (folder / "bad.yaml").write_text("""guidegraph: 1
params: {a: 1.0}
nodes:
  boom: {use: toy.boom, in: {a: params.a}}
outputs: {out: boom}
""")
    with pytest.raises(NodeError) as caught:
        run_text("nodes: {bad: {use: ./bad.yaml, with: {a: 7}}}\noutputs: {out: bad}\n", folder)
    assert caught.value.path == "nodes.bad/boom"
    assert Path(caught.value.mark.file).name == "bad.yaml"
    assert caught.value.mark.line == 4


REPEAT = """guidegraph: 1
params: {n: {type: Any}}
nodes:
  zero: {use: toy.number}
  work:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body: {more: {use: toy.add, in: {a: carry.x}}}
    next: {x: more}
outputs: {x: work.x}
"""


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        ("-3", "expected 0 or more iterations; found -3"),
        ("text", "expected a sequence, a tensor or a number of iterations; found str 'text'"),
        ("2.5", "expected a sequence, a tensor or a number of iterations; found float 2.5"),
        ("true", "expected a sequence, a tensor or a number of iterations; found bool True"),
        ("{a: 1}", "expected a sequence, a tensor or a number of iterations; found dict {'a': 1}"),
        ("null", "expected a sequence, a tensor or a number of iterations; found NoneType None"),
    ],
)
def test_a_literal_that_a_loop_inside_cannot_run_over_is_refused_where_it_stands(
    folder: Path, count: str, reason: str
) -> None:
    (folder / "repeat.yaml").write_text(REPEAT)
    text = f"nodes:\n  again: {{use: repeat.yaml, with: {{n: {count}}}}}\noutputs: {{x: again}}\n"
    with pytest.raises(WorkflowError) as caught:
        run_text(text, folder)
    (problem,) = caught.value.problems
    assert (Path(problem.mark.file).name, problem.mark.line, problem.mark.column) == ("workflow.yaml", 3, 39)
    assert (problem.code, problem.path) == ("bad-value", "nodes.again.with.n")
    assert problem.message.startswith("'params.n' does not fit the loop (nodes.work.loop.over, ")
    assert problem.message.endswith(reason)
    assert run_text(text.replace(count, "2"), folder).outputs == {"x": 2.0}


def test_a_default_that_a_loop_inside_cannot_run_over_is_refused_where_it_stands(folder: Path) -> None:
    (folder / "repeat.yaml").write_text(REPEAT.replace("{type: Any}", "-1"))
    with pytest.raises(WorkflowError) as caught:
        run_text("nodes:\n  again: {use: repeat.yaml}\noutputs: {x: again}\n", folder)
    (problem,) = caught.value.problems
    assert (Path(problem.mark.file).name, problem.mark.line, problem.mark.column) == ("repeat.yaml", 2, 13)
    assert (problem.code, problem.path) == ("bad-value", "params.n.default")


def test_a_literal_of_one_of_several_types_is_a_number_of_iterations(folder: Path) -> None:
    (folder / "repeat.yaml").write_text(REPEAT.replace("{type: Any}", "{type: int | None}"))
    text = "nodes:\n  again: {use: repeat.yaml, with: {n: 2}}\noutputs: {x: again}\n"
    assert run_text(text, folder).outputs == {"x": 2.0}


BY_CHOICE = """
params: {file: {type: Any, default: a.txt}, files: [a.txt], first: true}
nodes:
  either: {choose: {when: params.first, of: {true: params.file, false: params.file}}}
  one: {use: toy.read, in: {path: either}}
  all:
    loop: {over: params.files, as: file}
    body: {text: {use: toy.read, in: {path: loop.file}}}
    collect: {texts: text}
outputs: {one: one, all: all.texts}
"""


def test_files_behind_a_choice_or_a_loop_are_those_beside_the_file_that_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, elsewhere = folder / "inner", folder / "elsewhere"
    for place in (inner, elsewhere):
        place.mkdir()
    for place in (folder, inner, elsewhere):
        (place / "a.txt").write_text(place.name)
    (inner / "read.yaml").write_text("guidegraph: 1" + BY_CHOICE)
    monkeypatch.chdir(elsewhere)
    text = "nodes: {r: {use: inner/read.yaml}}\noutputs: {one: r.one, all: r.all}\n"
    assert run_text(text, folder).outputs == {"one": "inner", "all": ["inner"]}
    given = text.replace("{use: inner/read.yaml}", "{use: inner/read.yaml, with: {file: a.txt, files: [a.txt]}}")
    assert run_text(given, folder).outputs == {"one": folder.name, "all": [folder.name]}


def test_a_text_behind_a_choice_that_is_no_path_is_refused_where_it_stands(folder: Path) -> None:
    (folder / "read.yaml").write_text("guidegraph: 1" + BY_CHOICE)
    with pytest.raises(WorkflowError) as caught:
        run_text("nodes: {r: {use: read.yaml, with: {file: 'pkg:none'}}}\noutputs: {one: r.one}\n", folder)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("bad-value", "nodes.r.with.file")
    assert "does not ship with the package" in problem.message


@pytest.mark.parametrize(
    ("use", "hint"),
    [
        ("./blocks/cfg_step.yaml", "it ships with guidegraph: write use: pkg:blocks/cfg_step.yaml"),
        ("cfg_step.yaml", "it ships with guidegraph: write use: pkg:blocks/cfg_step.yaml"),
        ("pkg:blocks/cfg_stp.yaml", "it does not ship with the package; did you mean 'pkg:blocks/cfg_step.yaml'?"),
        ("pkg:zzz.yaml", "it does not ship with the package; workflows that do: blocks/cfg_step.yaml"),
        ("pkg:../blocks/cfg_step.yaml", "it does not ship with the package; did you mean 'pkg:blocks/cfg_step.yaml'?"),
    ],
)
def test_a_missing_block_is_told_which_shipped_one_fits(folder: Path, use: str, hint: str) -> None:
    with pytest.raises(WorkflowError, match="no-file") as raised:
        run_text(f"nodes: {{b: {{use: '{use}', with: {{a: 1}}}}}}\noutputs: {{out: b}}\n", folder)
    assert hint in str(raised.value)
