"""The interpreter: how slots are filled and freed, whoever executes the steps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Tensor, node
from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.call import invoke
from guidegraph.graph.execution.loop_context import fill_slots, interpret
from guidegraph.graph.execution.run import RunConfig, run
from guidegraph.graph.export.partition.subgraph import run_traced
from guidegraph.graph.ir import Graph
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.planning.plan import Plan, compile_plan
from guidegraph.graph.planning.steps import BlockPlan, Step, flatten_block
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Output

references: list[weakref.ref[Any]] = []
alive: list[bool] = []


@node("frame.ones")
def ones(*, rows: int = 2) -> Tensor:
    """A tensor."""
    return torch.ones(rows, 3)


@node("frame.refer")
def refer(x: Tensor, *, add: float = 1.0) -> Tensor:
    """x + add. A weak reference to x is kept."""
    references.append(weakref.ref(x))
    return x + add


@node("frame.look")
def look(x: Tensor) -> Tensor:
    """x, with a note of whether the value that was referred to last is still alive."""
    gc.collect()
    alive.append(references[-1]() is not None)
    return x


@node("frame.append")
def append(values: Sequence[float] = (1.0,)) -> float:
    """The sum of a list, to which a number is then added in place."""
    total = sum(values)
    values.append(5.0)  # type: ignore[attr-defined]
    return total


@node("frame.three", batchable=("x",))
def three(x: Tensor) -> Tensor:
    """x (B, 3)."""
    if x.shape[1] != 3:
        raise ValueError("three columns are expected")
    return 2 * x


@node("frame.wide")
def wide(*, columns: int = 3) -> Tensor:
    """A tensor (2, columns)."""
    return torch.ones(2, columns)


REGISTRY = Registry({spec.id: spec for spec in map(get_spec, (ones, refer, look, append, three, wide))})

CHAIN = """guidegraph: 1
params: {add: 1.0}
nodes:
  a: {use: frame.ones}
  b: {use: frame.refer, in: {x: a, add: params.add}}
  c: {use: frame.look, in: {x: b}}
outputs: {out: c}
"""


def load(text: str, folder: Path) -> Graph:
    path = folder / "workflow.yaml"
    path.write_text(text)
    return build(path, REGISTRY)


def block_of(plan: Plan, *roots: Output) -> BlockPlan:
    return flatten_block(plan.ops, roots, plan.config.passes)


def test_a_value_leaves_its_slot_after_the_last_step_that_uses_it(tmp_path: Path) -> None:
    plan = compile_plan(load(CHAIN, tmp_path), {"add": 2.0})
    block = block_of(plan, Output("c", "out"))
    tensors_before: list[int] = []

    def execute(step: Step, slots: list[Any]) -> None:
        tensors_before.append(sum(isinstance(value, torch.Tensor) for value in slots))
        invoke(step, slots)

    results = interpret(block, {}, execute)
    assert tensors_before == [0, 1, 1]
    assert {source: value.tolist() for source, value in results.items()} == {Output("c", "out"): [[3.0] * 3] * 2}


def test_a_list_literal_is_new_in_each_execution(tmp_path: Path) -> None:
    text = "guidegraph: 1\nparams: {values: [1, 2]}\nnodes: {a: {use: frame.append, in: {values: params.values}}}\n"
    plan = compile_plan(load(text + "outputs: {out: a}\n", tmp_path), {"values": [1.0, 2.0]})
    block = block_of(plan, Output("a", "out"))
    assert [slot for slot, _ in block.constants]
    results = [interpret(block, {}, invoke)[Output("a", "out")] for _ in range(2)]
    assert results == [3.0, 3.0]
    first, second = fill_slots(block, {}), fill_slots(block, {})
    assert first == second
    assert first[block.constants[0][0]] is not second[block.constants[0][0]]


def test_a_value_from_a_cache_is_freed_after_its_last_reader(tmp_path: Path) -> None:
    graph = load(CHAIN, tmp_path)
    for add in (1.0, 2.0):
        alive.clear()
        result = run(graph, {"add": add}, RunConfig(cache=tmp_path / "cache"))
    assert result.origins["nodes.a"] == "disk"
    assert alive == [False]


@pytest.mark.parametrize("execute", ["engine", "traced"])
def test_the_error_of_a_sibling_that_is_not_joined_names_it(tmp_path: Path, execute: str) -> None:
    text = """guidegraph: 1
params: {columns: 4}
nodes:
  a: {use: frame.wide}
  b: {use: frame.wide, in: {columns: params.columns}}
  u: {use: frame.three, in: {x: a}}
  v: {use: frame.three, in: {x: b}}
outputs: {u: u, v: v}
"""
    plan = compile_plan(load(text, tmp_path), {"columns": 4})
    block = block_of(plan, Output("u", "out"), Output("v", "out"))
    assert any(len(step.members) == 2 for step in block.steps)
    with pytest.raises(NodeError, match=r"nodes\.v "):
        run_traced(block, {}) if execute == "traced" else interpret(block, {}, invoke)
