"""Sub-workflows give the same results as their nodes written inline."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph import NodeError
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
