"""What a plan keeps for its runs, and what calls keep for later plans."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled
from guidegraph.graph.execution.loop_context import Attachments
from guidegraph.graph.execution.run import run_plan
from guidegraph.graph.ir import Graph
from guidegraph.graph.planning import plan as planning
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.limits import DeadlineToken
from tests.graph.engine_nodes import REGISTRY

TEXT = """
guidegraph: 1
params: {x: {type: float}}
nodes:
  read: {use: toy.scale, in: {a: params.x}}
  start: {use: toy.number, with: {value: 1}}
  sum: {use: toy.add, in: {a: read, b: start}}
outputs: {sum: sum}
"""


def make_graph(folder: Path) -> Graph:
    path = folder / "sum.yaml"
    path.write_text(TEXT)
    return build(path, REGISTRY)


def test_only_calls_that_read_a_parameter_are_made_again(tmp_path: Path) -> None:
    graph = make_graph(tmp_path)
    bound = compile_plan(graph, {"x": 2.0}).bound
    assert [key for key, op in bound.items() if op is not graph.ops[key]] == ["read"]


def test_a_plan_numbers_its_slots_once_and_its_runs_are_equal(tmp_path: Path) -> None:
    plan = compile_plan(make_graph(tmp_path), {"x": 2.0})
    block = plan.flatten_rest(plan.ops)
    first, second = (run_plan(plan, Attachments()).outputs for _ in range(2))
    assert first == second == {"sum": 5.0}
    assert plan.flatten_rest(dict(plan.ops)) is block


def test_steps_of_fewer_operations_are_not_kept(tmp_path: Path) -> None:
    """As if the value of one were in a cache."""
    plan = compile_plan(make_graph(tmp_path), {"x": 2.0})
    last_only = plan.flatten_rest({"sum": plan.ops["sum"]})
    assert (len(last_only.steps), len(last_only.inputs)) == (1, 2)
    assert len(plan.flatten_rest(plan.ops).steps) == 3


def test_the_collector_rests_while_a_plan_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, states = make_graph(tmp_path), []
    optimise = planning.optimise

    def record_collector(*args: Any, **by_name: Any) -> Any:
        states.append(gc.isenabled())
        return optimise(*args, **by_name)

    monkeypatch.setattr(planning, "optimise", record_collector)
    compile_plan(graph, {"x": 2.0})
    assert states == [False]
    assert gc.isenabled()


def test_a_token_with_a_deadline_follows_and_cancels_the_user_s() -> None:
    users = CancelToken()
    token = DeadlineToken(users, 1000.0)
    token.check()
    token.cancel()
    assert (users.cancelled, token.cancelled) == (True, True)
    with pytest.raises(Cancelled):
        token.check()
