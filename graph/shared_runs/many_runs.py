"""Several runs of a workflow with parameters of their own, which share the calls of its networks.

Calls of batchable nodes in several runs as one call: each run waits at such a call until all others wait or end.

This is the batch pass (``guidegraph.graph.planning.batch``) across runs: calls of one node join along the batch if they
have the same model and settings, and arguments that differ in their samples alone.

Several tasks that take turns: one runs at a time, until it waits for the others or ends.

Each task has a thread of its own, since it is an ordinary run that stops in the middle of a node. No two of them ever
run at the same moment, so they need no more care of shared state than runs one after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, TypeAlias

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled
from guidegraph.graph.execution.call import Arguments, Sizes, call_as_batch
from guidegraph.graph.execution.run_record import RunResult
from guidegraph.graph.ir import Call, Graph, Op, walk
from guidegraph.graph.port import port_kinds
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.leaves import flatten


class Task:
    """A task with a thread. function: called with the task. request: set by the task while it waits.

    result, error: of the function, once it has ended.
    """

    def __init__(self, index: int, function: Callable[[Task], Any], turns: Turns) -> None:
        self.index, self.request = index, None
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._function, self._turns = function, turns
        self._order: Callable[[], None] | None = None
        self._aborted = False
        self._go = threading.Semaphore(0)
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name=f"guidegraph-{index}", daemon=True)

    request: Any

    def start(self) -> None:
        """Let the task run until it waits or ends."""
        self._thread.start()
        self._turns.wait()

    def resume(self, order: Callable[[], None] | None = None) -> None:
        """Let a waiting task run until it waits again or ends. order: run on its thread instead of the task itself."""
        self._order = order
        self._go.release()
        self._turns.wait()

    def abort(self) -> None:
        """Let the task end with ``Cancelled``: now if it waits, or else at its next wait."""
        self._aborted = True
        if self.request is not None and not self.ended:
            self.resume()

    def wait(self, request: Any) -> None:
        """Give the turn away until the task is resumed. Called by the task."""
        self.request = request
        self._yield()
        while (order := self._order) is not None:
            self._order = None
            order()
            self._yield()
        self.request = None

    def _yield(self) -> None:
        if not self._aborted:
            self._turns.give_back()
            self._go.acquire()
        if self._aborted:
            raise Cancelled("the run was cancelled")

    def _run(self) -> None:
        try:
            self.result = self._function(self)
        except BaseException as error:  # raised again by whoever started the tasks
            self.error = error
        self.ended = True
        self._turns.give_back()


class Turns:
    """Tasks that take turns. at_once: the most tasks that have started and not ended."""

    def __init__(self, functions: Sequence[Callable[[Task], Any]], at_once: int) -> None:
        self._turn = threading.Semaphore(0)
        self._at_once = at_once
        self.tasks = [Task(i, function, self) for i, function in enumerate(functions)]

    def run(self, serve: Callable[[Sequence[Task]], None]) -> None:
        """Run all tasks to their end, or to the first error, which ends the others and is raised.

        serve: called with the waiting tasks, in order, to answer their requests; they are resumed afterwards.
        """
        pending, active = deque(self.tasks), list[Task]()
        try:
            while pending or active:
                while pending and len(active) < self._at_once:
                    active.append(pending.popleft())
                    active[-1].start()
                    active = self._keep_waiting(active)
                if active:
                    serve(active)
                active = self._keep_waiting(active)  # a task may end by an error of what it was asked to do
                for task in active:
                    task.resume()
                    self._keep_waiting([task])
                active = self._keep_waiting(active)
        except BaseException:
            for task in active:
                task.abort()
            raise

    def _keep_waiting(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that have not ended. Raises the error of one that failed."""
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task for task in tasks if not task.ended]

    def wait(self) -> None:
        """Wait until the running task gives the turn back."""
        self._turn.acquire()

    def give_back(self) -> None:
        self._turn.release()


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


Function: TypeAlias = Callable[..., Any]

JOINT_ARGUMENT = (
    "an argument that is not batchable has an entry for each sample, or samples of one call differ in number"
)

PLAIN = (bool, int, float, str, bytes, type(None))


@dataclass
class Request:
    """A call that waits for the calls of other runs.

    ports: the names of positional arguments. batchable: the arguments to join, by index or name.
    """

    key: str
    function: Function
    arguments: Arguments
    ports: Sequence[str]
    batchable: Sequence[int | str]
    result: Any = None
    answered: bool = False


@dataclass
class SharedCalls:
    """The calls that runs share.

    made: the number of calls of batchable nodes. requested: the number that the runs would have made alone.
    unshared: why calls of a node were not shared, by the node's path.
    """

    made: int = 0
    requested: int = 0
    unshared: dict[str, str] = field(default_factory=dict)

    def share(self, graph: Graph, task: Task) -> Graph:
        """A graph whose batchable calls wait for the calls of other tasks."""
        return replace(graph, ops=self._share_ops(graph.ops, task))

    def _share_ops(self, ops: Mapping[str, Op], task: Task) -> dict[str, Op]:
        shared = dict(ops)
        for key, op in ops.items():
            if op.has_blocks:
                if not isinstance(op, Fit):
                    shared[key] = replace(op, body=self._share_ops(op.body, task))
            elif op.spec.batchable and op.spec.pure and not op.has_branches:
                shared[key] = replace(op, spec=replace(op.spec, function=self._wait_for_others(op, task)))
        return shared

    def _wait_for_others(self, op: Call, task: Task) -> Function:
        function, ports = op.spec.function, list(op.spec.inputs)

        @wraps(function)
        def call(*args: Any, **by_name: Any) -> Any:
            positions = [i for i, name in enumerate(ports[: len(args)]) if name in op.spec.batchable]
            names = [name for name in by_name if name in op.spec.batchable]
            request = Request(op.key, function, (args, by_name), ports, [*positions, *names])
            self.requested += 1
            task.wait(request)
            if request.answered:
                return request.result
            self.made += 1
            return function(*args, **by_name)

        return call

    def serve(self, tasks: Sequence[Task]) -> None:
        """Make the joined calls of waiting tasks, each on the thread of its first one."""
        for group in self._group(tasks):
            if len(group) > 1:
                group[0].resume(partial(self._call, [task.request for task in group]))

    def _group(self, tasks: Sequence[Task]) -> list[list[Task]]:
        groups: list[list[Task]] = []
        for task in tasks:
            for group in groups:
                first: Request = group[0].request
                if first.key == task.request.key:
                    reason = find_difference(first, task.request)
                    if not reason:
                        group.append(task)
                        break
                    self.unshared[f"nodes.{first.key}"] = reason
            else:
                groups.append([task])
        return groups

    def _call(self, requests: Sequence[Request]) -> None:
        """Answer requests with one call; if it fails, they stay unanswered, and each run makes its own call."""
        first = requests[0]
        try:
            results = call_as_batch(first.function, [r.arguments for r in requests], first.batchable, Sizes())
        except Exception as error:
            self.unshared[f"nodes.{first.key}"] = f"the shared call failed: {error}"
            return
        if results is None:
            self.unshared[f"nodes.{first.key}"] = JOINT_ARGUMENT
            return
        self.made += 1
        for request, result in zip(requests, results, strict=True):
            request.result, request.answered = result, True


def find_difference(a: Request, b: Request) -> str:
    """The reason why two calls of a node cannot be one; "" if they can."""
    (args, by_name), (other_args, other_by_name) = a.arguments, b.arguments
    if len(args) != len(other_args) or by_name.keys() != other_by_name.keys():
        return "other ports are wired"
    pairs = [*enumerate(zip(args, other_args, strict=True)), *((n, (by_name[n], other_by_name[n])) for n in by_name)]
    for port, (value, other) in pairs:
        name = a.ports[port] if isinstance(port, int) else port
        if port in a.batchable:
            if reason := _find_batch_difference(value, other):
                return f"'{name}' differs: {reason}"
        elif value is not other and not (isinstance(value, PLAIN) and type(value) is type(other) and value == other):
            values = (
                f"{value!r:.40} and {other!r:.40}" if isinstance(value, PLAIN) else f"two of {type(value).__name__}"
            )
            return f"'{name}' differs: {values}, and a call takes one for all samples"
    return ""


def _find_batch_difference(value: Any, other: Any) -> str:
    """What two arguments differ in, besides the number and the values of their samples; "" for nothing."""
    (leaves, structure), (other_leaves, other_structure) = flatten(value), flatten(other)
    if structure != other_structure:
        return "other fields are set"
    for leaf, other_leaf in zip(leaves, other_leaves, strict=True):
        if is_tensor(leaf) != is_tensor(other_leaf):
            return "other fields are set"
        if not is_tensor(leaf):
            if type(leaf) is not type(other_leaf) or (leaf is not other_leaf and leaf != other_leaf):
                return f"{leaf!r:.40} and {other_leaf!r:.40}"
        elif leaf.shape[1:] != other_leaf.shape[1:]:
            return f"samples of sizes {tuple(leaf.shape[1:])} and {tuple(other_leaf.shape[1:])}"
        elif (leaf.dtype, leaf.device) != (other_leaf.dtype, other_leaf.device):
            return f"{leaf.dtype} on {leaf.device} and {other_leaf.dtype} on {other_leaf.device}"
    return ""


def find_unshared(graph: Graph) -> Iterator[tuple[str, str]]:
    """The calls of nodes in loops that take a model and are never shared, by path, with the reason."""
    for op in walk(graph.ops):
        if isinstance(op, Fit):
            yield f"nodes.{op.key}", "it trains, and each training runs alone"
        elif not op.has_blocks and not op.has_branches and op.key not in graph.ops:
            takes_model = any("model" in port_kinds(port.type) for port in op.spec.inputs.values())
            if takes_model and not op.spec.batchable:
                yield (
                    f"nodes.{op.key}",
                    f"{op.spec.id} calls a model itself, and does not say that calls of it can join",
                )
