"""For any file, the loader returns a graph or raises ``WorkflowError``."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph, Loop, walk
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Output
from guidegraph.plugins.manager import default_registry
from tests.graph import toys
from tests.paths import ROOT

WORKFLOW = Path("/nowhere/workflow.yaml")
BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

SHIPPED = (ROOT / "workflows" / "text_to_image.yaml").read_text()
TOYS = """guidegraph: 1
requires: {guidegraph-toys: ">=1"}
params:
  n: {default: 3, type: int, help: "how often"}
  by: 2.0
  file: a.txt
nodes:
  zero: {use: toy.number, with: {value: 1e-4}}
  text: {use: toy.read, in: {path: params.file}}
  block: {use: ./block.yaml, in: {a: zero, by: params.by}}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      inner:
        loop: {over: params.n, as: j}
        carry: {y: carry.x}
        body:
          up: {use: toy.add, in: {a: carry.y, b: loop.index}}
          both: {use: toy.total, in: {values: [up, loop.i, block.out]}}
        next: {y: both}
        collect: {seen: up}
    next: {x: inner.y}
    collect: {all: inner.seen}
  data: {use: toy.batches}
  start: {use: toy.model}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x}}}
    train: [{model: net, loss: loss, lr: 1e-3, betas: [0.9, 0.99]}]
    steps: params.n
    checkpoint: {path: runs/fit, every: 20}
outputs: {x: outer.x, all: outer.all, text: text, net: fit.net}
"""
BLOCK = """guidegraph: 1
params: {a: {type: float}, by: 3.0}
nodes: {out: {use: toy.scale, in: {a: params.a, by: params.by}}}
outputs: {out: out}
"""

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def built_in() -> Registry:
    return default_registry(entry_points=False)


def build_or_none(text: str, registry: Registry, block: str = BLOCK) -> Graph | None:
    """Build a workflow from its text; None if it is refused, with problems in order and at positions in the text."""
    sources = {str(WORKFLOW): text, str(WORKFLOW.with_name("block.yaml")): block}
    lines = {Path(name).name: len(BREAK.split(content)) for name, content in sources.items()}
    problems: list[Problem] = []
    try:
        graph = build(WORKFLOW, registry, sources)
    except WorkflowError as error:
        problems = error.problems
    if not problems:
        check_sources(graph)
        assert bind_codes(graph) <= {"missing-param"}
        return graph
    assert problems == sorted(problems)
    for problem in problems:
        assert 1 <= problem.mark.line <= lines[Path(problem.mark.file).name] + 1
        assert problem.mark.column >= 1
        assert problem.code
        assert len(problem.message) < 5000
    return None


def bind_codes(graph: Graph) -> set[str]:
    """Bind a graph without values; returns the codes of the problems."""
    try:
        bind(graph, {})
    except WorkflowError as error:
        return {problem.code for problem in error.problems}
    return set()


def check_sources(graph: Graph) -> None:
    """Assert that every source of a graph exists."""
    outputs = {Output(op.key, name) for op in walk(graph.ops) for name in op.outputs}
    for op in walk(graph.ops):
        sources = [*op.sources(), *(op.block.sources() if isinstance(op, Loop) else ())]
        assert all(s in outputs for s in sources if isinstance(s, Output))
    assert all(o.source in outputs for o in graph.outputs.values() if isinstance(o.source, Output))


def test_the_workflows_to_mutate_are_valid(built_in: Registry) -> None:
    assert build_or_none(TOYS, toys.REGISTRY) is not None
    assert build_or_none(SHIPPED, built_in) is not None


@quick
@given(st.text())
def test_random_text(text: str) -> None:
    build_or_none(text, toys.REGISTRY)


@quick
@given(st.text(alphabet="ab:-[]{},?&*!|>'\"#%@` \n\t\r\0\ufeff.0~<=é\u2028", max_size=80))
def test_random_punctuation(text: str) -> None:
    build_or_none(text, toys.REGISTRY)
    build_or_none(TOYS.replace("1e-4", text), toys.REGISTRY)
    build_or_none(TOYS, toys.REGISTRY, block=text)


KEYS = [
    "guidegraph", "requires", "params", "nodes", "outputs", "use", "in", "with", "loop", "over", "as", "carry", "body",
    "next", "collect", "train", "steps", "checkpoint", "path", "model", "loss", "default", "type", "help", "a", "b",
    "x", "value", "lr", "",
]  # fmt: skip
VALUES = [
    1, 0, -1, 2.5, True, None, "a", "b", "x", "a.out", "a.b", "params.a", "params.x", "carry.x", "loop.a", "loop.index",
    "params", "toy.number", "toy.add", "toy.total", "toy.look", "toy.read", "./block.yaml", "workflow.yaml", "int",
    "Picture", "int | None", ">=1", "1e999", float("nan"), float("inf"), 10**400, "pkg:x", "~x/y", "a\0b", "é",
]  # fmt: skip

structures = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
nodes = st.dictionaries(st.sampled_from(["a", "b", "x", "params"]), structures, max_size=4)


@quick
@given(structures)
def test_random_structures(structure: Any) -> None:
    build_or_none(yaml.safe_dump(structure), toys.REGISTRY)


@quick
@given(nodes, structures, structures, structures)
def test_random_workflows(first_nodes: Any, params: Any, links: Any, loop: Any) -> None:
    body = {"a": {"use": "toy.add", "in": links}, **(loop if isinstance(loop, dict) else {})}
    work = {"loop": {"over": "params.a", "as": "x"}, "carry": {"x": "b"}, "body": body, "next": {"x": "a"}}
    workflow = {"guidegraph": 1, "params": params, "nodes": {**first_nodes, "work": work}, "outputs": {"o": "work.x"}}
    build_or_none(yaml.safe_dump(workflow), toys.REGISTRY)


def mutate(text: str, rng: random.Random) -> str:
    """Delete, repeat or exchange a few lines or words of a text."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(7)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(j, lines[i])
        elif kind == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = " " * rng.randint(0, 8) + lines[i].lstrip()
        else:
            words = list(find_tokens(text))
            start, end = rng.choice(words)
            a, b = rng.choice(words)
            replacement = rng.choice(
                [text[a:b], "", *map(str, VALUES), "&a", "*a", "<<", "!t", "[", "}", "- ", ":", "\t"]
            )
            text = text[:start] + replacement + text[end:]
            continue
        text = "\n".join(lines)
    return text


def find_tokens(text: str) -> Iterator[tuple[int, int]]:
    """The start and end of each word and punctuation mark."""
    start = 0
    for i, character in enumerate(text + " "):
        if not (character.isalnum() or character in "_.-/"):
            if i > start:
                yield start, i
            start = i + 1
            if not character.isspace():
                yield i, i + 1


@pytest.mark.parametrize("seed", range(6))
def test_mutations_of_a_valid_workflow(seed: int, built_in: Registry) -> None:
    rng = random.Random(seed)
    accepted = 0
    for _ in range(100):
        accepted += build_or_none(mutate(TOYS, rng), toys.REGISTRY) is not None
        build_or_none(TOYS, toys.REGISTRY, block=mutate(BLOCK, rng))
        build_or_none(mutate(SHIPPED, rng), built_in)
    assert accepted < 60
