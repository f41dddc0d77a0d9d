"""Several runs of a workflow with parameters of their own, which share the calls of its networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.execution.result import RunResult
from guidegraph.graph.ir import Graph
from guidegraph.graph.shared_runs.shared_calls import SharedCalls, find_unshared
from guidegraph.graph.shared_runs.turns import Task, Turns

RunOne: TypeAlias = Callable[[int, Graph, CancelToken], RunResult]
"""Runs a graph with the parameters of a run, by its number from 0, until a token is set."""


@dataclass(frozen=True)
class ManyRuns:
    """The results of several runs, in the order of their parameters.

    calls: how many calls of batchable nodes were made. calls_alone: how many the runs would have made one by one.
    unshared: the nodes of which some calls were not shared, by path, with the reason; empty if all were.
    """

    results: Sequence[RunResult]
    calls: int
    calls_alone: int
    unshared: Mapping[str, str]


def run_together(graph: Graph, count: int, run_one: RunOne, at_once: int) -> ManyRuns:
    """Run a graph several times. An error of a run has a note with its number, and ends the others."""
    calls, cancel = SharedCalls(), CancelToken()

    def make_task(i: int) -> Callable[[Task], RunResult]:
        def run(task: Task) -> RunResult:
            with note_number(i, count):
                return run_one(i, calls.share(graph, task), cancel)

        return run

    turns = Turns([make_task(i) for i in range(count)], at_once)
    try:
        turns.run(calls.serve)
    except BaseException:
        cancel.cancel()  # for a run that computes, as at Ctrl-C
        raise
    unshared = dict(find_unshared(graph)) | calls.unshared
    return ManyRuns([task.result for task in turns.tasks], calls.made, calls.requested, unshared)


def run_one_by_one(graph: Graph, count: int, run_one: RunOne, reason: str) -> ManyRuns:
    """Run a graph several times, without shared calls, for a reason."""
    results = []
    for i in range(count):
        with note_number(i, count):
            results.append(run_one(i, graph, CancelToken()))
    return ManyRuns(results, 0, 0, {"nodes": reason})


@contextmanager
def note_number(i: int, count: int) -> Iterator[None]:
    """Add the number of the run to an error of the block."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in run {i + 1} of {count}")
        raise
