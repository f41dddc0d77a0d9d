"""Graphs of valid workflows: order of operations, sources, checks, types and sub-workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.ir import Call, Graph, Loop, walk
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param, Source, Sources
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.types import PortType, Tensor, to_port_type
from tests.graph.toys import REGISTRY, Model, Picture
from tests.work_counter import count_calls, growth


def build_text(folder: Path, text: str, **files: str) -> Graph:
    """Build a workflow from its text; ``files`` are workflows beside it."""
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text("guidegraph: 1\n" + content)
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    return build(path, REGISTRY)


def problems(folder: Path, text: str, **files: str) -> list[str]:
    with pytest.raises(WorkflowError) as caught:
        build_text(folder, text, **files)
    return [f"{Path(p.mark.file).name}:{p.mark.line}:{p.mark.column} {p.code}" for p in caught.value.problems]


def call(graph: Graph, key: str) -> Call:
    result = next(op for op in walk(graph.ops) if op.key == key)
    assert isinstance(result, Call)
    return result


def loop(graph: Graph, key: str) -> Loop:
    result = next(op for op in walk(graph.ops) if op.key == key)
    assert isinstance(result, Loop)
    return result


def training_loop(graph: Graph, key: str) -> Fit:
    result = loop(graph, key)
    assert isinstance(result, Fit)
    return result


def values(sources: dict[str, Any] | Any) -> dict[str, Any]:
    """Sources with literals replaced by their values, for comparison."""
    return {name: value(source) for name, source in sources.items()}


def value(source: Sources) -> Any:
    if isinstance(source, Many):
        return tuple(map(value, source.sources))
    return source.value if isinstance(source, Literal) else source


def test_links_become_sources_and_literals_are_validated(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
params: {n: 2}
nodes:
  one: {use: toy.number, with: {value: 1}}
  two: {use: toy.pair, in: {a: one}}
  sum: {use: toy.add, in: {a: two.second}, with: {b: 5}}
  big: {use: toy.scale, in: {a: sum, by: params.n}}
  all: {use: toy.total, in: {values: [one, two.first, params.n]}}
outputs: {big: big, all: all, n: params.n}
""",
    )
    literal = call(graph, "one").settings["value"]
    assert isinstance(literal, Literal)
    assert isinstance(literal.value, float)
    assert values(call(graph, "sum").inputs) == {"a": Output("two", "second"), "b": 5.0}
    assert call(graph, "big").settings == {"by": Param("n")}
    assert call(graph, "all").inputs == {"values": Many((Output("one", "out"), Output("two", "first"), Param("n")))}
    assert {n: o.source for n, o in graph.outputs.items()} == {
        "big": Output("big", "out"),
        "all": Output("all", "out"),
        "n": Param("n"),
    }
    assert graph.outputs["n"].type == to_port_type(int)


def test_operations_are_in_topological_order_then_file_order(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
nodes:
  late: {use: toy.add, in: {a: middle, b: other}}
  free: {use: toy.number}
  middle: {use: toy.add, in: {a: early}}
  other: {use: toy.number}
  early: {use: toy.number}
outputs: {out: late}
""",
    )
    assert list(graph.ops) == ["free", "other", "early", "middle", "late"]


def test_operations_and_ports_have_their_position(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path, "nodes:\n  n: {use: toy.number}\n  s:\n    use: toy.add\n    in:\n      a: n\noutputs: {s: s}\n"
    )
    s = call(graph, "s")
    assert (s.mark.line, s.mark.column) == (4, 3)
    assert (s.marks["a"].line, s.marks["a"].column) in {(7, 7), (7, 10)}
    assert (graph.outputs["s"].mark.line, graph.outputs["s"].mark.column) == (8, 14)


def test_only_narrowing_links_are_checked_at_run_time(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
nodes:
  paint: {use: toy.paint}
  wide: {use: toy.blur, in: {x: paint}}
  narrow: {use: toy.look, in: {picture: wide}}
  any: {use: toy.same, in: {x: narrow}}
  back: {use: toy.look, in: {picture: any}}
  right: {use: toy.look, in: {picture: back}}
outputs: {out: right}
""",
    )
    assert call(graph, "wide").checks == ()
    assert call(graph, "narrow").checks == (("picture", to_port_type(Picture)),)
    assert call(graph, "any").checks == ()
    assert call(graph, "back").checks == (("picture", to_port_type(Picture)),)
    assert call(graph, "right").checks == ()


def test_narrowing_links_in_a_list_are_checked(tmp_path: Path) -> None:
    text = """
nodes:
  n: {use: toy.number}
  any: {use: toy.same, in: {x: n}}
  sum: {use: toy.total, in: {values: [n, LINK]}}
outputs: {out: sum}
"""
    assert call(build_text(tmp_path, text.replace("LINK", "n")), "sum").checks == ()
    assert [name for name, _ in call(build_text(tmp_path, text.replace("LINK", "any")), "sum").checks] == ["values"]


@pytest.mark.parametrize(
    ("source", "port", "right"),
    [
        ("{use: toy.count}", "{use: toy.scale, in: {a: source}}", True),  # int to float
        ("{use: toy.number}", "{use: toy.count, in: {value: source}}", False),  # float to int
        ("{use: toy.count}", "{use: toy.weigh, in: {x: tensor, weight: source}}", True),  # a number as a scale
        ("{use: toy.play}", "{use: toy.weigh, in: {x: tensor, weight: source}}", True),  # a tensor as a scale
        ("{use: toy.play}", "{use: toy.look, in: {picture: source}}", False),  # siblings
        ("{use: toy.play}", "{use: toy.blur, in: {x: source}}", True),  # to an ancestor
        ("{use: toy.same, in: {x: tensor}}", "{use: toy.hear, in: {sound: source}}", True),  # Any to anything
        ("{use: toy.judge}", "{use: toy.loss, in: {model: source, x: tensor}}", False),  # another protocol
        ("{use: toy.shout, with: {text: a}}", "{use: toy.read, in: {path: source}}", False),  # text is not a path
        ("{use: toy.batches}", "{use: toy.total, in: {values: source}}", False),  # a list of something else
    ],
)
def test_the_link_rule(tmp_path: Path, source: str, port: str, right: bool) -> None:
    nodes = f"  tensor: {{use: toy.paint}}\n  source: {source}\n  target: {port}\n"
    text = f"nodes:\n{nodes}outputs: {{out: tensor}}\n"
    if right:
        build_text(tmp_path, text)
    else:
        assert [p.rpartition(" ")[2] for p in problems(tmp_path, text)] == ["type-mismatch"]


LOOP = """
params: {n: 3}
nodes:
  zero: {use: toy.number}
  step: {use: toy.number, with: {value: 2}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: zero, y: zero}
    body:
      up: {use: toy.add, in: {a: carry.x, b: step}}
      down: {use: toy.add, in: {a: loop.i, b: loop.index}}
    next: {x: up, y: carry.x}
    collect: {seen: down}
outputs: {x: work.x, seen: work.seen}
"""


def test_a_loop_has_inner_sources_and_sources_from_outside(tmp_path: Path) -> None:
    graph = build_text(tmp_path, LOOP)
    work = loop(graph, "work")
    assert work.over == Param("n")
    assert work.carry == {"x": Output("zero", "out"), "y": Output("zero", "out")}
    assert list(work.body) == ["work.body.up", "work.body.down"]
    assert call(graph, "work.body.up").inputs == {"a": Carry("work", "x"), "b": Output("step", "out")}
    assert call(graph, "work.body.down").inputs == {"a": Item("work"), "b": Index("work")}
    assert work.next == {"x": Output("work.body.up", "out"), "y": Carry("work", "x")}
    assert work.collect == {"seen": Output("work.body.down", "out")}
    assert set(work.sources()) == {Param("n"), Output("zero", "out"), Output("step", "out")}
    assert str(work.outputs["seen"]) == "Sequence[float]"


def test_an_inner_loop_can_read_all_enclosing_scopes(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
params: {n: 3}
nodes:
  zero: {use: toy.number}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      base: {use: toy.add, in: {a: carry.x}}
      inner:
        loop: {over: params.n, as: j}
        carry: {y: base}
        body:
          a: {use: toy.add, in: {a: carry.x, b: carry.y}}
          b: {use: toy.add, in: {a: loop.i, b: loop.j}}
          c: {use: toy.total, in: {values: [a, b, base, zero, loop.index]}}
        next: {y: c}
    next: {x: inner.y}
outputs: {x: outer.x}
""",
    )
    a, b, c = (call(graph, f"outer.body.inner.body.{n}").inputs for n in "abc")
    assert a == {"a": Carry("outer", "x"), "b": Carry("outer.body.inner", "y")}
    assert b == {"a": Item("outer"), "b": Item("outer.body.inner")}
    values = c["values"]
    assert isinstance(values, Many)
    assert values.sources[2:] == (Output("outer.body.base", "out"), Output("zero", "out"), Index("outer.body.inner"))


@pytest.mark.parametrize(
    ("start", "following", "kind"),
    [
        ("toy.paint", "toy.look, in: {picture: carry.x}", to_port_type(Picture)),
        ("toy.paint", "toy.blur, in: {x: carry.x}", to_port_type(Tensor)),
        ("toy.play", "toy.look, in: {picture: other}", to_port_type(Tensor)),
        ("toy.count", "toy.add, in: {a: carry.x}", to_port_type(float)),
    ],
)
def test_a_carry_has_the_join_of_the_types_of_start_and_next(
    tmp_path: Path, start: str, following: str, kind: PortType
) -> None:
    graph = build_text(
        tmp_path,
        f"""
params: {{n: 2}}
nodes:
  start: {{use: {start}}}
  other: {{use: toy.paint}}
  work:
    loop: {{over: params.n, as: i}}
    carry: {{x: start}}
    body: {{after: {{use: {following}}}}}
    next: {{x: after}}
outputs: {{x: work.x}}
""",
    )
    assert loop(graph, "work").outputs["x"] == kind
    assert graph.outputs["x"].type == kind


def test_carry_types_converge_in_nested_loops(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
params: {n: 2}
nodes:
  start: {use: toy.paint}
  sound: {use: toy.play}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: start}
    body:
      inner:
        loop: {over: params.n, as: j}
        carry: {y: carry.x}
        body: {s: {use: toy.hear, in: {sound: sound}}}
        next: {y: s}
    next: {x: inner.y}
outputs: {x: outer.x}
""",
    )
    assert loop(graph, "outer.body.inner").outputs["y"] == to_port_type(Tensor)
    assert graph.outputs["x"].type == to_port_type(Tensor)


def test_start_and_next_of_a_carry_need_a_common_type(tmp_path: Path) -> None:
    text = LOOP.replace("next: {x: up,", "next: {x: word,").replace(
        "      up:", "      word: {use: toy.shout, with: {text: a}}\n      up:"
    )
    assert problems(tmp_path, text) == ["workflow.yaml:14:15 type-mismatch"]


def test_items_that_are_named_tuples_have_fields(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
nodes:
  data: {use: toy.batches}
  work:
    loop: {over: data, as: batch}
    body:
      whole: {use: toy.same, in: {x: loop.batch}}
      sound: {use: toy.hear, in: {sound: loop.batch.y}}
    collect: {sounds: sound, wholes: whole}
outputs: {sounds: work.sounds, wholes: work.wholes}
""",
    )
    assert call(graph, "work.body.whole").inputs == {"x": Item("work")}
    assert call(graph, "work.body.sound").inputs == {"sound": Item("work", "y")}
    assert call(graph, "work.body.sound").checks == ()
    assert graph.outputs["sounds"].type == to_port_type(Tensor)


def test_a_text_path_is_relative_to_the_file_that_contains_it(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    block = """guidegraph: 1
params: {file: own.txt, given: {type: path}}
nodes:
  own: {use: toy.read, in: {path: params.file}}
  given: {use: toy.read, in: {path: params.given}}
outputs: {own: own, given: given}
"""
    (tmp_path / "blocks" / "block.yaml").write_text(block)
    graph = build_text(
        tmp_path,
        """
params: {top: top.txt}
nodes:
  here: {use: toy.read, with: {path: sub/here.txt}}
  many: {use: toy.read_all, with: {paths: [a.txt, /b.txt]}}
  top: {use: toy.read, in: {path: params.top}}
  block: {use: blocks/block.yaml, with: {given: given.txt}}
  linked: {use: blocks/block.yaml, in: {given: params.top}}
outputs: {here: here, many: many, top: top, own: block.own, given: block.given, linked: linked.given}
""",
    )

    def path(key: str, name: str = "path") -> Any:
        return value(call(graph, key).settings[name])

    assert path("here") == tmp_path / "sub" / "here.txt"
    assert path("many", "paths") == [tmp_path / "a.txt", Path("/b.txt")]
    assert graph.params["top"].default == tmp_path / "top.txt"
    assert graph.params["top"].port.type == to_port_type(Path)
    assert path("block/own") == tmp_path / "blocks" / "own.txt"
    assert path("block/given") == tmp_path / "given.txt"
    assert path("linked/given") == Param("top")


def test_a_parameter_cannot_be_text_and_a_path(tmp_path: Path) -> None:
    text = """
params: {name: a.txt}
nodes:
  read: {use: toy.read, in: {path: params.name}}
  shout: {use: toy.shout, in: {text: params.name}}
outputs: {a: read, b: shout}
"""
    (problem,) = problems(tmp_path, text)
    assert problem.endswith(" type-mismatch")


def test_an_unknown_pkg_name_is_a_workflow_error(tmp_path: Path) -> None:
    text = "nodes: {a: {use: toy.read, with: {path: 'pkg:no-such-model'}}}\noutputs: {a: a}\n"
    assert problems(tmp_path, text) == ["workflow.yaml:2:41 bad-value"]


BLOCK = """
params: {a: {type: float}, by: 3.0, label: {default: null, type: str}}
nodes:
  first: {use: toy.scale, in: {a: params.a, by: params.by}}
  second: {use: toy.add, in: {a: first}}
outputs: {out: second, first: first, same: params.a}
"""


def test_a_sub_workflow_has_its_parameters_and_outputs_as_ports(tmp_path: Path) -> None:
    graph = build_text(
        tmp_path,
        """
nodes:
  n: {use: toy.number}
  block: {use: ./block.yaml, in: {a: n}, with: {by: 4}}
  again: {use: ./block.yaml, in: {a: block.out}}
  end: {use: toy.total, in: {values: [again.out, again.same, block.first]}}
outputs: {end: end}
""",
        block=BLOCK,
    )
    assert list(graph.ops) == ["n", "block/first", "block/second", "again/first", "again/second", "end"]
    assert values(call(graph, "block/first").inputs) == {"a": Output("n", "out")}
    assert values(call(graph, "block/first").settings) == {"by": 4.0}
    assert values(call(graph, "again/first").inputs) == {"a": Output("block/second", "out")}
    assert values(call(graph, "again/first").settings) == {"by": 3.0}
    assert call(graph, "end").inputs["values"] == Many(
        (Output("again/second", "out"), Output("block/second", "out"), Output("block/first", "out"))
    )
    assert Path(call(graph, "block/first").mark.file).name == "block.yaml"
    assert {Path(name).name for name in graph.sources} == {"workflow.yaml", "block.yaml"}


def test_a_sub_workflow_with_a_loop_can_be_used_in_a_loop(tmp_path: Path) -> None:
    inner = LOOP.replace("params: {n: 3}", "params: {n: 3, start: {type: float}}").replace(
        "x: zero,", "x: params.start,"
    )
    graph = build_text(
        tmp_path,
        """
params: {n: 2}
nodes:
  zero: {use: toy.number}
  outer:
    loop: {over: params.n, as: k}
    carry: {v: zero}
    body: {deep: {use: ./inner.yaml, in: {start: carry.v}, with: {n: 5}}}
    next: {v: deep.x}
    collect: {seen: deep.seen}
outputs: {v: outer.v, seen: outer.seen}
""",
        inner=inner,
    )
    outer = loop(graph, "outer")
    work = loop(graph, "outer.body.deep/work")
    assert list(outer.body) == ["outer.body.deep/zero", "outer.body.deep/step", "outer.body.deep/work"]
    assert value(work.over) == 5
    assert work.carry["x"] == Carry("outer", "v")
    assert outer.next == {"v": Output("outer.body.deep/work", "x")}


def test_a_sub_workflows_declared_types_are_checked_at_its_use(tmp_path: Path) -> None:
    block = "params: {x: {type: Picture}}\nnodes: {y: {use: toy.blur, in: {x: params.x}}}\noutputs: {out: y}\n"
    text = "nodes:\n  p: {use: NODE}\n  b: {use: ./block.yaml, in: {x: p}}\noutputs: {out: b}\n"
    assert call(build_text(tmp_path, text.replace("NODE", "toy.paint"), block=block), "b/y").checks == ()
    assert problems(tmp_path, text.replace("NODE", "toy.play"), block=block) == ["workflow.yaml:4:34 type-mismatch"]
    wide = (
        text.replace("NODE", "toy.paint")
        .replace("p: {", "q: {")
        .replace("  b:", "  p: {use: toy.blur, in: {x: q}}\n  b:")
    )
    checks = call(build_text(tmp_path, wide, block=block), "b/y").checks
    assert ("x", to_port_type(Picture)) in checks


def test_a_literal_for_a_sub_workflow_is_checked_against_every_port(tmp_path: Path) -> None:
    nodes = "nodes:\n  n: {use: toy.number}\n  b: {use: ./block.yaml, "
    text = nodes + "in: {a: n}, with: {by: -4}}\noutputs: {out: b.out}\n"
    assert problems(tmp_path, text, block=BLOCK) == ["workflow.yaml:4:49 bad-value"]
    deeper = "params: {by: 1.0}\n" + nodes + "in: {a: n, by: params.by}}\noutputs: {out: b.out}\n"
    text = "nodes:\n  c: {use: ./deeper.yaml, with: {by: -4}}\noutputs: {out: c}\n"
    assert problems(tmp_path, text, block=BLOCK, deeper=deeper) == ["workflow.yaml:3:38 bad-value"]


def test_a_default_is_checked_against_every_port_in_its_own_file(tmp_path: Path) -> None:
    text = "nodes:\n  n: {use: toy.number}\n  b: {use: ./block.yaml, in: {a: n}}\noutputs: {out: b.out}\n"
    block = BLOCK.replace("by: 3.0", "by: -3.0")
    assert problems(tmp_path, text, block=block) == ["block.yaml:3:32 bad-value"]


def test_an_invalid_sub_workflow_is_reported_once_in_its_own_file(tmp_path: Path) -> None:
    text = """
params: {n: 2}
nodes:
  zero: {use: toy.count}
  one: {use: ./block.yaml, in: {a: zero}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body: {two: {use: ./block.yaml, in: {a: carry.x}}}
    next: {x: two.out}
outputs: {a: one.out, b: work.x}
"""
    assert problems(tmp_path, text, block=BLOCK.replace("toy.add", "toy.ad")) == ["block.yaml:6:17 unknown-node"]


def test_a_syntax_error_of_a_sub_workflow_is_reported_in_its_own_file(tmp_path: Path) -> None:
    text = "nodes:\n  b: {use: ./block.yaml, with: {a: 1}}\n  c: {use: toy.add, in: {a: b.out}}\noutputs: {out: c}\n"
    assert problems(tmp_path, text, block="nodes: [") == ["block.yaml:3:1 yaml-syntax"]


def test_texts_can_replace_files(tmp_path: Path) -> None:
    text = "nodes:\n  n: {use: toy.number}\n  b: {use: ./block.yaml, in: {a: n}}\noutputs: {out: b.out}\n"
    graph = build_text(tmp_path, text, block=BLOCK)
    for name in ("workflow", "block"):
        (tmp_path / f"{name}.yaml").unlink()
    again = build(graph.file, REGISTRY, graph.sources)
    assert list(again.ops) == list(graph.ops)
    assert again.sources == graph.sources
    with pytest.raises(WorkflowError, match="no-file"):
        build(graph.file, REGISTRY)


def test_exponential_sub_workflows_are_refused_early(tmp_path: Path) -> None:
    files = {
        f"f{i}": "nodes:\n" + "".join(f"  n{k}: {{use: ./f{i + 1}.yaml}}\n" for k in range(9)) + "outputs: {out: n0}\n"
        for i in range(12)
    }
    files["f12"] = "nodes: {n: {use: toy.number}}\noutputs: {out: n}\n"
    reported = problems(tmp_path, "nodes: {n: {use: ./f0.yaml}}\noutputs: {out: n}\n", **files)
    assert any(p.endswith(" too-large") for p in reported)


TRAIN = """
params: {count: 100}
nodes:
  data: {use: toy.batches}
  start: {use: toy.model}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x}}}
    train:
      - {model: net, loss: loss, lr: 1e-3, ema: 0.99, betas: [0.9, 0.99], warmup: 10}
    steps: params.count
    precision: bf16
    checkpoint: {path: runs/fit, every: 20}
    collect: {loss: loss}
outputs: {net: fit.net, loss: fit.loss}
"""


def test_a_training_loop(tmp_path: Path) -> None:
    graph = build_text(tmp_path, TRAIN)
    fit = training_loop(graph, "fit")
    training = fit.training
    (net,) = training.models
    assert (net.model, net.loss, net.optimizer) == ("net", Output("fit.body.loss", "out"), "adamw")
    assert (net.lr, net.ema, net.start) == (1e-3, 0.99, 0)
    assert dict(net.options) == {"betas": [0.9, 0.99], "warmup": 10}
    assert training.steps == Param("count")
    assert training.checkpoint is not None
    assert value(training.checkpoint) == tmp_path / "runs" / "fit"
    assert (training.precision, training.every) == ("bf16", 20)
    assert fit.next == {}
    assert graph.outputs["net"].type == to_port_type(Model)
    literal = training_loop(build_text(tmp_path, TRAIN.replace("params.count", "250")), "fit")
    assert isinstance(literal.steps, Literal)
    assert literal.steps.value == 250
    assert training_loop(build_text(tmp_path, TRAIN.replace("    steps: params.count\n", "")), "fit").steps is None


@pytest.mark.parametrize("steps", ["-5", "2.5", "many", "[1]", "true"])
def test_training_steps_are_a_positive_number(tmp_path: Path, steps: str) -> None:
    assert len(problems(tmp_path, TRAIN.replace("params.count", steps))) == 1


CALLS_A_NODE = 350
"""A bound on the number of calls to read and check one node of a chain: 248 when this was written."""


def chain(n: int, backwards: bool = False) -> str:
    lines = ["  n0: {use: toy.number}", *(f"  n{i}: {{use: toy.add, in: {{a: n{i - 1}}}}}" for i in range(1, n))]
    return "\n".join(["nodes:", *(reversed(lines) if backwards else lines), f"outputs: {{out: n{n - 1}}}", ""])


@pytest.mark.parametrize(("count", "backwards"), [(10_000, False), (2_000, True)])
def test_a_chain_of_thousands_of_nodes_is_checked_without_recursion(
    tmp_path: Path, count: int, backwards: bool
) -> None:
    graph = build_text(tmp_path, chain(count, backwards))
    assert list(graph.ops)[:2] == ["n0", "n1"]
    assert list(graph.ops)[-1] == f"n{count - 1}"


@pytest.mark.parametrize("backwards", [False, True])
def test_the_work_of_checking_a_chain_is_linear(tmp_path: Path, backwards: bool) -> None:
    text = {count: chain(count, backwards) for count in (500, 1000)}
    assert growth(lambda count: build_text(tmp_path, text[count]), 500) < 2.2
    assert count_calls(lambda: build_text(tmp_path, text[1000])) / 1000 < CALLS_A_NODE


def test_the_work_of_reporting_thousands_of_errors_is_linear(tmp_path: Path) -> None:
    def report(count: int) -> None:
        assert len(problems(tmp_path, chain(count).replace("in: {a: n", "in: {a: m"))) == count - 1

    assert growth(report, 1_000) < 2.2


def test_a_cycle_of_thousands_of_nodes_is_reported_once(tmp_path: Path) -> None:
    text = chain(2_000).replace("n0: {use: toy.number}", "n0: {use: toy.add, in: {a: n1999}}")
    assert problems(tmp_path, text) == ["workflow.yaml:3:3 cycle"]


def test_a_workflow_has_its_files_name_and_met_requirements(tmp_path: Path) -> None:
    text = 'name: a\ndescription: "of no use"\nrequires: {guidegraph_toys: ">=1.1,<2"}\n'
    assert build_text(tmp_path, text + chain(2)).name == "workflow"


def test_sources_hash_and_compare(tmp_path: Path) -> None:
    """Plans use sources as keys."""
    sources: list[Source] = [Output("a", "x"), Param("a"), Carry("a", "x"), Item("a"), Item("a", "x"), Index("a")]
    assert len({*sources, *sources}) == len(sources)
