"""A kind of block is one entry of a list: the engine reads, checks, plans, runs and draws one that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from guidegraph.drawing.diagram import build_diagram
from guidegraph.graph import kinds
from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.execution.run import RunConfig
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.assign import partition_operations
from guidegraph.graph.ir import Graph
from guidegraph.graph.kinds import find_kind, match_kind
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from tests.graph.engine_nodes import REGISTRY
from tests.graph.running import run_graph
from tests.graph.until_kind import UNTIL, Until

HALVE = """
guidegraph: 1
params: {most: 10, factor: 0.5}
nodes:
  start: {use: toy.number, with: {value: 8.0}}
  halve:
    loop: {over: params.most, as: i}
    carry: {x: start}
    body:
      less: {use: toy.scale, in: {a: carry.x, by: params.factor}}
    next: {x: less}
    collect: {all: less}
    until: {value: less, below: 1.5}
  more: {use: toy.add, in: {a: halve.x}}
outputs: {x: halve.x, all: halve.all, more: more}
"""


@pytest.fixture(autouse=True)
def _until(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", [UNTIL, *kinds.KINDS])


def load(folder: Path, text: str = HALVE) -> Graph:
    path = folder / "w.yaml"
    path.write_text(text)
    return build(path, REGISTRY)


def run_halving(folder: Path, values: Mapping[str, Any] | None = None, text: str = HALVE) -> dict[str, Any]:
    graph = load(folder, text)
    return dict(run_graph(graph, bind(graph, values or {})).outputs)


def test_a_kind_that_the_engine_does_not_know_runs_from_yaml_to_its_result(tmp_path: Path) -> None:
    assert run_halving(tmp_path) == {"x": 1.0, "all": [4.0, 2.0, 1.0], "more": 2.0}


@pytest.mark.parametrize(("most", "expected"), [(2, 2.0), (3, 1.0), (4, 1.0)])
def test_it_ends_with_the_items_or_with_its_own_condition(tmp_path: Path, most: int, expected: float) -> None:
    assert run_halving(tmp_path, {"most": most})["x"] == expected


def test_without_its_key_the_same_loop_is_a_plain_one(tmp_path: Path) -> None:
    plain = HALVE.replace("    until: {value: less, below: 1.5}\n", "")
    assert run_halving(tmp_path, {"most": 4}, plain)["x"] == 0.5


def test_its_body_may_hold_a_plain_loop_and_be_in_one(tmp_path: Path) -> None:
    nested = """
guidegraph: 1
nodes:
  start: {use: toy.number, with: {value: 8.0}}
  two: {use: toy.whole, with: {value: 2}}
  outer:
    loop: {over: two, as: i}
    carry: {y: start}
    body:
      inner:
        loop: {over: two, as: j}
        carry: {x: carry.y}
        body:
          twice:
            loop: {over: two, as: k}
            carry: {z: carry.x}
            body: {less: {use: toy.scale, in: {a: carry.z}, with: {by: 0.5}}}
            next: {z: less}
        next: {x: twice.z}
        until: {value: twice.z, below: 2.5}
    next: {y: inner.x}
outputs: {y: outer.y}
"""
    assert run_halving(tmp_path, text=nested)["y"] == 0.5


def test_its_options_are_part_of_its_digest(tmp_path: Path) -> None:
    graphs = [load(tmp_path, HALVE.replace("1.5", below)) for below in ("1.5", "1.25", "1.5")]
    digests = [compile_plan(graph, bind(graph, {}), RunConfig()).digests["halve"] for graph in graphs]
    assert digests[0] == digests[2] != digests[1]


def test_a_wrong_link_in_its_options_is_reported_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(tmp_path, HALVE.replace("value: less,", "value: lss,"))
    (problem,) = caught.value.problems
    assert (problem.mark.line, problem.path) == (13, "nodes.halve.until.value")
    assert "did you mean 'less'" in problem.message


def test_its_keys_are_known_wherever_keys_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="did you mean 'until'"):
        load(tmp_path, HALVE.replace("    until:", "    untill:"))


def test_a_node_that_fails_in_it_is_reported_with_the_iteration(tmp_path: Path) -> None:
    failing = HALVE.replace("toy.scale, in: {a: carry.x, by: params.factor}", "toy.boom, in: {a: carry.x}")
    with pytest.raises(NodeError) as caught:
        run_halving(tmp_path, text=failing)
    assert (caught.value.path, caught.value.iteration) == ("nodes.halve.body.less", "0")


def test_a_kind_that_cannot_be_stopped_says_so(tmp_path: Path) -> None:
    graph = load(tmp_path)
    with pytest.raises(WorkflowError, match="no loop that it could stop in"):
        run_graph(graph, bind(graph, {}), stop_at="halve:2")


def test_a_bundle_refuses_it_with_its_own_reason(tmp_path: Path) -> None:
    graph = load(tmp_path)
    with pytest.raises(ExportError, match=r"nodes\.halve repeats until a value is small, and a bundle cannot"):
        partition_operations(graph.ops, dict.fromkeys(graph.params, True), ["factor"])


def test_it_is_drawn_as_a_loop(tmp_path: Path) -> None:
    graph = load(tmp_path)
    assert isinstance(graph.ops["halve"], Until)
    box = build_diagram(graph).boxes["halve"]
    assert box.panel is not None
    assert [*box.panel.boxes] == ["halve.body.less"]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"choose"}, "choice"),
        ({"loop", "body"}, "loop"),
        ({"carry", "body"}, "loop"),
        ({"loop", "body", "train"}, "training"),
        ({"loop", "body", "steps"}, "training"),
        ({"loop", "body", "until"}, "until"),
        ({"use", "in"}, None),
        ({"use", "until"}, None),
        ({"use", "body"}, None),
    ],
)
def test_the_keys_of_a_node_decide_its_kind(keys: set[str], name: str | None) -> None:
    kind = match_kind(keys)
    assert (kind and kind.name) == name


def test_an_unknown_kind_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(LookupError, match="no kind of block 'map'; known: until, choice, training, loop"):
        find_kind("map")
