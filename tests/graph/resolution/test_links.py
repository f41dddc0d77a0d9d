"""Links that `validate` accepts are valid, or are checked at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.execution.run import run
from guidegraph.graph.ir import Call, Graph, walk
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.resolution.load import build
from guidegraph.nodes.types import Image, Sample
from tests.random_graphs.generate import registry

FOLDER = Path("/nowhere")
BLOCK = """guidegraph: 1
params: {x: {type: Any}}
nodes: {inside: {use: rand.brighten, in: {x: params.x}}}
outputs: {x: inside}
"""


@node("odd.flat")
def flat(*, seed: int = 0) -> Image:
    """A picture that has lost its batch axis."""
    return torch.zeros(3, 4, 4)


@node("odd.nothing")
def nothing(x: Sample, *, give: bool = False) -> Sample:
    """A sample, or None."""
    return x if give else None


@node("odd.scalar")
def scalar() -> Any:
    """A tensor without axes."""
    return torch.tensor(1.0)


def make_registry() -> Registry:
    base = registry()
    return Registry({**base.nodes, **{get_spec(f).id: get_spec(f) for f in (flat, nothing, scalar)}}, base.types)


def build_text(text: str) -> Graph:
    sources = {str(FOLDER / "w.yaml"): f"guidegraph: 1\n{text}", str(FOLDER / "block.yaml"): BLOCK}
    return build(FOLDER / "w.yaml", make_registry(), sources)


def run_text(text: str) -> dict[str, Any]:
    graph = build_text(text)
    return run(graph, bind(graph, {})).outputs


def make_workflow(*lines: str, output: str = "x: end") -> str:
    return "nodes:\n" + "".join(f"  {line}\n" for line in lines) + f"outputs: {{{output}}}\n"


def make_loop(over: str, body: str, more: str = "") -> str:
    return f"work: {{loop: {{over: {over}, as: i}}, body: {{{body}}}{more}}}"


REFUSED = {
    "an alternative of a union": (
        make_workflow("a: {use: rand.int_or_word}", "end: {use: rand.floor, in: {a: a}}"),
        "'a' gives int | str, port 'a' takes float",
    ),
    "None": (
        make_workflow("a: {use: rand.maybe_int}", "end: {use: rand.floor, in: {a: a}}"),
        "'a' gives int | None, port 'a' takes float, and never None",
    ),
    "elements": (
        make_workflow("a: {use: rand.ints_and_words}", "end: {use: rand.total, in: {values: a}}"),
        "'a' gives Sequence[int | str], port 'values' takes Sequence[float]",
    ),
    "collected values": (
        make_workflow(
            "n: {use: rand.int}",
            make_loop("n", "p: {use: rand.prediction}", ", collect: {p: p}"),
            "end: {use: rand.join, in: {parts: work.p}}",
        ),
        "'work.p' gives Prediction, port 'parts' takes Sequence[str]",
    ),
    "a row of pictures": (
        make_workflow(
            "a: {use: rand.image}",
            make_loop("a", "b: {use: rand.brighten, in: {x: loop.i}}", ", collect: {b: b}"),
            output="x: work.b",
        ),
        "'loop.i' is Tensor (3, H, W) here, port 'x' takes Image",
    ),
    "a stack of pictures": (
        make_workflow(
            "a: {use: rand.image}",
            make_loop("a", "b: {use: rand.image}", ", collect: {b: b}"),
            "end: {use: rand.brighten, in: {x: work.b}}",
        ),
        "'work.b' is Tensor (R, B, 3, H, W) here, port 'x' takes Image",
    ),
    "through a block": (
        make_workflow("a: {use: rand.int}", "end: {use: ./block.yaml, in: {x: a}}", output="x: end.x"),
        "'params.x' is int here, port 'x' takes Image",
    ),
    "a loop over a value that may not be iterable": (
        make_workflow("a: {use: rand.int_or_word}", make_loop("a", "b: {use: rand.int}"), "end: {use: rand.int}"),
        "a loop runs over a sequence, a tensor or a number of iterations, 'a' gives int | str",
    ),
    "a carry of a boolean and a number": (
        make_workflow(
            "a: {use: rand.bool}",
            "n: {use: rand.int}",
            make_loop("n", "b: {use: rand.int}", ", carry: {c: a}, next: {c: b}"),
            output="x: work.c",
        ),
        "the carry 'c' starts as bool, 'b' gives int",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_link_with_an_alternative_that_never_fits_is_refused(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(WorkflowError) as caught:
        build_text(text)
    assert message in str(caught.value)


CLASH = """nodes:
  n: {use: rand.int}
  start: {use: rand.int}
  outer:
    loop: {over: n, as: i}
    carry: {x: start}
    body:
      picture: {use: rand.mask}
      words: {use: rand.floats}
      inner:
        loop: {over: n, as: j}
        carry: {y: words}
        body: {b: {use: rand.add, in: {a: carry.x}}}
        next: {y: picture}
    next: {x: inner.y}
outputs: {x: outer.x}
"""


def test_a_clashing_carry_in_an_inner_loop_is_refused() -> None:
    """It can widen the outer carry to any type, so the inner body is resolved again."""
    with pytest.raises(WorkflowError, match=r"the carry 'y' starts as Sequence\[float\], 'picture' gives Mask"):
        build_text(CLASH)


def test_a_parameter_for_a_port_without_literals_is_checked_before_the_run() -> None:
    text = "params: {p: {default: 4, type: int | None}}\n" + make_workflow(
        "m: {use: rand.linear}", "end: {use: rand.twice, in: {model: m, other: params.p}}"
    )
    with pytest.raises(WorkflowError, match=r"port 'other' of rand.twice .*: expected Affine \| None, found int 4"):
        build_text(text)


def find_checks(text: str) -> dict[str, tuple[Any, ...]]:
    return {op.key: op.checks for op in walk(build_text(text).ops) if isinstance(op, Call)}


def test_a_type_variable_is_bound_to_the_type_of_the_link() -> None:
    text = make_workflow(
        "a: {use: rand.latent}",
        "clock: {use: metric.start_clock, in: {value: a}}",
        "end: {use: rand.decode, in: {z: clock.value}}",
    )
    assert find_checks(text)["end"] == ()
    with pytest.raises(WorkflowError, match=r"'clock.value' gives Latent, port 'x' takes Image"):
        build_text(text.replace("rand.decode, in: {z:", "rand.brighten, in: {x:"))
    assert make_registry().nodes["lora.apply"].same_type == {"text": ("text",)}


def test_a_row_of_timesteps_needs_no_check() -> None:
    text = make_workflow(
        "t: {use: rand.times}",
        "z: {use: rand.latent}",
        make_loop("t", "p: {use: rand.predict, in: {x: z, t: loop.i}}", ", collect: {p: p}"),
        output="p: work.p",
    )
    assert find_checks(text)["work.body.p"] == ()
    assert run_text(text)["p"].value.shape == (3, 2, 4, 4, 4)


def test_items_are_checked_if_the_type_does_not_guarantee_them() -> None:
    text = make_workflow("a: {use: rand.anything, with: {kind: list}}", "end: {use: rand.join, in: {parts: a}}")
    with pytest.raises(NodeError, match=r"port 'parts': expected Sequence\[str\], found list"):
        run_text(text)


def test_tensors_collected_over_no_iterations_are_an_empty_tensor() -> None:
    text = make_workflow(
        "n: {use: rand.int, with: {value: 0}}",
        make_loop("n", "b: {use: rand.image}", ", collect: {b: b}"),
        "end: {use: rand.mean, in: {x: work.b}}",
    )
    assert run_text(text)["x"] == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            make_workflow("end: {use: odd.flat}"),
            r"odd.flat.*output 'out': expected Image, found a tensor of shape \(3, 4, 4\)",
        ),
        (
            make_workflow("a: {use: rand.image}", "end: {use: odd.nothing, in: {x: a}}"),
            "output 'out': expected Sample, found None",
        ),
        (
            make_workflow(
                "a: {use: rand.anything}", "x: {use: rand.image}", "end: {use: rand.apply, in: {model: a, x: x}}"
            ),
            "port 'model': expected Affine, found int 4",
        ),
        (
            make_workflow(
                "a: {use: odd.scalar}", make_loop("a", "b: {use: rand.int}", ", collect: {b: b}"), output="x: work.b"
            ),
            "a loop runs over a sequence or a tensor with an axis; found a tensor of shape ()",
        ),
        (
            make_workflow(
                "a: {use: rand.anything, with: {kind: list}}",
                make_loop("a", "b: {use: rand.same, in: {x: loop.i.name}}", ", collect: {b: b}"),
                output="x: work.b",
            ),
            "an item has no field 'name'; found float 1.5",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_reported_with_its_node(text: str, message: str) -> None:
    with pytest.raises(NodeError, match=message.replace("shape ()", r"shape \(\)")):
        run_text(text)
