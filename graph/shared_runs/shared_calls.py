"""Calls of batchable nodes in several runs as one call: each run waits at such a call until all others wait or end.

This is the batch pass (``guidegraph.graph.planning.batch``) across runs: calls of one node join along the batch if they
have the same model and settings, and arguments that differ in their samples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, TypeAlias

from guidegraph.graph.execution.join_calls import Arguments, Sizes, call_as_batch
from guidegraph.graph.ir import Call, Choice, Graph, Loop, Op, walk
from guidegraph.graph.port_kinds import port_kinds
from guidegraph.graph.shared_runs.turns import Task
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.leaves import flatten

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
            if isinstance(op, Loop):
                if not isinstance(op, Fit):
                    shared[key] = replace(op, body=self._share_ops(op.body, task))
            elif op.spec.batchable and op.spec.pure and not isinstance(op, Choice):
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
        elif isinstance(op, Call) and op.key not in graph.ops and not isinstance(op, Choice):
            takes_model = any("model" in port_kinds(port.type) for port in op.spec.inputs.values())
            if takes_model and not op.spec.batchable:
                yield (
                    f"nodes.{op.key}",
                    f"{op.spec.id} calls a model itself, and does not say that calls of it can join",
                )
