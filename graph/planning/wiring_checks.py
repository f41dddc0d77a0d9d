"""Checks of the wiring against the values of a run, by the trait ``check``.

Whether an optional port must be wired may depend on a value that another node computes, such as a table. ``check`` is
called as soon as that value is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Call, Op, walk_calls
from guidegraph.graph.node import SHAPES, WIRED
from guidegraph.graph.planning.admission import Extents
from guidegraph.graph.planning.passes import call_trait, check_ports, find_known_arguments
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.sources import Literal, Many, Output, Source, Sources


def check_wiring(ops: Iterable[Op], values: Mapping[Source, Any], extents: Extents | None = None) -> None:
    """Raise ``WorkflowError`` for calls, in loop bodies too, whose wiring is wrong for these values.

    values: the known values of links. extents: the known shapes. Calls for which too little is known pass.
    """
    known_shapes = extents or Extents()
    problems: list[Problem] = []
    for call in walk_calls({op.key: op for op in ops}):
        if call.spec.check:
            problems += _find_problems(call, values, known_shapes)
    if problems:
        raise WorkflowError(problems)


def _list_checked_sources(ops: Iterable[Op]) -> set[Source]:
    """The computed values that the calls' ``check`` traits take as arguments."""
    calls = walk_calls({op.key: op for op in ops})
    sources: set[Source] = set()
    for call in calls:
        for name in call.spec.check_arguments:
            source = call.settings[name] if name in call.settings else call.inputs.get(name)
            if isinstance(source, Output):
                sources.add(source)
    return sources


class WiringChecks:
    """The wiring checks of a block, made as soon as the values that they need are computed.

    bound: the operations before the passes, from which shapes are inferred.
    """

    def __init__(self, ops: Mapping[str, Op], bound: Mapping[str, Op]):
        self.ops = ops
        self.extents: Extents | None = None
        self.pending = [call for call in walk_calls(ops) if call.spec.check] if ops else []
        self.awaited = _list_checked_sources(self.pending) if self.pending else set()
        if self.awaited:
            self.extents = Extents()
            self.extents.follow(bound.values())
        self.known: dict[Source, Any] = {}

    def check(self, values: Mapping[Source, Any]) -> None:
        """Check the calls, in later loops too, whose arguments are now known. Raises ``WorkflowError``."""
        if not self.awaited or self.awaited.isdisjoint(values):
            return
        self.known.update((source, value) for source, value in values.items() if source in self.awaited)
        check_wiring(self.ops.values(), self.known, self.extents)
        # Drop values that no pending check needs: they may be models.
        self.pending = [call for call in self.pending if not _list_checked_sources([call]) <= self.known.keys()]
        self.awaited = _list_checked_sources(self.pending)
        self.known = {source: value for source, value in self.known.items() if source in self.awaited}


def order_for_checks(ops: Mapping[str, Op]) -> dict[str, Op]:
    """The operations, with those whose values a ``check`` needs moved to the front.

    The order stays as it is if an operation with effects would move. A ``check`` that also takes shapes is left out: it
    needs a model, which should not be loaded earlier for it.
    """
    calls = [call for call in walk_calls(ops) if call.spec.check]
    sources = _list_checked_sources(
        call for call in calls if SHAPES not in signature(call.spec.check or len).parameters
    )
    first = find_dependencies(ops, sources)
    return {**first, **ops} if all(op.is_pure for op in first.values()) else dict(ops)


def _find_wired(call: Call, values: Mapping[Source, Any]) -> frozenset[str]:
    """The ports and settings that are wired to a value; those known to be None do not count."""

    def is_fed(source: Sources) -> bool:
        if isinstance(source, Literal):
            return source.value is not None
        return isinstance(source, Many) or values.get(source, source) is not None

    return frozenset(name for name, source in call.arguments() if is_fed(source))


def _find_problems(call: Call, values: Mapping[Source, Any], extents: Extents) -> Iterator[Problem]:
    check = call.spec.check
    assert check is not None
    parameters = signature(check).parameters
    needed = [name for name in call.spec.check_arguments if parameters[name].default is Parameter.empty]
    arguments = find_known_arguments(call, call.spec.check_arguments, values)
    if not arguments.keys() >= {*needed}:
        return
    wired = _find_wired(call, values)
    if WIRED in parameters:
        arguments[WIRED] = wired
    if SHAPES in parameters:
        arguments[SHAPES] = extents.port_shapes(call)
    messages = call_trait(call, "check", check, arguments)
    if messages == {}:
        return
    check_ports(call, "check", [name for name in messages if name not in call.spec.settings])
    for name, message in messages.items():
        code = "unfit-port" if name in wired else "missing-port"
        kind = "port" if name in call.spec.inputs else "setting"
        text = f"{call.spec.id}: {kind} '{name}': {message}"
        yield Problem(call.marks.get(name, call.mark), code, text, f"nodes.{call.key}")
