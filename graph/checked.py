"""Wiring that is wrong for the values of a run: what the trait ``check`` says.

Whether an optional port has to be wired may depend on a value that another node computes, such as a table. ``check`` is
asked as soon as that value is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

from guidegraph.graph.admission import Extents
from guidegraph.graph.digest import is_pure
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Call, Literal, Op, Output, Source, Sources, walk
from guidegraph.graph.node import SHAPES, WIRED
from guidegraph.graph.passes import argument_source, ask_trait, check_ports, known_arguments


def check_wiring(ops: Iterable[Op], values: Mapping[Source, Any], extents: Extents | None = None) -> None:
    """Raise ``WorkflowError`` for the calls, those in the bodies of loops too, that are wired wrong for these values.

    ``values`` holds what is known of links, and ``extents`` of shapes; a call of which too little is known passes.
    """
    if problems := wiring_problems(ops, values, extents):
        raise WorkflowError(problems)


def wiring_problems(ops: Iterable[Op], values: Mapping[Source, Any], extents: Extents | None = None) -> list[Problem]:
    """What ``check_wiring`` raises."""
    calls = [op for op in walk({op.key: op for op in ops}) if isinstance(op, Call) and op.spec.check]
    return [problem for call in calls for problem in _problems(call, values, extents or Extents())]


def _list_checked_sources(ops: Iterable[Op]) -> set[Source]:
    """The values, computed by operations, that some ``check`` asks for."""
    calls = [op for op in walk({op.key: op for op in ops}) if isinstance(op, Call)]
    sources = (argument_source(call, name) for call in calls for name in call.spec.check_arguments)
    return {source for source in sources if isinstance(source, Output)}


class WiringChecks:
    """The checks of a region's operations, made as the values that they ask for are computed.

    bound: the operations before the passes, from which shapes follow.
    """

    def __init__(self, ops: Mapping[str, Op], bound: Mapping[str, Op]):
        self.ops = ops
        self.extents = Extents()
        self.extents.follow(bound.values())
        self.pending = [op for op in walk(dict(ops)) if isinstance(op, Call) and op.spec.check]
        self.awaited = _list_checked_sources(self.pending)
        self.known: dict[Source, Any] = {}

    def check(self, values: Mapping[Source, Any]) -> None:
        """Check the calls, also those in loops to come, of which enough is known now. Raises ``WorkflowError``."""
        if self.awaited.isdisjoint(values):
            return
        self.known.update((source, value) for source, value in values.items() if source in self.awaited)
        check_wiring(self.ops.values(), self.known, self.extents)
        # A value is not held longer than it is asked for: it may be a model.
        self.pending = [call for call in self.pending if not _list_checked_sources([call]) <= self.known.keys()]
        self.awaited = _list_checked_sources(self.pending)
        self.known = {source: value for source, value in self.known.items() if source in self.awaited}


def checked_first(ops: Mapping[str, Op]) -> dict[str, Op]:
    """The operations in an order in which those that a ``check`` waits for come first; otherwise as they are.

    Nothing moves where an operation with effects would, since the order of effects is the workflow's. A ``check`` that
    asks for shapes too waits for a model, which is not loaded earlier for it.
    """
    calls = [op for op in walk(dict(ops)) if isinstance(op, Call) and op.spec.check]
    sources = _list_checked_sources(
        call for call in calls if SHAPES not in signature(call.spec.check or len).parameters
    )
    first_keys = {source.op for source in sources if isinstance(source, Output)}
    for op in reversed([*ops.values()]):
        if op.key in first_keys:
            first_keys.update(source.op for source in op.sources() if isinstance(source, Output))
    first = {key: op for key, op in ops.items() if key in first_keys}
    return {**first, **ops} if all(map(is_pure, first.values())) else dict(ops)


def _find_wired(call: Call, values: Mapping[Source, Any]) -> frozenset[str]:
    """The ports and settings that something feeds; one whose value is known to be None has nothing."""

    def is_fed(source: Sources) -> bool:
        if isinstance(source, Literal):
            return source.value is not None
        return isinstance(source, tuple) or values.get(source, source) is not None

    return frozenset(name for name, source in (*call.inputs.items(), *call.settings.items()) if is_fed(source))


def _problems(call: Call, values: Mapping[Source, Any], extents: Extents) -> Iterator[Problem]:
    check = call.spec.check
    assert check is not None
    parameters = signature(check).parameters
    needed = [name for name in call.spec.check_arguments if parameters[name].default is Parameter.empty]
    arguments = known_arguments(call, needed, values)
    if arguments is None:
        return
    for name in call.spec.check_arguments:
        arguments |= known_arguments(call, [name], values) or {}
    wired = _find_wired(call, values)
    if WIRED in parameters:
        arguments[WIRED] = wired
    if SHAPES in parameters:
        arguments[SHAPES] = extents.of_ports(call)
    messages = ask_trait(call, "check", check, arguments)
    check_ports(call, "check", [name for name in messages if name not in call.spec.settings])
    for name, message in messages.items():
        code = "unfit-port" if name in wired else "missing-port"
        kind = "port" if name in call.spec.inputs else "setting"
        text = f"{call.spec.id}: {kind} '{name}': {message}"
        yield Problem(call.marks.get(name, call.mark), code, text, f"nodes.{call.key}")
