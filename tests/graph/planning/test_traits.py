"""What the operations of a graph may need from planning, also in bodies of loops; planning leaves out the rest."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from guidegraph.graph.execution.loop_context import Attachments
from guidegraph.graph.execution.run import run_plan
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.workflow import Workflow
from tests.graph.engine_nodes import REGISTRY
from tests.work_counter import count_calls

PLAIN = "a: {use: toy.number}\n  b: {use: toy.add, in: {a: a}}"
LOOP = """a: {{use: toy.number}}
  n: {{use: toy.ones, with: {{rows: 3}}}}
  b:
    loop: {{over: n, as: i}}
    carry: {{x: a}}
    body:
      later: {call}
    next: {{x: later}}"""


CALLS_A_NODE = 90


def make_graph(folder: Path, nodes: str, output: str = "b") -> Graph:
    path = folder / "graph.yaml"
    path.write_text(f"guidegraph: 1\nparams: {{x: 1.0}}\nnodes:\n  {nodes}\noutputs: {{out: {output}}}\n")
    return build(path, REGISTRY)


def list_traits(graph: Graph) -> set[str]:
    return {name for name, value in graph.traits._asdict().items() if value}


@pytest.mark.parametrize(
    ("nodes", "traits"),
    [
        (PLAIN, set()),
        ("a: {use: toy.random}\n  b: {use: toy.add, in: {a: a}}", {"effects"}),
        ("a: {use: toy.number}\n  b: {use: toy.same, in: {a: a}}", {"skips"}),
        ("a: {use: toy.number}\n  b: {use: toy.mix, in: {a: a, b: a}}", {"skips"}),
        ("b: {use: toy.read, with: {path: graph.yaml}}", {"io", "files", "requirements"}),
    ],
)
def test_each_node_of_another_kind_counts(tmp_path: Path, nodes: str, traits: set[str]) -> None:
    assert list_traits(make_graph(tmp_path, nodes)) == traits


def test_nodes_in_the_body_of_a_loop_count(tmp_path: Path) -> None:
    plain = list_traits(make_graph(tmp_path, LOOP.format(call="{use: toy.add, in: {a: carry.x}}"), "b.x"))
    skipping = list_traits(make_graph(tmp_path, LOOP.format(call="{use: toy.same, in: {a: carry.x}}"), "b.x"))
    assert "loops" in plain
    assert skipping - plain == {"skips"}


def test_the_passes_that_nothing_needs_are_still_listed(tmp_path: Path) -> None:
    effects = compile_plan(make_graph(tmp_path, PLAIN), {}).effects
    assert effects == dict.fromkeys(("skip", "hoist", "merge", "prune"), "2 -> 2 operations")


def test_the_work_of_planning_and_running_a_node_does_not_grow_with_the_graph(tmp_path: Path) -> None:
    def plan_and_run(graph: Graph) -> None:
        run_plan(compile_plan(graph, {}), Attachments())

    sizes = (300, 3000)
    graphs = {n: make_graph(tmp_path, make_chain(n), f"n{n - 1}") for n in sizes}
    for graph in graphs.values():  # its calls keep what every plan needs
        plan_and_run(graph)
    small, large = (count_calls(partial(plan_and_run, graphs[n])) / n for n in sizes)
    assert large <= small


def test_binding_a_parameter_visits_only_the_nodes_that_read_it(tmp_path: Path) -> None:
    graphs = [make_graph(tmp_path, make_chain(n, x="params.x"), f"n{n - 1}") for n in (30, 3000)]
    for graph in graphs:  # the graph keeps which nodes read a parameter
        bind(graph, {"x": 1.0})
    small, large = (count_calls(partial(bind, graph, {"x": 2.0})) for graph in graphs)
    assert large == small


def test_a_run_with_another_value_costs_few_calls_a_node(tmp_path: Path) -> None:
    """The whole call, with a cache in memory: binding, planning, digests, the run and what the cache keeps."""
    graph, size = make_graph(tmp_path, make_chain(1000, x="params.x"), "n999"), 1000
    workflow = Workflow(graph)
    for x in (1.0, 2.0):
        workflow.run(x=x)
    assert count_calls(lambda: workflow.run(x=3.0)) / size < CALLS_A_NODE


def make_chain(size: int, x: str | None = None) -> str:
    """A chain of nodes that add to a number. x: what the first adds to, by default a number of a node."""
    first = "n0: {use: toy.number}" if x is None else f"n0: {{use: toy.add, in: {{a: {x}}}}}"
    nodes = [first, *(f"n{i}: {{use: toy.add, in: {{a: n{i - 1}}}}}" for i in range(1, size))]
    return "\n  ".join(nodes)
