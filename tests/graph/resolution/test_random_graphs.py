"""Random graphs: what is right validates and runs as a naive interpreter says, and what `validate` passes has no wrong
link when it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.call import PortError
from guidegraph.graph.execution.run import RunOptions, run
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind import bind
from guidegraph.graph.resolution.load import build
from tests.random_graphs import RandomGraph, random_graph, sampler_graph, wild_graph
from tests.random_graphs.interpret import interpret, same

HERE = Path("/nowhere")
LONG = 1000
RIGHT = (*range(20), 47, 195, 311, 354, 443)
"""Seeds of right graphs; the last ones came out wrong once: as an error, or with another value."""
WILD = (*range(20), 69, 214, 216, 250, 255, 341, 385, 394)
"""Seeds of wild graphs; the last ones were passed once, and failed at a link."""


def built(graph: RandomGraph) -> tuple[Graph, dict[str, Any]]:
    """The validated graph, and values of its parameters. Raises ``WorkflowError``."""
    found = build(HERE / "workflow.yaml", graph.registry, graph.sources(HERE))
    return found, bind(found, graph.params)


def check_right(graph: RandomGraph) -> None:
    """A right graph gives the interpreter's values, with passes and without, and again from a cache."""
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
            assert same(found[name], value), f"seed {graph.seed}, {way}: output '{name}' of\n{graph.text}"


def validated(seeds: Iterable[int], misfits: bool) -> Iterator[tuple[int, NodeError | None]]:
    """The seeds of wild graphs that `validate` passes, and how each run failed."""
    for seed in seeds:
        graph = wild_graph(seed, misfits)
        try:
            plan, values = built(graph)
        except WorkflowError:
            continue
        try:
            run(plan, values)
            yield seed, None
        except NodeError as error:
            yield seed, error


@pytest.mark.parametrize("seed", RIGHT)
def test_a_right_graph_runs_as_the_interpreter_says(seed: int) -> None:
    check_right(random_graph(seed))


@pytest.mark.filterwarnings("ignore:.*the range that its model knows")
@pytest.mark.parametrize("seed", range(3))
def test_a_random_sampler_runs_as_the_interpreter_says(seed: int) -> None:
    check_right(sampler_graph(seed))


def test_what_validate_passes_has_no_wrong_link() -> None:
    failed = [f"seed {seed}: {error}" for seed, error in validated(WILD, misfits=False) if error]
    assert not failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_random_sampler_is_exportable() -> None:
    pytest.importorskip("onnxscript")
    from guidegraph.graph.export.workflow import export_workflow

    for seed in range(3):
        graph = sampler_graph(seed)
        assert graph.exportable
        assert export_workflow(*built(graph)).parts


@pytest.mark.slow
def test_a_thousand_right_graphs_run_as_the_interpreter_says() -> None:
    for seed in range(LONG):
        check_right(random_graph(seed))
    print(f"{LONG} right graphs: each as the interpreter says, in four ways")  # noqa: T201


@pytest.mark.slow
def test_a_thousand_graphs_that_validate_passes_have_no_wrong_link() -> None:
    runs = islice(validated(count(), misfits=False), LONG)
    failed = [f"seed {seed}: {error}" for seed, error in runs if error]
    print(f"{LONG} graphs that validate passes: {len(failed)} fail")  # noqa: T201
    assert not failed


@pytest.mark.slow
def test_values_that_do_not_fit_are_told_at_their_link() -> None:
    """Where the rule leaves it to the value, a misfit never reaches a node: the port tells."""
    runs = islice(validated(count(), misfits=True), LONG)
    found = Counter(type(error.cause).__name__ if error else "none" for _, error in runs)
    print(f"{LONG} graphs with values that may not fit: {dict(found)}")  # noqa: T201
    assert found.keys() <= {"none", PortError.__name__}
