"""Random graphs: valid ones run like a naive interpreter, and those that ``validate`` passes have valid links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.execution.run import run
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from tests.random_graphs import RandomGraph, random_graph, wild_graph
from tests.random_graphs.interpret import interpret, same


def try_graphs(count: int, folder: Path, say: Callable[[str], object]) -> Counter[str]:
    """Run valid graphs, and random ones that ``validate`` passes; return how the runs ended."""
    ends: Counter[str] = Counter()
    for seed in range(count):
        graph = random_graph(seed)
        end = _run(graph, folder)
        if end:
            say(f"right graph {seed}: {end}")
        ends["right: " + (end.partition(":")[0] or "ran")] += 1
    seed, passed = -1, 0
    while passed < count:
        seed += 1
        graph = wild_graph(seed)
        try:
            plan = build(folder / "workflow.yaml", graph.registry, graph.sources(folder))
            values = bind(plan, graph.params)
        except WorkflowError:
            ends["refused by validate: ran"] += 1
            continue
        passed += 1
        try:
            run(plan, values)
        except NodeError as error:
            say(f"graph {seed}: {error}")
            ends[f"validated: {type(error.cause).__name__}"] += 1
            continue
        ends["validated: ran"] += 1
    return ends


def _run(graph: RandomGraph, folder: Path) -> str:
    """Describe how the run of a valid graph differs from the interpreter's; empty if it does not."""
    try:
        plan = build(folder / "workflow.yaml", graph.registry, graph.sources(folder))
        outputs = run(plan, bind(plan, graph.params)).outputs
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    expected = interpret(graph)
    if outputs.keys() != expected.keys():
        return "other outputs"
    differing = [name for name, value in expected.items() if not same(outputs[name], value)]
    return f"another value: {differing}" if differing else ""
