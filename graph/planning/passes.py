"""The passes: small functions from graph to graph that use the traits of nodes, never their ids.

No pass changes a result beyond rounding; each can be turned off. ``hoist``, ``merge``, ``skip`` and ``prune`` rewrite
operations here; ``precompute`` and ``batch`` are applied when a block is flattened (``steps.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.errors import NodeError
from guidegraph.graph.ir import Call, Loop, Op
from guidegraph.graph.literals import is_plain_data
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.planning.choice_branches import find_optional_operations, make_effect_test
from guidegraph.graph.planning.dependencies import find_dependencies
from guidegraph.graph.port import REQUIRED
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param, Source, Sources, map_sources
from guidegraph.graph.types import is_tensor, takes_literal
from guidegraph_runtime.error_text import describe_error

PASSES: dict[str, str] = {
    "skip": "leave out ports that a node says it does not need",
    "hoist": "move what no iteration changes out of its loop",
    "merge": "compute equal nodes once",
    "prune": "drop nodes that no output needs",
    "precompute": "compute what depends on the loop's item alone before the loop (up to 64 MiB)",
    "batch": "make one call of sibling calls of a batchable node",
}
ALL_PASSES = frozenset(PASSES)

Ops = Mapping[str, Op]
Rewrite = Callable[[Source], Source]


def rewrite_sources(op: Op, change: Rewrite) -> Op:
    """The operation with every source that it or its body reads replaced by ``change(source)``."""
    return op.map_sources(change, lambda inner: rewrite_sources(inner, change))


def bind_params(op: Op, values: Mapping[str, Literal]) -> Op:
    """The operation with these parameters replaced by their values, converted for the ports that they feed.

    A call that reads no parameter stays the same object, with all that is known of it.
    """
    if isinstance(op, Call) and not any(isinstance(source, Param) for source in op.sources()):
        return op
    return bind_sources(op, {Param(name): value for name, value in values.items()})


def bind_sources(op: Op, values: Mapping[Source, Source]) -> Op:
    """The operation with sources replaced by others; literals are converted for the ports that they feed.

    Raises ``ValueError`` for a literal that does not fit its port.
    """
    if isinstance(op, Call):
        return replace(op, inputs=_bind(op, op.inputs, values), settings=_bind(op, op.settings, values))
    return op.map_sources(
        lambda source: source if isinstance(source, Literal) else values.get(source, source),
        lambda inner: bind_sources(inner, values),
    )


def _bind(call: Call, sources: Mapping[str, Sources], values: Mapping[Source, Source]) -> dict[str, Sources]:
    bound: dict[str, Sources] = {}
    for name, source in sources.items():
        if isinstance(source, Many):
            bound[name] = map_sources(lambda s: values.get(s, s), source)
            continue
        value = values.get(source, source)
        bound[name] = (
            _convert_for_port(call, name, value) if isinstance(value, Literal) and value is not source else value
        )
    return bound


def _convert_for_port(call: Call, name: str, literal: Literal) -> Literal:
    """A parameter's plain value converted for a port: a list for a tuple, an int for a float."""
    port = call.spec.port(name)
    if port is None or not takes_literal(port.type) or not is_plain_data(literal.value):
        return literal
    if literal.value is None and port.type.optional:
        return literal
    try:
        return Literal(port.literal(literal.value))
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from None


def follow_aliases(aliases: Mapping[Source, Source]) -> Rewrite:
    """A rewrite that follows chains of aliases to the end."""

    def change(source: Source) -> Source:
        while not isinstance(source, Literal) and source in aliases:
            source = aliases[source]
        return source

    return change


def prune(ops: Ops, roots: Iterable[Source], *, effects: bool = True) -> dict[str, Op]:
    """Drop operations that no root needs. Unless ``effects`` is off, nodes with effects outside of branches stay."""
    return find_dependencies(ops, roots, keep=make_effect_test(ops) if effects else None)


def merge(ops: Ops, digests: Mapping[str, str]) -> tuple[dict[str, Op], dict[Source, Source]]:
    """Keep the first of the pure operations with equal digests. Also returns aliases for the outputs of the others."""
    if len({digests[key] for key in ops}) == len(ops):
        return dict(ops), {}
    first: dict[str, Op] = {}
    aliases: dict[Source, Source] = {}
    kept: dict[str, Op] = {}
    for op in ops.values():
        first_equal = first.setdefault(digests[op.key], op) if op.is_pure else op
        if first_equal is op:
            kept[op.key] = op
        else:
            aliases.update({Output(op.key, name): Output(first_equal.key, name) for name in op.outputs})
    return kept, aliases


def hoist(ops: Ops) -> dict[str, Op]:
    """Move each loop-invariant pure operation before its loop; innermost loops first.

    An operation that only a branch needs moves together with the choice or not at all: it may never be computed.
    Nothing leaves a loop that is known to have no iterations: it would never have been computed.
    """
    hoisted: dict[str, Op] = {}
    for op in ops.values():
        if not isinstance(op, Loop) or _is_empty(op):
            hoisted[op.key] = op
            continue
        body = hoist(op.body)
        kept: dict[str, Op] = {}
        for key, body_op in body.items():
            if not body_op.is_pure or any(_reads_loop(s, op, kept) for s in body_op.sources()):
                kept[key] = body_op
        _keep_branches(body, kept, op)
        hoisted.update((key, body_op) for key, body_op in body.items() if key not in kept)
        hoisted[op.key] = replace(op, body={key: body_op for key, body_op in body.items() if key in kept})
    return hoisted


def _is_empty(loop: Loop) -> bool:
    """Whether a loop is known to have no iterations."""
    count = loop.over if loop.steps is None else loop.steps
    if not isinstance(count, Literal):
        return False
    value = count.value
    if isinstance(value, int):
        return not value
    return bool(len(value) == 0) if isinstance(value, (list, tuple)) or (is_tensor(value) and value.ndim) else False


def _keep_branches(body: Ops, kept: dict[str, Op], loop: Loop) -> None:
    """Keep optional operations in the body if a kept operation reads them, and the operations that read those."""
    optional = find_optional_operations(body, loop.roots())
    if not optional:
        return
    read = {s.op for s in loop.roots() if isinstance(s, Output)}
    while True:
        read |= {s.op for op in kept.values() for s in op.sources() if isinstance(s, Output)}
        moved = [op for key, op in body.items() if key not in kept]
        kept_too = [
            op
            for op in moved
            if (op.key in optional and op.key in read)
            or any(isinstance(s, Output) and s.op in kept for s in op.sources())
        ]
        if not kept_too:
            return
        kept.update((op.key, op) for op in kept_too)


def _reads_loop(source: Source, loop: Loop, kept: Ops) -> bool:
    if isinstance(source, (Carry, Item, Index)):
        return source.loop == loop.key
    return isinstance(source, Output) and source.op in kept


def read_known_arguments(call: Call, names: Iterable[str], values: Mapping[Source, Any]) -> dict[str, Any] | None:
    """The settings and ports of these names; ``None`` unless all have known plain values.

    values: the known values of links; tensors count as unknown.
    """
    arguments: dict[str, Any] = {}
    for name in names:
        source = call.argument(name)
        if source is None:
            port = call.spec.port(name)
            value = REQUIRED if port is None else port.default
            if value is REQUIRED:
                return None
        elif isinstance(source, Literal):
            value = source.value
        elif not isinstance(source, Many) and source in values:
            value = values[source]
        else:
            return None
        if is_tensor(value):
            return None
        arguments[name] = value
    return arguments


def find_unneeded_ports(call: Call, values: Mapping[Source, Any]) -> frozenset[str]:
    """The wired ports that the call does not need according to its ``needs`` for the known values."""
    if call.spec.needs is None:
        return frozenset()
    arguments = read_known_arguments(call, call.spec.needs_arguments, values)
    if arguments is None:
        return frozenset()
    needed = frozenset(call_trait(call, "needs", call.spec.needs, arguments))
    check_ports(call, "needs", needed)
    return frozenset(call.inputs) - needed


def call_trait(call: Call, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a trait's function with these values. Raises ``NodeError`` if it fails."""
    try:
        return function(**arguments)
    except BaseException as error:
        if is_interrupt(error):
            raise
        values = ", ".join(f"{name} = {value!r:.40}" for name, value in arguments.items()) or "any values"
        cause = RuntimeError(f"its '{name}' failed for {values}: {describe_error(error)}")
        raise NodeError(f"nodes.{call.key}", call.spec.id, call.mark, cause) from error


def check_ports(call: Call, name: str, ports: Iterable[str]) -> None:
    if unknown := sorted(set(ports) - set(call.spec.inputs)):
        ports_text = ", ".join(call.spec.inputs)
        cause = RuntimeError(
            f"its '{name}' names ports that it does not have: {', '.join(unknown)}; ports: {ports_text}"
        )
        raise NodeError(f"nodes.{call.key}", call.spec.id, call.mark, cause)


def drop_ports(call: Call, ports: frozenset[str]) -> Call:
    """The call with these ports fed from a needed port of the same type, as their values do not matter."""
    if not ports:
        return call
    inputs = {name: _find_stand_in(call, name, ports) if name in ports else s for name, s in call.inputs.items()}
    return replace(call, inputs=inputs, checks=tuple(c for c in call.checks if c[0] not in ports))


def _find_stand_in(call: Call, port: str, dropped: frozenset[str]) -> Sources:
    spec: NodeSpec = call.spec
    for name, source in call.inputs.items():
        if name not in dropped and spec.inputs[name].type == spec.inputs[port].type:
            return source
    return Literal(None)


def skip(ops: Ops, values: Mapping[Source, Any]) -> tuple[dict[str, Op], dict[Source, Source]]:
    """Apply ``needs`` and ``identity`` where their arguments are known. Also returns aliases for the identities."""
    skipped: dict[str, Op] = {}
    aliases: dict[Source, Source] = {}
    for op in ops.values():
        if isinstance(op, Loop):
            body, body_aliases = skip(op.body, values)
            aliases.update(body_aliases)
            skipped[op.key] = replace(op, body=body)
            continue
        if op.spec.identity is None and op.spec.needs is None:
            skipped[op.key] = op
            continue
        port = _identity_port(op, values)
        source = op.inputs.get(port) if port else None
        if port and source is not None and not isinstance(source, Many) and len(op.outputs) == 1:
            aliases[Output(op.key, next(iter(op.outputs)))] = source
            continue
        skipped[op.key] = drop_ports(op, find_unneeded_ports(op, values))
    return skipped, aliases


def _identity_port(call: Call, values: Mapping[Source, Any]) -> str | None:
    if call.spec.identity is None:
        return None
    settings = read_known_arguments(call, call.spec.identity_settings, values)
    if settings is None:
        return None
    port: str | None = call_trait(call, "identity", call.spec.identity, settings)
    check_ports(call, "identity", [port] if port is not None else [])
    return port
