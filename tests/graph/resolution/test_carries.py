"""Carries of loops: their types, and the errors when start and next differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.ir import Loop, walk
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.types import PortType
from tests.graph.toys import REGISTRY

LOOP = """guidegraph: 1
params: {n: 3}
nodes:
  start: {use: START}
  work:
    loop: {over: params.n, as: i}
    carry: {x: start}
    body: {next: {use: NEXT}}
    next: {x: next}
outputs: {x: work.x}
"""


def find_carry_type(folder: Path, start: str, after: str, registry: Registry = REGISTRY) -> PortType:
    path = folder / "w.yaml"
    path.write_text(LOOP.replace("use: START", start).replace("use: NEXT", after))
    return build(path, registry).outputs["x"].type


@pytest.mark.parametrize(
    ("start", "after", "expected"),
    [
        ("use: toy.paint", "use: toy.look, in: {picture: carry.x}", "Picture"),
        ("use: toy.paint", "use: toy.blur, in: {x: carry.x}", "Tensor"),
        ("use: toy.paint", "use: toy.play", "Tensor"),
        ("use: toy.count", "use: toy.add, in: {a: carry.x}", "float"),
        ("use: toy.model", "use: toy.same, in: {x: carry.x}", "Any"),
    ],
)
def test_the_type_of_a_carry_is_the_join_of_its_start_and_its_next(
    tmp_path: Path, start: str, after: str, expected: str
) -> None:
    assert str(find_carry_type(tmp_path, start, after)) == expected


@pytest.mark.parametrize(
    ("start", "after"),
    [
        ("use: toy.count", "use: toy.play"),
        ("use: toy.paint", "use: toy.model"),
        ("use: toy.model", "use: toy.judge"),
        ("use: toy.shout, with: {text: a}", "use: toy.number"),
    ],
)
def test_incompatible_start_and_next_are_an_error_at_next(tmp_path: Path, start: str, after: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        find_carry_type(tmp_path, start, after)
    (problem,) = caught.value.problems
    assert (problem.mark.line, problem.mark.column, problem.code) == (9, 15, "type-mismatch")
    assert problem.path == "nodes.work.next.x"


def test_a_port_in_the_body_is_checked_against_the_join(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("""guidegraph: 1
params: {n: 3}
nodes:
  start: {use: toy.count}
  work:
    loop: {over: params.n, as: i}
    carry: {x: start}
    body:
      half: {use: toy.add, in: {a: carry.x}}
      whole: {use: toy.count, in: {value: carry.x}}
    next: {x: half}
outputs: {x: work.x}
""")
    with pytest.raises(WorkflowError, match=r"'carry.x' gives float, port 'value' takes int") as caught:
        build(path, REGISTRY)
    assert len(caught.value.problems) == 1


def write_nested_loops(depth: int) -> str:
    """A workflow of nested loops whose carries all widen from Picture to Tensor, from the innermost outwards."""
    lines = ["guidegraph: 1", "params: {n: 2}", "nodes:", "  p: {use: toy.paint}"]
    for k in range(depth):
        pad, start = "    " * k + "  ", f"carry.x{k - 1}" if k else "p"
        lines += [f"{pad}l{k}:", f"{pad}  loop: {{over: params.n, as: i{k}}}", f"{pad}  carry: {{x{k}: {start}}}"]
        lines += [f"{pad}  body:"]
    lines += ["    " * depth + f"  blur: {{use: toy.blur, in: {{x: carry.x{depth - 1}}}}}"]
    for k in reversed(range(depth)):
        lines += ["    " * k + f"    next: {{x{k}: {f'l{k + 1}' if k + 1 < depth else 'blur'}}}"]
    return "\n".join([*lines, "outputs: {x: l0}", ""])


def test_nested_loops_converge_in_few_passes(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(write_nested_loops(8))
    graph = build(path, REGISTRY)
    loops = [op for op in walk(graph.ops) if isinstance(op, Loop)]
    assert len(loops) == 8
    assert {str(kind) for loop in loops for kind in loop.outputs.values()} == {"Tensor"}
    path.write_text(write_nested_loops(9))
    with pytest.raises(WorkflowError, match="too-deep"):
        build(path, REGISTRY)


def test_disabled_or_failed_required_plugins_are_reported(tmp_path: Path) -> None:
    reason = "disabled by GUIDEGRAPH_DISABLE_PLUGINS"
    absent = Registry(REGISTRY.nodes, REGISTRY.types, absent={"guidegraph-sag": reason})
    path = tmp_path / "w.yaml"
    path.write_text("guidegraph: 1\nrequires: {Guidegraph_SAG: '>=0.1'}\nnodes: {a: {use: sag.x}}\noutputs: {a: a}\n")
    with pytest.raises(WorkflowError) as caught:
        build(path, absent)
    (problem,) = caught.value.problems
    assert problem.code == "missing-plugin"
    assert problem.message == f"the plugin 'Guidegraph_SAG' is not available: {reason}"


LINKED = """guidegraph: 1
params: {rate: 1e-3, warmup: 2, name: adamw}
nodes:
  data: {use: toy.batches}
  start: {use: toy.model}
  fit:
    loop: {over: data, as: b}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.b.x}}}
    train: [{model: net, loss: loss, OPTION}]
outputs: {net: fit.net}
"""


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optimizer: params.name", "10:38: bad-value: 'optimizer' takes no link, found 'params.name'; "),
        ("momentum: params.rate", "10:38: bad-value: 'momentum' takes no link, found 'params.rate'; "),
        ("lr: params.rat", "10:42: unknown-param: no parameter 'rat'"),
        ("lr: params.name", "10:42: type-mismatch: 'params.name' gives str, port 'lr' takes float"),
    ],
)
def test_a_training_option_that_takes_no_link_is_reported(tmp_path: Path, option: str, message: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(LINKED.replace("OPTION", option))
    with pytest.raises(WorkflowError) as caught:
        build(path, REGISTRY)
    assert message in str(caught.value)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_momentum_of_1_is_refused(tmp_path: Path, optimizer: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(LINKED.replace("OPTION", f"optimizer: {optimizer}, momentum: 1.0"))
    with pytest.raises(WorkflowError, match=r"bad-value: .*less than 1.*momentum"):
        build(path, REGISTRY)


def test_the_value_of_a_linked_training_option_is_checked_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(LINKED.replace("OPTION", "lr: params.rate, warmup: params.warmup"))
    graph = build(path, REGISTRY)
    bind(graph, {"rate": 1, "warmup": 0})
    with pytest.raises(WorkflowError) as caught:
        bind(graph, {"rate": 0.0, "warmup": -1})
    message = str(caught.value)
    assert "'lr' of 'net', trained by loop nodes.fit: " in message
    assert "'warmup' of 'net', trained by loop nodes.fit: " in message
