"""Wiring that is wrong for the values of a run: what the trait ``check`` says.

Whether an optional port has to be wired may depend on a value that another node computes, such as a table. ``check`` is
asked as soon as that value is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

from guidegraph.graph.digest import is_pure
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Call, Literal, Op, Output, Source, Sources, walk
from guidegraph.graph.node import WIRED
from guidegraph.graph.passes import argument_source, ask_trait, check_ports, known_arguments


def check_wiring(ops: Iterable[Op], values: Mapping[Source, Any]) -> None:
    """Raise ``WorkflowError`` for the calls, those in the bodies of loops too, that are wired wrong for these values.

    ``values`` holds what is known of links; a call of which too little is known passes.
    """
    if problems := wiring_problems(ops, values):
        raise WorkflowError(problems)


def wiring_problems(ops: Iterable[Op], values: Mapping[Source, Any]) -> list[Problem]:
    """What ``check_wiring`` raises."""
    calls = (op for op in walk({op.key: op for op in ops}) if isinstance(op, Call))
    return [problem for call in calls if call.spec.check for problem in _problems(call, call.spec.check, values)]


def checked_sources(ops: Iterable[Op]) -> set[Source]:
    """The values, computed by operations, that some ``check`` asks for."""
    calls = [op for op in walk({op.key: op for op in ops}) if isinstance(op, Call)]
    sources = (argument_source(call, name) for call in calls for name in call.spec.check_arguments)
    return {source for source in sources if isinstance(source, Output)}


class WiringChecks:
    """The checks of a region's operations, made as the values that they ask for are computed."""

    def __init__(self, ops: Mapping[str, Op]):
        self.ops = ops
        self.asked = checked_sources(ops.values())
        self.known: dict[Source, Any] = {}

    def see(self, values: Mapping[Source, Any]) -> None:
        """Check the calls, also those in loops to come, of which enough is known now. Raises ``WorkflowError``."""
        if self.asked.isdisjoint(values):
            return
        self.known.update((source, value) for source, value in values.items() if source in self.asked)
        check_wiring(self.ops.values(), self.known)


def checked_first(ops: Mapping[str, Op]) -> dict[str, Op]:
    """The operations in an order in which those that a ``check`` waits for come first; otherwise as they are.

    Nothing moves where an operation with effects would, since the order of effects is the workflow's.
    """
    sources = checked_sources(ops.values())
    needed = {source.op for source in sources if isinstance(source, Output)}
    for op in reversed([*ops.values()]):
        if op.key in needed:
            needed.update(source.op for source in op.sources() if isinstance(source, Output))
    first = {key: op for key, op in ops.items() if key in needed}
    return {**first, **ops} if all(map(is_pure, first.values())) else dict(ops)


def _wired(call: Call, values: Mapping[Source, Any]) -> frozenset[str]:
    """The ports and settings that something feeds; one whose value is known to be None has nothing."""

    def is_fed(source: Sources) -> bool:
        if isinstance(source, Literal):
            return source.value is not None
        return isinstance(source, tuple) or values.get(source, source) is not None

    return frozenset(name for name, source in (*call.inputs.items(), *call.settings.items()) if is_fed(source))


def _problems(call: Call, check: Callable[..., Any], values: Mapping[Source, Any]) -> Iterator[Problem]:
    known = known_arguments(call, call.spec.check_arguments, values)
    if known is None:
        return
    wired = _wired(call, values)
    if WIRED in signature(check).parameters:
        known[WIRED] = wired
    messages = ask_trait(call, "check", check, known)
    check_ports(call, "check", [name for name in messages if name not in call.spec.settings])
    for name, message in messages.items():
        code = "unfit-port" if name in wired else "missing-port"
        kind = "port" if name in call.spec.inputs else "setting"
        text = f"{call.spec.id}: {kind} '{name}': {message}"
        yield Problem(call.marks.get(name, call.mark), code, text, f"nodes.{call.key}")
