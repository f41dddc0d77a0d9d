"""A choice computes only one of its branches: at the top level, in loops, sub-workflows and training, with caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import NodeError, WorkflowError
from guidegraph.graph.events import Event, NodeFinished, RunStarted
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.planning.passes import ALL_PASSES
from guidegraph.graph.planning.plan import compile_plan, find_needed_ops
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.effects import list_effects
from guidegraph.graph.trust.policy import Policy
from tests.graph.resolution.choice_nodes import build_graph, ran, run_choice

BY_PARAMETER = """
params: {mode: small}
nodes:
  start: {use: pick.mark, with: {name: start, plus: 1}}
  little: {use: pick.mark, in: {a: start}, with: {name: little, plus: 1}}
  saved: {use: pick.effect, in: {a: little}, with: {name: saved}}
  much: {use: pick.mark, in: {a: start}, with: {name: much, plus: 10}}
  kept: {use: pick.effect, in: {a: much}, with: {name: kept}}
  either: {choose: {when: params.mode, of: {small: saved, big: kept}}}
  end: {use: pick.mark, in: {a: either}, with: {name: end}}
outputs: {end: end}
"""

COMPUTED = BY_PARAMETER.replace("params: {mode: small}", "params: {at: 1.0}").replace(
    "  either: {choose: {when: params.mode,",
    "  size: {use: pick.size, in: {a: params.at}}\n  either: {choose: {when: size,",
)


@pytest.mark.parametrize("passes", [ALL_PASSES, frozenset()], ids=["passes", "no passes"])
@pytest.mark.parametrize(
    ("text", "small", "big"),
    [(BY_PARAMETER, {"mode": "small"}, {"mode": "big"}), (COMPUTED, {"at": 1.0}, {"at": 3.0})],
    ids=["parameter", "computed"],
)
def test_only_the_chosen_branch_runs(
    text: str, small: dict[str, Any], big: dict[str, Any], passes: frozenset[str], tmp_path: Path
) -> None:
    assert run_choice(text, tmp_path, small, passes=passes).outputs == {"end": 2.0}
    assert {*ran} - {"size"} == {"start", "little", "saved", "end"}
    assert run_choice(text, tmp_path, big, passes=passes).outputs == {"end": 11.0}
    assert {*ran} - {"size"} == {"start", "much", "kept", "end"}
    assert len(ran) == len({*ran})


def test_only_the_nodes_of_a_selected_output_run(tmp_path: Path) -> None:
    text = COMPUTED.replace("outputs: {end: end}", "outputs: {end: end, start: start}")
    assert run_choice(text, tmp_path, only=["start"]).outputs == {"start": 1.0}
    assert ran == ["start"]
    assert run_choice(text, tmp_path, only=["end"]).outputs == {"end": 2.0}
    assert sorted(ran) == ["end", "little", "saved", "size", "start"]


@pytest.mark.parametrize(
    ("when", "of", "expected"),
    [
        ("{use: pick.above, in: {a: params.at}}", "{true: much, false: little}", "much"),
        ("{use: pick.above_as_tensor, in: {a: params.at}}", "{true: much, false: little}", "much"),
        ("{use: pick.counts, in: {a: params.at}}", "{3: much, 2: little}", "much"),
        ("{choose: {when: params.kind, of: {1: params.one, 2: params.two}}}", "{a: little, b: much}", "much"),
    ],
)
def test_a_choice_is_made_by_a_bool_a_tensor_or_another_choice(
    when: str, of: str, expected: str, tmp_path: Path
) -> None:
    text = f"""
params: {{at: 3.0, kind: 2, one: a, two: b}}
nodes:
  when: {when}
  little: {{use: pick.mark, with: {{name: little}}}}
  much: {{use: pick.mark, with: {{name: much}}}}
  either: {{choose: {{when: when, of: {of}}}}}
outputs: {{either: either}}
"""
    run_choice(text, tmp_path)
    assert ran == [expected]


@pytest.mark.parametrize(("node", "kind"), [("levels", "Levels"), ("scale", "float | Tensor")])
def test_a_choice_by_a_float_or_a_tensor_of_floats_is_refused_before_the_run(
    node: str, kind: str, tmp_path: Path
) -> None:
    text = f"""
params: {{at: 2.0}}
nodes:
  when: {{use: pick.{node}, in: {{a: params.at}}}}
  little: {{use: pick.mark, with: {{name: little}}}}
  either: {{choose: {{when: when, of: {{2: little}}, otherwise: little}}}}
  looped:
    loop: {{over: when, as: t}}
    carry: {{x: little}}
    body: {{inner: {{choose: {{when: loop.t, of: {{2: carry.x}}, otherwise: carry.x}}}}}}
    next: {{x: inner}}
outputs: {{either: either, looped: looped.x}}
"""
    with pytest.raises(WorkflowError) as raised:
        build_graph(text.replace("over: when", "over: params.at") if node == "scale" else text, tmp_path)
    assert f"type-mismatch: 'when' gives {kind}; a choice is made by" in str(raised.value)
    assert node == "scale" or "type-mismatch: 'loop.t' gives Tensor (B)" in str(raised.value)


NESTED = """
params: {at: 3.0, deep: 1.0}
nodes:
  size: {use: pick.size, in: {a: params.at}}
  depth: {use: pick.mark, in: {a: params.deep}, with: {name: depth}}
  is_deep: {use: pick.above, in: {a: depth}}
  low: {use: pick.mark, with: {name: low}}
  high: {use: pick.mark, with: {name: high}}
  flat: {use: pick.mark, with: {name: flat}}
  inner: {choose: {when: is_deep, of: {true: low, false: high}}}
  outer: {choose: {when: size, of: {big: inner}, otherwise: flat}}
outputs: {outer: outer}
"""


def test_a_choice_inside_a_branch_runs_only_if_the_branch_is_chosen(tmp_path: Path) -> None:
    run_choice(NESTED, tmp_path)
    assert ran == ["size", "depth", "high"]
    run_choice(NESTED, tmp_path, {"at": 1.0})
    assert ran == ["size", "flat"]


def test_a_branch_that_another_output_needs_runs_even_if_it_is_not_chosen(tmp_path: Path) -> None:
    run_choice(COMPUTED.replace("outputs: {end: end}", "outputs: {end: end, much: much}"), tmp_path)
    assert sorted(ran) == ["end", "little", "much", "saved", "size", "start"]


def test_a_loop_can_be_a_branch(tmp_path: Path) -> None:
    text = """
params: {n: 0}
nodes:
  one: {use: pick.mark, with: {name: one, plus: 1}}
  size: {use: pick.size, in: {a: one}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: one}
    body: {more: {use: pick.mark, in: {a: carry.x}, with: {name: more}}}
    next: {x: more}
  either: {choose: {when: size, of: {big: work.x, small: one}}}
outputs: {x: either}
"""
    assert run_choice(text, tmp_path, {"n": 3}).outputs == {"x": 1.0}
    assert ran == ["one", "size"]
    run_choice(text.replace("big: work.x, small: one", "small: work.x, big: one"), tmp_path, {"n": 3})
    assert ran.count("more") == 3


LOOP = """
params: {n: 4, at: 1.0}
nodes:
  one: {use: toy.number, with: {value: 1}}
  level: {use: pick.size, in: {a: params.at}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: one}
    body:
      size: {use: pick.size, in: {a: carry.x}}
      fixed: {use: pick.mark, with: {name: fixed, plus: 2}}
      little: {use: pick.mark, in: {a: carry.x}, with: {name: little, plus: 1}}
      much: {use: pick.mark, in: {a: carry.x, plus: fixed}, with: {name: much}}
      saved: {use: pick.effect, in: {a: much}, with: {name: saved}}
      either: {choose: {when: WHEN, of: OF}}
    next: {x: either}
outputs: {x: work.x}
"""


def choice_in_loop(when: str, of: str) -> str:
    """A workflow with a choice in the body of a loop."""
    return LOOP.replace("WHEN", when).replace("OF", of)


@pytest.mark.parametrize("passes", [ALL_PASSES, frozenset()], ids=["passes", "no passes"])
def test_a_loop_chooses_in_each_iteration_by_a_carry_or_its_index(passes: frozenset[str], tmp_path: Path) -> None:
    text = choice_in_loop("size", "{small: little, big: saved}")
    assert run_choice(text, tmp_path, passes=passes).outputs == {"x": 7.0}
    assert [name for name in ran if name in ("little", "much", "saved")] == ["little", "little", *["much", "saved"] * 2]
    text = choice_in_loop("loop.index", "{1: saved}, otherwise: little")
    assert run_choice(text, tmp_path, passes=passes).outputs == {"x": 6.0}
    assert [name for name in ran if name in ("little", "saved")] == ["little", "saved", "little", "little"]


@pytest.mark.parametrize("passes", [ALL_PASSES, frozenset()], ids=["passes", "no passes"])
def test_nodes_of_the_other_branch_never_run_in_a_loop(passes: frozenset[str], tmp_path: Path) -> None:
    for when in ("loop.index", "level"):
        of = "{7: saved}, otherwise: little" if when == "loop.index" else "{big: saved, small: little}"
        run_choice(choice_in_loop(when, of), tmp_path, passes=passes)
        assert not {"fixed", "much", "saved"} & {*ran}
        assert ran.count("little") == 4


def test_loop_invariant_nodes_of_a_branch_are_computed_once(tmp_path: Path) -> None:
    run_choice(choice_in_loop("level", "{big: saved, small: little}"), tmp_path, {"at": 3.0})
    assert (ran.count("fixed"), ran.count("much")) == (1, 4)
    run_choice(choice_in_loop("size", "{small: little, big: saved}"), tmp_path, {"n": 6})
    assert (ran.count("fixed"), ran.count("much")) == (1, 4)


def test_a_loop_invariant_choice_is_hoisted(tmp_path: Path) -> None:
    text = """
params: {n: 3, at: 1.0}
nodes:
  level: {use: pick.size, in: {a: params.at}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: params.at}
    body:
      little: {use: pick.mark, with: {name: little, plus: 1}}
      much: {use: pick.mark, with: {name: much, plus: 2}}
      either: {choose: {when: level, of: {small: little, big: much}}}
      x: {use: toy.add, in: {a: carry.x, b: either}}
    next: {x: x}
outputs: {x: work.x}
"""
    assert run_choice(text, tmp_path).outputs == {"x": 4.0}
    assert ran == ["size", "little"]


BLOCK = """
guidegraph: 1
params: {mode: {type: str}, a: {type: float}}
nodes:
  little: {use: pick.mark, in: {a: params.a}, with: {name: little, plus: 1}}
  much: {use: pick.mark, in: {a: params.a}, with: {name: much, plus: 10}}
  either: {choose: {when: params.mode, of: {small: little, big: much}}}
outputs: {x: either}
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("with: {mode: big}, in: {a: params.at}", "much"), ("in: {mode: size, a: params.at}", "little")],
    ids=["literal", "computed"],
)
def test_a_sub_workflow_can_choose(arguments: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text(BLOCK)
    text = f"""
params: {{at: 1.0}}
nodes:
  size: {{use: pick.size, in: {{a: params.at}}}}
  block: {{use: ./block.yaml, {arguments}}}
outputs: {{x: block.x}}
"""
    run_choice(text, tmp_path, only=["x"])
    assert [name for name in ran if name != "size"] == [expected]


def test_a_choice_known_before_the_run_shares_the_cache_with_its_branch(tmp_path: Path) -> None:
    graph = build_graph(BY_PARAMETER, tmp_path)
    small = compile_plan(graph, {"mode": "small"})
    other = compile_plan(build_graph(BY_PARAMETER.replace("plus: 10", "plus: 20"), tmp_path), {"mode": "small"})
    big = compile_plan(graph, {"mode": "big"})
    assert small.taken == {"either": "small"}
    assert small.digests["little"] == other.digests["little"]
    assert "much" not in small.ops
    assert "little" not in big.ops


PURE = COMPUTED.replace("small: saved, big: kept", "small: little, big: much")
PURE = "\n".join(line for line in PURE.splitlines() if "pick.effect" not in line)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_computed_choice_is_cached_by_its_chosen_branch(kind: str, tmp_path: Path) -> None:
    cache = {"memory": MemoryCache()} if kind == "memory" else {"cache": tmp_path / "cache"}
    assert run_choice(PURE, tmp_path, **cache).outputs == {"end": 2.0}
    assert sorted(ran) == ["end", "little", "size", "start"]
    assert run_choice(PURE, tmp_path, **cache).outputs == {"end": 2.0}
    assert ran == []
    assert run_choice(PURE, tmp_path, {"at": 5.0}, **cache).outputs == {"end": 11.0}
    assert ran == ["size", "much", "end"]
    other = PURE.replace("plus: 10", "plus: 20")
    assert run_choice(other, tmp_path, **cache).outputs == {"end": 2.0}
    assert ran == []


def test_a_run_reports_only_the_nodes_that_ran(tmp_path: Path) -> None:
    events: list[Event] = []
    result = run_choice(COMPUTED, tmp_path, observers=[events.append])
    finished = [event.path for event in events if isinstance(event, NodeFinished)]
    assert sorted(finished) == sorted(f"nodes.{name}" for name in ("size", "start", "little", "saved", "end"))
    assert len([event for event in events if isinstance(event, RunStarted)]) == 1
    assert [*result.digests] == finished


def test_training_uses_the_chosen_branch(tmp_path: Path) -> None:
    text = """
params: {mode: half}
nodes:
  data: {use: toy.batches}
  line: {use: toy.line}
  fit:
    loop: {over: data, as: batch}
    carry: {line: line}
    body:
      half: {use: pick.weigh, in: {model: carry.line, x: loop.batch.x, y: loop.batch.y}, with: {by: 0.5, name: half}}
      none: {use: pick.weigh, in: {model: carry.line, x: loop.batch.x, y: loop.batch.y}, with: {by: 0.0, name: none}}
      loss: {choose: {when: WHEN, of: {half: half, none: none}}}
    train: [{model: line, loss: loss, optimizer: sgd, lr: 0.1}]
    steps: 3
outputs: {line: fit.line}
"""
    by_parameter = text.replace("WHEN", "params.mode")
    start = run_choice(by_parameter, tmp_path, {"mode": "none"}).outputs["line"].weight
    assert ran == ["none"] * 3
    moved = run_choice(by_parameter, tmp_path).outputs["line"].weight
    assert ran == ["half"] * 3
    assert not torch.equal(start, moved)
    by_index = text.replace("WHEN", "loop.index").replace("{half: half, none: none}", "{1: half}, otherwise: none")
    once = run_choice(by_index, tmp_path).outputs["line"].weight
    assert ran == ["none", "half", "none"]
    assert not torch.equal(start, once)
    assert not torch.equal(moved, once)


def test_a_known_value_without_a_branch_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"'mode': port 'when' of choose .*'small' or 'big'.*found str 'bigger'"):
        run_choice(BY_PARAMETER, tmp_path, {"mode": "bigger"})
    assert ran == []


@pytest.mark.parametrize(("value", "found"), [(1.0, "float 1.0"), (True, "bool True"), ("1", "str '1'")])
def test_a_known_value_must_have_the_type_of_its_branch(value: object, found: str, tmp_path: Path) -> None:
    text = BY_PARAMETER.replace("mode: small", "mode: {type: Any, default: 1}").replace(
        "small: saved, big", "1: saved, 2"
    )
    assert run_choice(text, tmp_path, {"mode": 2}).outputs == {"end": 11.0}
    ran.clear()
    with pytest.raises(WorkflowError, match=rf"'mode': port 'when' of choose .*should be 1 or 2; found {found}"):
        run_choice(text, tmp_path, {"mode": value})
    assert ran == []


def test_a_value_without_a_branch_names_the_choice_and_its_branches(tmp_path: Path) -> None:
    text = COMPUTED.replace("of: {small: saved, big: kept}", "of: {smal: saved, large: kept}")
    with pytest.raises(NodeError) as caught:
        run_choice(text, tmp_path)
    message = str(caught.value)
    assert "nodes.either (choose)" in message
    assert "port 'when': no branch 'small'; did you mean 'smal'? branches: smal, large" in message
    with pytest.raises(NodeError, match=r"\(choose\) at iteration 2: .*no branch '2'"):
        run_choice(choice_in_loop("loop.index", "{0: little, 1: little}"), tmp_path)


BY_CHOICE = """
params: {mode: low, low: 2, high: -1.0}
nodes:
  by: {choose: {when: params.mode, of: {low: params.low, high: params.high}}}
  one: {use: toy.number, with: {value: 1}}
  end: {use: toy.scale, in: {a: one, by: by}}
outputs: {end: end}
"""


def test_a_literal_from_a_choice_is_checked_at_the_port(tmp_path: Path) -> None:
    (tmp_path / "scale.yaml").write_text("guidegraph: 1" + BY_CHOICE)
    text = "params: {mode: low}\nnodes: {s: {use: scale.yaml, in: {mode: params.mode}}}\noutputs: {end: s}\n"
    assert run_choice(text, tmp_path).outputs == {"end": 2.0}
    with pytest.raises(
        WorkflowError,
        match=r"value of a choice does not fit 'by': .*greater than or equal to 0; found float -1.0 \[nodes\.s/end\]",
    ):
        run_choice(text, tmp_path, {"mode": "high"})


def test_a_parameter_is_checked_at_the_port_behind_a_choice_that_takes_another_branch(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"port 'by' of toy.scale \(nodes.end\): .*found float -1.0") as caught:
        run_choice(BY_CHOICE, tmp_path)
    assert caught.value.problems[0].path == "params.high.default"
    assert run_choice(BY_CHOICE.replace("-1.0", "3.0"), tmp_path, {"mode": "high"}).outputs == {"end": 3.0}


PATHS = """
params: {at: 1.0, mode: one, one: {default: one.txt, type: path}, two: {default: two.txt, type: path}}
nodes:
  size: {use: pick.size, in: {a: params.at}}
  path: {choose: {when: WHEN, of: OF}}
  text: {use: toy.read, in: {path: path}}
outputs: {text: text}
"""


@pytest.mark.parametrize(
    ("when", "of", "possible"),
    [
        ("params.mode", "{one: params.one, two: params.two}", ["one"]),
        ("size", "{small: params.one, big: params.two}", ["one", "two"]),
    ],
)
def test_the_files_of_all_possible_branches_are_listed_before_the_run(
    when: str, of: str, possible: list[str], tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("1")
    text = PATHS.replace("WHEN", when).replace("OF", of)
    assert run_choice(text, tmp_path).outputs == {"text": "1"}
    graph = build_graph(text, tmp_path)
    values = bind(graph, {})
    effects = list_effects(find_needed_ops(graph, None, values), values)
    assert [(effect.kind, effect.path, effect.param) for effect in effects] == [
        ("read", tmp_path / f"{name}.txt", name) for name in possible
    ]
    with pytest.raises(WorkflowError, match=r"forbidden-read"):
        compile_plan(graph, values, RunConfig(policy=Policy(stranger=True)))
