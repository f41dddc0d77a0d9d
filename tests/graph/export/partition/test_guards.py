"""Guards of a part: plain fields that change its result, and batches that must not be expanded to one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.graph.errors import Mark, NodeError
from guidegraph.graph.export.partition.free_axes import find_free_axes, separate_batches
from guidegraph.graph.export.partition.guards import find_guards
from guidegraph.graph.export.partition.leaves import rebuild
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartInput, PartPlan, name_axes, plan_part
from guidegraph.graph.sources import Output, Param
from guidegraph.graph.types import register_structured, structured
from guidegraph.nodes.types import Condition
from guidegraph_runtime.bundle.manifest_types import Operation, Part
from guidegraph_runtime.bundle.manifest_types import Tensor as Described
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import Computation
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.broadcasting import broadcast
from tests.graph.export.partition.planning import graph_of


@structured
@dataclass(frozen=True)
class Settings:
    """Flags of four kinds, and a number."""

    gain: Tensor
    doubled: bool = False
    unread: bool = False
    refused: bool = False
    clip: float | None = None


def part_of(given: Any) -> PartPlan:
    """A part that reads settings of which it is given the tensor."""
    value = given[0].value

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        settings: Settings = rebuild(value, tensors)
        if settings.refused:
            cause = ValueError("this is refused")
            raise NodeError("nodes.a", "a.b", Mark("file", 1, 1), cause) from cause
        return (settings.gain * (2 if settings.doubled else 1),)

    return PartPlan(
        "step", (PartInput("s.gain", torch.zeros(3), (3,)),), ("out",), function, ("a",), lambda _: function
    )


def fields(**values: Any) -> dict[str, Any]:
    register_structured()
    given = [ExampleValue(Param("s"), "s", Settings(torch.zeros(3), **values), None)]
    held = {f"s.{name}": f"node.{name}" for name in ("doubled", "unread", "refused", "clip")}
    return find_guards(part_of(given), given, part_of, held)


def test_flags_that_change_the_result_count_even_where_the_example_is_zero() -> None:
    assert fields() == {
        "node.doubled": {"is": False},
        "node.refused": {"is": False, "why": "this is refused"},
        "node.clip": {"is": None},
    }
    assert fields(doubled=True, clip=1.0)["node.clip"] == {"is": 1.0}


@pytest.mark.parametrize("only", [None, 3])
def test_guards_are_found_with_few_samples_or_else_with_all(only: int | None) -> None:
    batches = []

    def part_of_batch(examples: Any) -> PartPlan:
        value = examples[0].value

        def function(gain: Tensor) -> tuple[Tensor, ...]:
            batches.append(len(gain))
            if only is not None and len(gain) != only:
                cause = ValueError("three samples are expected")
                raise NodeError("nodes.a", "a.b", Mark("file", 1, 1), cause) from cause
            return (gain * (2 if value.doubled else 1),)

        return PartPlan("step", (PartInput("s.gain", torch.zeros(3), ("B",)),), ("out",), function, ("a",))

    register_structured()
    examples = [ExampleValue(Param("s"), "s", Settings(torch.zeros(3)), None)]
    names = {f"s.{name}": f"node.{name}" for name in ("doubled", "unread")}
    assert find_guards(part_of_batch(examples), examples, part_of_batch, names) == {"node.doubled": {"is": False}}
    assert set(batches[1:]) == {2 if only is None else only}


def test_a_part_that_runs_on_no_other_numbers_lets_no_flag_change() -> None:
    assert fields(refused=True) == {
        name: {"is": name == "node.refused"} for name in ("node.doubled", "node.unread", "node.refused")
    } | {"node.clip": {"is": None}}


@pytest.mark.parametrize(("clip", "said"), [(1.0, "'s.clip' is 1.0 .* traced with None: as told"), (None, "")])
def test_the_runtime_refuses_a_field_that_the_graph_was_not_traced_with(clip: float | None, said: str) -> None:
    expected: Any = {"fields": {"s.clip": {"is": None, "why": "as told"}, "s.unknown": {"is": True}}}
    plan = [Operation("part", "step", {}, expected, ("out",))]
    memory = Values({"s.clip": clip})
    run = Computation("bundle", lambda *_: {"out": np.ones(1)}, str.encode, memory)
    if not said:
        run.run(plan)
        assert "out" in memory
        return
    with pytest.raises(BundleError, match=said):
        run.run(plan)


def plan(function: Any, **givers: str) -> PartPlan:
    inputs = [PartInput(name, torch.zeros(1, 3), ("B", 3), giver) for name, giver in givers.items()]
    return PartPlan("decode", tuple(inputs), ("out",), function, ("a",), lambda _: function)


def names(part: PartPlan) -> list[str]:
    return [here[0] for here in name_axes(separate_batches(part))]


def test_a_batch_that_is_put_after_another_stays_apart() -> None:
    assert names(plan(lambda a, b: (torch.cat([a, b]),), a="x", b="y")) == ["batch", "samples"]
    assert names(plan(lambda a, b, c: (torch.cat([a * c, b]),), a="x", b="y", c="z"))[1] == "samples"


def test_a_batch_that_is_added_to_another_is_that_one() -> None:
    assert names(plan(lambda a, b: (a + b,), a="x", b="y")) == ["batch", "batch"]


def test_what_one_operation_gives_is_of_one_batch() -> None:
    assert names(plan(lambda a, b: (a, b), a="x", b="x")) == ["batch", "batch"]
    assert names(plan(lambda a, b: (a, b), a="x", b="y")) == ["batch", "samples"]


def test_a_part_whose_batches_must_agree_has_one() -> None:
    def strict(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        if a.shape[0] != b.shape[0]:
            raise ValueError("the batches differ")
        return (torch.cat([a, b]),)

    assert names(plan(strict, a="x", b="y")) == ["batch", "batch"]


@pytest.mark.parametrize(("length", "free"), [(2, False), (3, True)])
def test_siblings_that_join_at_one_length_alone_fix_the_axis(length: int, free: bool, tmp_path: Path) -> None:
    text = """
nodes:
  noise: {use: noise.gaussian, with: {seed: 0, shape: [2, 4, 6]}}
  words: {use: plan.tokens, in: {x: noise}}
  fixed: {use: plan.tokens, in: {x: noise}}
  a:     {use: plan.attend, in: {x: noise, condition: words}}
  b:     {use: plan.attend, in: {x: noise, condition: fixed}}
outputs: {a: a, b: b}
"""
    register_structured()
    ops = graph_of(text, tmp_path).ops
    x = torch.zeros(1, 2, 4, 6)
    x_source, words, fixed, a, b = (Output(key, "out") for key in ("noise", "words", "fixed", "a", "b"))
    read = [
        ExampleValue(x_source, "x", x, None),
        ExampleValue(words, "words", Condition(tokens=torch.zeros(1, 2, 24)), None),
    ]
    constants = {fixed: Condition(tokens=torch.zeros(1, length, 24))}
    results = [ExampleValue(a, "a", x, None), ExampleValue(b, "b", x, None)]
    _, axes = find_free_axes(plan_part("step", [ops["a"], ops["b"]], read, constants, results))
    names = {axis.name for input_axes in axes for axis in input_axes.values()}
    assert {"batch", "height", "width"} <= names
    assert ("tokens" in names) == free


def test_sizes_that_must_agree_are_named() -> None:
    described = [Described(name, "float32", ("batch", "tokens")) for name in ("positive", "negative")]
    part = Part("step.onnx", tuple(described), (), {})
    good = broadcast(part, {"positive": np.zeros((2, 5)), "negative": np.zeros((1, 5))})
    assert good["negative"].shape == (2, 5)
    with pytest.raises(
        ValueError, match=r"'tokens' is 5 in 'positive' and 7 in 'negative'.*example in which they differ"
    ):
        broadcast(part, {"positive": np.zeros((2, 5)), "negative": np.zeros((1, 7))})
    with pytest.raises(ValueError, match="'tokens' is 5 in 'positive' and 1 in 'negative'"):
        broadcast(part, {"positive": np.zeros((2, 5)), "negative": np.zeros((1, 1))})


def test_only_a_batch_is_repeated() -> None:
    part = Part(
        "step.onnx", (Described("x", "float32", ("batch", 3)), Described("s", "float32", (4, "batch", 3))), (), {}
    )
    assert broadcast(part, {"x": np.zeros((2, 3)), "s": np.zeros(4)})["s"].shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"'x' has shape \(2, 1\) where \(2, 3\) is due"):
        broadcast(part, {"x": np.zeros((2, 1)), "s": np.zeros(4)})
