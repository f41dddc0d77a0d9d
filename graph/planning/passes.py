"""The passes: small functions from graph to graph that use the traits of nodes, never their ids.

No pass changes a result beyond rounding; each can be turned off. ``hoist``, ``merge``, ``skip`` and ``prune`` rewrite
operations here; ``precompute`` and ``batch`` are applied when a block is flattened (``steps.py``).

Choices: which operations are certain to run, and which run only if a branch is taken.

An operation is *optional* while only branches of pending choices need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.errors import NodeError, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Call, Choice, Loop, Op, list_choices, walk
from guidegraph.graph.literals import is_plain_data
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.port import REQUIRED
from guidegraph.graph.sources import (
    Carry,
    Index,
    Item,
    Literal,
    Many,
    Output,
    Param,
    Source,
    Sources,
    list_parameters,
    map_sources,
)
from guidegraph.graph.types import describe_value, is_tensor, is_tensor_class, takes_literal
from guidegraph_runtime.declare.choice_words import OTHERWISE, WHEN
from guidegraph_runtime.error_text import describe_error


def branch_label(value: object) -> str | None:
    """The name of the branch for a value; ``None`` if a value of its type cannot select a branch.

    A tensor of one element counts as that number.
    """
    if is_tensor(value):
        value = value.item() if value.numel() == 1 else None  # type: ignore[attr-defined]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, str)) else None


def choose_branch(choice: Choice, value: Any) -> str:
    """The branch that a value of ``when`` selects. Raises ``NodeError`` if there is none."""
    label = branch_label(value)
    if label is None:
        message = f"a choice is made by a text, a whole number, true or false; found {describe_value(value)}"
    elif label in choice.inputs and label != OTHERWISE:
        return label
    elif OTHERWISE in choice.inputs:
        return OTHERWISE
    else:
        message = f"no branch '{label:.60}'; {suggest(label[:60], choice.inputs, 'branches')}"
    mark = choice.marks.get(WHEN, choice.mark)
    raise NodeError(f"nodes.{choice.key}", choice.spec.id, mark, ValueError(f"port '{WHEN}': {message}"))


def find_branch_operations(ops: Ops) -> set[str]:
    """The keys of all operations that a branch of a choice depends on, including choices in loop bodies."""
    choosing = [op for op in ops.values() if op.has_branches or op.has_blocks]
    return set(find_dependencies(ops, [source for op in choosing for source in _branch_sources(op)]))


def _branch_sources(op: Op) -> Iterator[Source]:
    yield from op.branches().values()
    for block in op.blocks()[:1]:
        inside = find_branch_operations(block.ops)
        for inner in block.ops.values():
            yield from inner.sources() if inner.key in inside else _branch_sources(inner)


def make_effect_test(ops: Ops) -> Callable[[Op], bool]:
    """A test for operations with effects that no branch depends on."""
    in_branches = find_branch_operations(ops)
    return lambda op: op.key not in in_branches and not op.is_pure


def certain_operations(ops: Ops, roots: Iterable[Source], *, effects: bool = True) -> set[str]:
    """The keys of the operations that are needed whichever branches are taken.

    Operations with effects are needed unless a branch depends on them. effects: if off, they do not count.
    """
    keep = make_effect_test(ops) if effects else None
    return set(find_dependencies(ops, roots, keep=keep, reads=lambda op: op.certain_sources()))


def find_optional_operations(ops: Ops, roots: Iterable[Source]) -> set[str]:
    """The keys of the operations that only branches of choices need."""
    if not any(op.has_branches for op in ops.values()):
        return set()
    return find_branch_operations(ops) - certain_operations(ops, roots)


def drop_optional(ops: Ops, roots: Iterable[Source]) -> dict[str, Op]:
    """The operations without the optional ones, in loop bodies too."""
    optional = find_optional_operations(ops, roots)
    return {
        key: replace(op, body=drop_optional(op.body, op.roots())) if op.has_blocks else op
        for key, op in ops.items()
        if key not in optional
    }


def find_next_choices(ops: Ops, roots: Iterable[Source], *, effects: bool = True) -> tuple[Choice, ...]:
    """The choices to make next: certain to be needed, with a ``when`` that depends on no other choice."""
    if not any(op.has_branches for op in ops.values()):
        return ()
    certain = certain_operations(ops, roots, effects=effects)
    choices = {choice.key: choice for choice in list_choices(ops.values())}
    undecided: set[str] = set()
    ready: list[str] = []
    for key, op in ops.items():
        waits = any(isinstance(source, Output) and source.op in undecided for source in op.certain_sources())
        if key in choices and key in certain and not waits:
            ready.append(key)
        if key in choices or waits:
            undecided.add(key)
    return tuple([choices[key] for key in ready])


def find_branch_conditions(ops: Ops, roots: Iterable[Source]) -> dict[str, frozenset[tuple[str, str]]]:
    """For each operation the branches, as (choice, branch name), any of which makes it needed.

    Empty for an operation that is always needed. Operations with the same branches are needed together. Choices that
    take the same branch in every run, because they have the same ``when`` and branch names, count as the first of them.
    """
    certain = certain_operations(ops, roots, effects=False)
    first_alike: dict[tuple[Source, frozenset[str]], str] = {}
    leaders = {
        choice.key: first_alike.setdefault((choice.when, frozenset(choice.inputs)), choice.key)
        for choice in list_choices(ops.values())
        if choice.key in certain
    }
    conditions: dict[str, set[tuple[str, str]]] = {key: set() for key in ops}
    for op in reversed([*ops.values()]):
        for source in op.certain_sources():
            if isinstance(source, Output) and source.op in conditions:
                conditions[source.op] |= conditions[op.key]
        for branch, source in op.branches().items():
            if isinstance(source, Output) and source.op in conditions:
                conditions[source.op].add((leaders.get(op.key, op.key), branch))
    return {key: frozenset() if key in certain else frozenset(branches) for key, branches in conditions.items()}


@dataclass
class BlockAfterChoices:
    """A block after choices. aliases: the branch's source for each choice. taken: the branch taken, by the key."""

    ops: dict[str, Op] = field(default_factory=dict)
    aliases: dict[Source, Source] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)

    def source(self, source: Source) -> Source:
        """The source after the choices."""
        return follow_aliases(self.aliases)(source)


def make_choices(ops: Ops, roots: Iterable[Source], branches: Mapping[str, str] | None = None) -> BlockAfterChoices:
    """Make the choices whose value is a literal, in loop bodies too, and those in ``branches``, by key.

    roots: the sources needed from the block. Raises ``NodeError`` for a value without a branch, and ``WorkflowError``
    for a branch that does not fit the port that reads it.
    """
    result = BlockAfterChoices(dict(ops))
    if any(op.has_branches for op in walk(ops)):
        new_ops = _make_choices(ops, branches or {}, result)
        result.ops = _drop_unneeded(ops, new_ops, map(result.source, roots))
    return result


def _make_choices(ops: Ops, branches: Mapping[str, str], result: BlockAfterChoices) -> dict[str, Op]:
    new_ops: dict[str, Op] = {}
    for op in ops.values():
        match _replace_sources(op, result):
            case Loop() as loop:
                new_ops[op.key] = _make_choices_in_loop(loop, branches, result)
            case Choice() as choice if (branch := _find_known_branch(choice, branches)) is not None:
                result.taken[op.key] = branch
                result.aliases[Output(op.key, "out")] = choice.branches()[branch]
            case other:
                new_ops[op.key] = other
    return new_ops


def _find_known_branch(choice: Choice, branches: Mapping[str, str]) -> str | None:
    if choice.key in branches:
        return branches[choice.key]
    return choose_branch(choice, choice.when.value) if isinstance(choice.when, Literal) else None


def _make_choices_in_loop(loop: Loop, branches: Mapping[str, str], result: BlockAfterChoices) -> Loop:
    count = len(result.taken)
    new_loop = loop.with_blocks(*[_make_choices(block.ops, branches, result) for block in loop.blocks()])
    if len(result.taken) == count:
        return loop
    new_loop = _replace_sources(new_loop, result)
    blocks = zip(loop.blocks(), new_loop.blocks(), strict=True)
    return new_loop.with_blocks(*[_drop_unneeded(before.ops, after.ops, after.roots) for before, after in blocks])


def make_parameter_choices(ops: Ops, roots: Iterable[Source], values: Mapping[str, Any]) -> BlockAfterChoices:
    """Make the choices whose ``when`` is a parameter with a value. The parameters themselves are not bound."""
    result = BlockAfterChoices(dict(ops))
    root_sources = list(roots)
    while branches := {
        choice.key: choose_branch(choice, values[name])
        for choice in list_choices(walk(result.ops))
        for name in list_parameters([choice.when])
        if name in values
    }:
        next_result = make_choices(result.ops, map(result.source, root_sources), branches)
        result = BlockAfterChoices(
            next_result.ops, result.aliases | next_result.aliases, result.taken | next_result.taken
        )
    return result


AnyOp = TypeVar("AnyOp", bound=Op)


def _replace_sources(op: AnyOp, result: BlockAfterChoices) -> AnyOp:
    if not result.aliases:
        return op
    values = {source: result.source(source) for source in result.aliases}
    try:
        return cast(AnyOp, bind_sources(op, values))
    except ValueError as error:
        message = f"the value of a choice does not fit {error}"
        raise WorkflowError([Problem(op.mark, "bad-value", message, f"nodes.{op.key}")]) from error


def _drop_unneeded(before: Ops, after: Ops, roots: Iterable[Source]) -> dict[str, Op]:
    """The remaining operations, without those that only branches needed and nothing needs any more."""
    in_branches = find_branch_operations(before)
    return find_dependencies(after, roots, keep=lambda op: op.key not in in_branches)


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

    An operation that reads no parameter stays the same object, with all that is known of it.
    """
    if not list_parameters(op.sources()):
        return op
    return bind_sources(op, {Param(name): value for name, value in values.items()})


def bind_sources(op: Op, values: Mapping[Source, Source]) -> Op:
    """The operation with sources replaced by others; literals are converted for the ports that they feed.

    Raises ``ValueError`` for a literal that does not fit its port.
    """
    if op.has_blocks:
        return op.map_sources(
            lambda source: source if isinstance(source, Literal) else values.get(source, source),
            lambda inner: bind_sources(inner, values),
        )
    return replace(op, inputs=_bind(op, op.inputs, values), settings=_bind(op, op.settings, values))


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
    port = call.spec.ports.get(name)
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
        if not op.has_blocks or _is_empty(op):
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
    needed = [*names]
    arguments = find_known_arguments(call, needed, values)
    return arguments if arguments.keys() >= {*needed} else None


def find_known_arguments(call: Call, names: Iterable[str], values: Mapping[Source, Any]) -> dict[str, Any]:
    """Those of these settings and ports that have known plain values. values: as for ``read_known_arguments``."""
    inputs, settings, ports = call.inputs, call.settings, call.spec.ports
    arguments: dict[str, Any] = {}
    for name in names:
        source = settings[name] if name in settings else inputs.get(name)
        if source is None:
            value = ports[name].default if name in ports else REQUIRED
        elif isinstance(source, Literal):
            value = source.value
        else:
            value = REQUIRED if isinstance(source, Many) else values.get(source, REQUIRED)
        kind: Any = type(value)
        if value is not REQUIRED and not is_tensor_class(kind):
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
        if op.has_blocks:
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
