"""Random graphs: valid ones give the results of a naive interpreter; any that `validate` accepts has no wrong link."""

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
from guidegraph.graph.execution.run import run
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from tests.graph.running import run_graph
from tests.random_graphs import RandomGraph, random_graph, sampler_graph, wild_graph
from tests.random_graphs.interpret import NegativeCount, interpret, same

FOLDER = Path("/nowhere")
LONG = 1000
VALID = (*range(20), 47, 195, 311, 354, 443)
"""Seeds of valid graphs; the last ones once failed or gave another value."""
WILD = (*range(20), 69, 214, 216, 250, 255, 341, 385, 394)
"""Seeds of wild graphs; the last ones were once accepted and then failed at a link."""


def build_random(graph: RandomGraph) -> tuple[Graph, dict[str, Any]]:
    """The validated graph, and values of its parameters. Raises ``WorkflowError``."""
    validated = build(FOLDER / "workflow.yaml", graph.registry, graph.sources(FOLDER))
    return validated, bind(validated, graph.params)


def check_outputs(graph: RandomGraph) -> None:
    """Assert that a graph gives the interpreter's values with passes, without, and from a cache."""
    try:
        expected = interpret(graph)
    except NegativeCount:
        return
    plan, values = build_random(graph)
    cache = MemoryCache()
    variants: dict[str, dict[str, Any]] = {
        "all passes": {"memory": cache},
        "from the cache": {"memory": cache},
        "no passes": {"passes": ()},
        "no pass but batch": {"passes": ("prune", "batch")},
    }
    for variant, options in variants.items():
        outputs = run_graph(plan, values, **options).outputs
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            assert same(outputs[name], value), f"seed {graph.seed}, {variant}: output '{name}' of\n{graph.text}"


def run_accepted(seeds: Iterable[int], misfits: bool) -> Iterator[tuple[int, NodeError | None]]:
    """Run the wild graphs that `validate` accepts; yields each seed and the error of its run, or None."""
    for seed in seeds:
        graph = wild_graph(seed, misfits)
        try:
            plan, values = build_random(graph)
        except WorkflowError:
            continue
        try:
            run(plan, values)
            yield seed, None
        except NodeError as error:
            if "a loop takes 0 or more iterations; found -" not in str(error):  # it is known in the run alone
                yield seed, error


@pytest.mark.parametrize("seed", VALID)
def test_a_valid_graph_gives_the_interpreters_outputs(seed: int) -> None:
    check_outputs(random_graph(seed))


@pytest.mark.filterwarnings("ignore:.*the range that its model knows")
@pytest.mark.parametrize("seed", range(3))
def test_a_random_sampler_gives_the_interpreters_outputs(seed: int) -> None:
    check_outputs(sampler_graph(seed))


def test_accepted_graphs_have_no_wrong_link() -> None:
    failed = [f"seed {seed}: {error}" for seed, error in run_accepted(WILD, misfits=False) if error]
    assert not failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_random_sampler_is_exportable() -> None:
    pytest.importorskip("onnxscript")
    from guidegraph.graph.export.workflow import export_workflow

    for seed in range(3):
        graph = sampler_graph(seed)
        assert graph.exportable
        assert export_workflow(*build_random(graph)).parts


@pytest.mark.slow
def test_a_thousand_valid_graphs_give_the_interpreters_outputs() -> None:
    for seed in range(LONG):
        check_outputs(random_graph(seed))
    print(f"{LONG} valid graphs give the interpreter's outputs, in four variants")  # noqa: T201


@pytest.mark.slow
def test_a_thousand_accepted_graphs_have_no_wrong_link() -> None:
    runs = islice(run_accepted(count(), misfits=False), LONG)
    failed = [f"seed {seed}: {error}" for seed, error in runs if error]
    print(f"{LONG} graphs that validate accepts: {len(failed)} fail")  # noqa: T201
    assert not failed


@pytest.mark.slow
def test_values_that_do_not_fit_are_reported_at_the_port() -> None:
    """If a link is checked by value, the port reports a misfit before the node is called."""
    runs = islice(run_accepted(count(), misfits=True), LONG)
    counts = Counter(type(error.cause).__name__ if error else "none" for _, error in runs)
    print(f"{LONG} graphs with values that may not fit: {dict(counts)}")  # noqa: T201
    assert counts.keys() <= {"none", PortError.__name__}
