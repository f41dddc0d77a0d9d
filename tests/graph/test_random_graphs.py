"""Random graphs: what is right validates and runs as a naive interpreter says, and what `validate` passes has no wrong
link when it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.bind import bind
from guidegraph.graph.build import build
from guidegraph.graph.cache import MemoryCache
from guidegraph.graph.call import PortError
from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.run import RunOptions, run
from tests.random_graphs import RandomGraph, random_graph, wild_graph
from tests.random_graphs.interpret import interpret, same

HERE = Path("/nowhere")
SHORT, LONG = 30, 1000


def built(graph: RandomGraph) -> tuple[Graph, dict[str, Any]]:
    """The validated graph, and values of its parameters. Raises ``WorkflowError``."""
    found = build(HERE / "workflow.yaml", graph.registry, graph.sources(HERE))
    return found, bind(found, graph.params)


def check_right(seed: int) -> None:
    """A right graph gives the interpreter's values, with passes and without, and again from a cache."""
    graph = random_graph(seed)
    expected = interpret(graph)
    plan, values = built(graph)
    cache = MemoryCache()
    ways: dict[str, dict[str, Any]] = {
        "all passes": {"memory": cache},
        "from the cache": {"memory": cache},
        "no passes": {"passes": ()},
        "no pass but batch": {"passes": ("prune", "batch")},
    }
    for way, options in ways.items():
        found = run(plan, values, RunOptions(**options)).outputs
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert same(found[name], value), f"seed {seed}, {way}: output '{name}' of\n{graph.text}"


def validated(count: int, misfits: bool) -> Iterator[tuple[int, NodeError | None]]:
    """The seeds of wild graphs that `validate` passes, and how each run failed."""
    seed = -1
    while count:
        seed += 1
        graph = wild_graph(seed, misfits)
        try:
            plan, values = built(graph)
        except WorkflowError:
            continue
        count -= 1
        try:
            run(plan, values)
            yield seed, None
        except NodeError as error:
            yield seed, error


@pytest.mark.parametrize("seed", range(SHORT))
def test_a_right_graph_runs_as_the_interpreter_says(seed: int) -> None:
    check_right(seed)


def test_what_validate_passes_has_no_wrong_link() -> None:
    failed = [f"seed {seed}: {error}" for seed, error in validated(SHORT, misfits=False) if error]
    assert not failed


@pytest.mark.slow
def test_a_thousand_right_graphs_run_as_the_interpreter_says() -> None:
    for seed in range(LONG):
        check_right(seed)
    print(f"{LONG} right graphs: each as the interpreter says, in four ways")  # noqa: T201


@pytest.mark.slow
def test_a_thousand_graphs_that_validate_passes_have_no_wrong_link() -> None:
    failed = [f"seed {seed}: {error}" for seed, error in validated(LONG, misfits=False) if error]
    print(f"{LONG} graphs that validate passes: {len(failed)} fail")  # noqa: T201
    assert not failed


@pytest.mark.slow
def test_values_that_do_not_fit_are_told_at_their_link() -> None:
    """Where the rule leaves it to the value, a misfit never reaches a node: the port tells."""
    found = Counter(type(error.cause).__name__ if error else "none" for _, error in validated(LONG, misfits=True))
    print(f"{LONG} graphs with values that may not fit: {dict(found)}")  # noqa: T201
    assert found.keys() <= {"none", PortError.__name__}
