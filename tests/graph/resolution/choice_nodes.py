"""Nodes that record which of them ran, for the tests of choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from guidegraph import Tensor, hookimpl, node
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from tests.graph import engine_nodes
from tests.graph.running import run_graph

ran: list[str] = []


@node("pick.mark")
def mark(a: float = 0.0, *, name: str, plus: float = 0.0) -> float:
    """a plus a number; records its name in ``ran``."""
    ran.append(name)
    return a + plus


@node("pick.effect", pure=False)
def effect(a: float, *, name: str) -> float:
    """a; records its name in ``ran``, in place of an effect such as writing a file."""
    ran.append(name)
    return a


@node("pick.size")
def size(a: float) -> str:
    """`big` above 2, else `small`."""
    ran.append("size")
    return "big" if a > 2 else "small"


@node("pick.above")
def above(a: float, *, bound: float = 2.0) -> bool:
    """Whether a is above a bound."""
    return a > bound


@node("pick.above_as_tensor")
def above_as_tensor(a: float) -> Tensor:
    """Whether a is above 2, as a tensor of one element."""
    return torch.tensor([a > 2])


class Levels(Tensor):
    """Noise levels: (B), float32."""

    axes = ("B",)


class Counts(Tensor):
    """Numbers of things: (B), int64."""

    axes = ("B",)
    integer = True


@node("pick.levels")
def levels(a: float) -> Levels:
    """a as a tensor of one float."""
    return torch.tensor([a])


@node("pick.counts")
def counts(a: float) -> Counts:
    """a, cut to a whole number, as a tensor of one."""
    return torch.tensor([int(a)])


@node("pick.scale")
def scale(a: float) -> float | Tensor:
    """a as a number or a tensor."""
    return a


@node("pick.weigh")
def weigh(model: Any, x: Tensor, y: Tensor, *, by: float, name: str) -> Tensor:
    """The weighted squared error of a model; records its name in ``ran``."""
    ran.append(name)
    result: torch.Tensor = by * (model(x) - y).square().mean()
    return result


NODES = (mark, effect, size, above, above_as_tensor, levels, counts, scale, weigh)

REGISTRY = Registry({**engine_nodes.REGISTRY.nodes, **{get_spec(f).id: get_spec(f) for f in NODES}})


def build_graph(text: str, folder: Path) -> Graph:
    """Build a workflow from its text, without the line ``guidegraph: 1``."""
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    return build(path, REGISTRY)


def run_choice(text: str, folder: Path, values: dict[str, Any] | None = None, **options: Any) -> RunResult:
    """Run a workflow from its text; ``ran`` then has the names of the nodes that ran."""
    ran.clear()
    graph = build_graph(text, folder)
    return run_graph(graph, bind(graph, values or {}), **options)


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    """The nodes, for ``--plugin tests.graph.resolution.choice_nodes``."""
    return NODES
