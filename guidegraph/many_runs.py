"""Several runs of a workflow with parameters of their own, which share the calls of its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.execution.result import RunResult
from guidegraph.graph.shared_runs.shared_calls import SharedCalls, find_unshared
from guidegraph.graph.shared_runs.turns import Task, Turns

if TYPE_CHECKING:
    from guidegraph.workflow import Workflow

AT_ONCE = 16
"""The most runs that are begun and not ended, and so the most that share a call."""


@dataclass(frozen=True)
class ManyRuns:
    """The results of several runs, in the order of their parameters.

    calls: how many calls of batchable nodes were made. calls_alone: how many the runs would have made one by one.
    apart: the nodes of which some calls were not shared, by path, with the reason; empty if all were.
    """

    results: Sequence[RunResult]
    calls: int
    calls_alone: int
    apart: Mapping[str, str]


def run_many(workflow: Workflow, requests: Sequence[Mapping[str, object]], at_once: int = AT_ONCE) -> ManyRuns:
    """Run a workflow once for each set of parameters. Raises the same errors as ``Workflow.run_with``.

    All parameters are checked before anything runs. An error of a run has a note with its number, and ends the others.
    """
    if at_once < 1:
        raise ValueError(f"at least one run is made at once; found {at_once}")
    for i, params in enumerate(requests):
        _run_noted(i, len(requests), lambda params=params: workflow.bind(params))
    if workflow.config.accelerate:
        reason = f"parts of loops are accelerated ({workflow.config.accelerate}), and each run has its own"
        results = [_run_noted(i, len(requests), lambda p=p: workflow.run_with(p)) for i, p in enumerate(requests)]
        return ManyRuns(results, 0, 0, {"nodes": reason})
    calls, cancel = SharedCalls(), CancelToken()

    def start(i: int) -> Any:
        def run(task: Task) -> RunResult:
            shared = workflow.with_graph(calls.share(workflow.graph, task))
            result: RunResult = _run_noted(i, len(requests), lambda: shared.run_with(requests[i], cancel=cancel))
            return result

        return run

    turns = Turns([start(i) for i in range(len(requests))], at_once)
    turns.run(calls.serve)
    apart = dict(find_unshared(workflow.graph)) | calls.apart
    return ManyRuns([task.result for task in turns.tasks], calls.made, calls.wanted, apart)


def _run_noted(i: int, count: int, action: Any) -> Any:
    """The result of an action of run i. Its error gets a note with the number of the run."""
    try:
        return action()
    except Exception as error:
        error.add_note(f"in run {i + 1} of {count}")
        raise
