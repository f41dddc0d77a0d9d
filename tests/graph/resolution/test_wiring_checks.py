"""``needs`` and ``check`` receive the computed value of a port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guidegraph import NodeError, WorkflowError, node
from guidegraph.graph.events import Event, NodeStarted
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.node import NodeDefinitionError, Registry, get_spec
from guidegraph.graph.planning.passes import ALL_PASSES
from guidegraph.graph.resolution.load import build
from tests.graph.engine_nodes import NODES, calls
from tests.graph.running import run_graph


@dataclass(frozen=True)
class Recipe:
    salted: bool


@node("toy.recipe")
def recipe(a: float, *, salted: bool = False) -> Recipe:
    """A computed value that is not a tensor."""
    calls["recipe"] += 1
    return Recipe(salted)


def wiring(recipe: Recipe, wired: frozenset[str]) -> dict[str, str]:
    if recipe.salted and "salt" not in wired:
        return {"salt": "this recipe has salt: wire some"}
    if not recipe.salted and "pepper" in wired:
        return {"pepper": "no pepper without salt"}
    return {}


@node(
    "toy.cook",
    needs=lambda recipe: {"recipe", "x", "pepper"} | ({"salt"} if recipe.salted else set()),
    check=wiring,
)
def cook(recipe: Recipe, x: float, salt: float | None = None, pepper: float | None = None) -> float:
    """x + salt, where the recipe has some."""
    calls["cook"] += 1
    return x + (salt if recipe.salted and salt is not None else 0.0)


@node("toy.add_salt", check=lambda sour, wired: {"lemon": "sour needs one"} if sour and "lemon" not in wired else {})
def add_salt(x: float, lemon: float | None = None, *, sour: bool = False) -> float:
    """x."""
    return x


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    calls.clear()


REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in (*NODES, recipe, cook, add_salt)})


def run_text(text: str, folder: Path, values: dict[str, Any] | None = None, **options: Any) -> RunResult:
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    return run_graph(build(path, REGISTRY), values, **options)


def workflow(salt: str = "salt: salt", salt_reads: str = "carry.x") -> str:
    return f"""
params: {{n: 3, salted: false}}
nodes:
  other: {{use: toy.scale, in: {{a: one}}}}
  one: {{use: toy.number, with: {{value: 1}}}}
  recipe: {{use: toy.recipe, in: {{a: one, salted: params.salted}}}}
  work:
    loop: {{over: params.n, as: t}}
    carry: {{x: other}}
    body:
      salt: {{use: toy.add, in: {{a: {salt_reads}}}}}
      cook:
        use: toy.cook
        in: {{recipe: recipe, x: carry.x, {salt}}}
    next: {{x: cook}}
outputs: {{x: work.x}}
"""


@pytest.mark.parametrize("reads", ["carry.x", "loop.t", "loop.index"])
def test_a_port_not_needed_by_a_computed_value_is_never_computed(tmp_path: Path, reads: str) -> None:
    """Neither in an iteration, nor before the loop for calls that depend on its item alone."""
    text = workflow(salt_reads=reads)
    skipped = run_text(text, tmp_path, {"salted": False, "n": 3})
    assert (calls["cook"], calls["add"]) == (3, 0)
    calls.clear()
    computed = run_text(text, tmp_path, {"salted": False, "n": 3}, passes=ALL_PASSES - {"skip"})
    assert (calls["cook"], calls["add"]) == (3, 3)
    assert skipped.outputs == computed.outputs == {"x": 2.0}
    calls.clear()
    salted = run_text(text, tmp_path, {"salted": True, "n": 3})
    assert (calls["cook"], calls["add"]) == (3, 3)
    assert salted.outputs["x"] != 2.0


def test_an_inner_loop_sees_what_its_outer_loop_computes(tmp_path: Path) -> None:
    text = """
params: {n: 2}
nodes:
  one: {use: toy.number, with: {value: 1}}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: one}
    body:
      recipe: {use: toy.recipe, in: {a: carry.x}}
      inner:
        loop: {over: params.n, as: j}
        carry: {y: carry.x}
        body:
          salt: {use: toy.add, in: {a: carry.y}}
          cook: {use: toy.cook, in: {recipe: recipe, x: carry.y, salt: salt}}
        next: {y: cook}
    next: {x: inner.y}
outputs: {x: outer.x}
"""
    assert run_text(text, tmp_path, {"n": 2}).outputs == {"x": 1.0}
    assert (calls["recipe"], calls["cook"], calls["add"]) == (2, 4, 0)


def test_wrong_wiring_is_reported_before_anything_else_is_computed(tmp_path: Path) -> None:
    """Only the nodes that compute the decisive value have run; `other` precedes them in the file."""
    started: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, NodeStarted):
            started.append(event.path)

    with pytest.raises(WorkflowError) as caught:
        run_text(workflow(salt=""), tmp_path, {"salted": True, "n": 3}, observers=[observe])
    (problem,) = caught.value.problems
    assert started == ["nodes.one", "nodes.recipe"]
    assert calls["cook"] == calls["add"] == 0
    assert problem.code == "missing-port"
    assert problem.path == "nodes.work.body.cook"
    assert (problem.mark.line, problem.mark.column) == (13, 7)
    assert "port 'salt': this recipe has salt: wire some" in problem.message


def test_a_refused_port_is_reported_at_its_link(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        run_text(workflow(salt="pepper: one"), tmp_path, {"salted": False, "n": 3})
    (problem,) = caught.value.problems
    assert problem.code == "unfit-port"
    assert "port 'pepper': no pepper without salt" in problem.message
    line = (tmp_path / "workflow.yaml").read_text().splitlines()[problem.mark.line - 1]
    assert line[problem.mark.column - 1 :].startswith("pepper: one")


def test_wiring_is_checked_with_a_value_that_comes_from_a_cache(tmp_path: Path) -> None:
    from guidegraph.graph.execution.cache import MemoryCache

    memory = MemoryCache(1 << 20)
    run_text(workflow(), tmp_path, {"salted": True, "n": 3}, memory=memory)
    calls.clear()
    with pytest.raises(WorkflowError, match="missing-port"):
        run_text(workflow(salt=""), tmp_path, {"salted": True, "n": 3}, memory=memory)
    assert not calls.total()


def test_wrong_wiring_for_a_literal_is_reported_at_load(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text("""guidegraph: 1
nodes:
  one: {use: toy.number, with: {value: 1}}
  x: {use: toy.add_salt, in: {x: one}, with: {sour: true}}
outputs: {x: x}
""")
    with pytest.raises(WorkflowError, match=r"workflow.yaml:4:3: missing-port: toy.add_salt: port 'lemon': sour needs"):
        build(path, REGISTRY)


def test_wrong_wiring_for_a_parameter_is_reported_before_the_run(tmp_path: Path) -> None:
    text = """
params: {sour: false}
nodes:
  one: {use: toy.number, with: {value: 1}}
  x: {use: toy.add_salt, in: {x: one, sour: params.sour}}
outputs: {x: x}
"""
    assert run_text(text, tmp_path, {"sour": False}).outputs == {"x": 1.0}
    calls.clear()
    with pytest.raises(WorkflowError, match="sour needs one"):
        run_text(text, tmp_path, {"sour": True})
    assert not calls.total()


def test_traits_may_only_name_ports_and_settings() -> None:
    with pytest.raises(NodeDefinitionError, match=r"needs= takes an argument 'z', but .* no such setting or port"):
        node("toy.wrong", needs=lambda z: {"x"})(_plain)
    with pytest.raises(NodeDefinitionError, match=r"identity= .* 'x', but .* no such setting; arguments: a$"):
        node("toy.wrong", identity=lambda x: "x")(_plain)
    with pytest.raises(NodeDefinitionError, match="check= takes an argument 'z'"):
        node("toy.wrong", check=lambda z, wired: {})(_plain)


def test_a_check_that_names_an_unknown_port_is_a_node_error(tmp_path: Path) -> None:
    registry = Registry({**REGISTRY.nodes, "toy.wrong": get_spec(node("toy.wrong", check=lambda: {"z": "?"})(_plain))})
    path = tmp_path / "workflow.yaml"
    path.write_text("""guidegraph: 1
nodes:
  one: {use: toy.number, with: {value: 1}}
  x: {use: toy.wrong, in: {x: one}}
outputs: {x: x}
""")
    with pytest.raises(NodeError, match="its 'check' names ports that it does not have: z; ports: x"):
        build(path, registry)


def _plain(x: float, *, a: float = 1.0) -> float:
    return x
