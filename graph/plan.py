"""From a validated graph to a flat plan: steps with numbered slots, nothing left to look up.

A region (the top level, or a loop's body) becomes a ``RegionPlan``. A loop's body may need several,
one for each set of ports that ``needs`` leaves out in some iteration; they are made when first met.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guidegraph.graph.admission import check_shapes
from guidegraph.graph.batch import BatchCall, batched
from guidegraph.graph.checked import check_wiring
from guidegraph.graph.digest import Digests, is_pure
from guidegraph.graph.ir import Call, Carry, Graph, Index, Item, Literal, Loop, Op, Output, Param, Source, Sources
from guidegraph.graph.node import Watch
from guidegraph.graph.output_check import Fits, output_check
from guidegraph.graph.ownership import is_mutable, own_parameter
from guidegraph.graph.passes import (
    ALL_PASSES,
    aliased,
    argument_source,
    bind_params,
    hoist,
    merge,
    prune,
    rewrite,
    skip,
    unneeded,
    without,
)
from guidegraph.graph.trust.policy import YOURS, Policy, check_effects
from guidegraph.graph.types import PortType

Slot = int


@dataclass(slots=True)
class Step:
    """One call, with slots for arguments.

    function: the node's; None for a loop or a batch. args: slots (or tuples of slots) of leading ports, passed by
    position; wired: ports and settings passed by name; constants: literal settings. outs: where each output goes.
    checks: for each output, whether a value is of its type; None where any is. named: the outputs come as a NamedTuple.
    plain: positions and constants are all there is, and nothing is checked.
    validated: wired settings to validate. mutable: constants that each call is given a copy of. frees: slots whose last
    use this is. members: the calls of a batch.
    body: a loop's body, and closure what the loop reads from outside. watch: what of the process is put back after it.
    """

    op: Call | Loop | BatchCall
    function: Callable[..., Any] | None
    args: tuple[Slot | tuple[Slot, ...], ...]
    wired: tuple[tuple[str, Slot | tuple[Slot, ...]], ...]
    constants: dict[str, Any]
    outs: tuple[Slot, ...]
    named: bool
    plain: bool
    validated: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()
    checks: tuple[Fits | None, ...] = ()
    frees: tuple[Slot, ...] = ()
    members: tuple[Step, ...] = ()
    body: BodyPlan | None = None
    closure: tuple[tuple[Source, Slot], ...] = ()
    watch: Watch = "nothing"


@dataclass(slots=True)
class RegionPlan:
    """Flat steps over ``size`` slots. ``inputs`` are slots filled from outside of the region."""

    size: int
    constants: list[tuple[Slot, Any]]
    inputs: list[tuple[Source, Slot]]
    steps: list[Step]
    results: dict[Source, Slot]


@dataclass
class BodyPlan:
    """A loop's body: what depends on the loop's entry alone (``early``), and the rest by what it leaves out."""

    loop: Loop
    passes: frozenset[str]
    early: RegionPlan | None
    late: dict[str, Op]
    roots: tuple[Source, ...]
    deciders: tuple[Call, ...]
    decider_sources: tuple[Source, ...]
    late_inputs: tuple[Source, ...]
    _variants: dict[frozenset[tuple[str, str]], RegionPlan] = field(default_factory=dict)
    _specialised: dict[frozenset[tuple[str, str]], BodyPlan] = field(default_factory=dict)

    def specialise(self, outside: Mapping[Source, Any]) -> BodyPlan:
        """The plan once the values from outside of the loop are known.

        What they leave out in every iteration is dropped from the body, so that it is not computed ahead either.
        """
        dropped = frozenset((call.key, port) for call in self.deciders for port in unneeded(call, outside))
        if not dropped:
            return self
        plan = self._specialised.get(dropped)
        if plan is None:
            body = _without_ports(self.loop.body, dropped)
            if "prune" in self.passes:
                body = prune(body, self.roots)
            plan = self._specialised[dropped] = body_plan(replace(self.loop, body=body), self.passes)
        return plan

    def variant(self, values: Mapping[Source, Any]) -> RegionPlan:
        """The plan for an iteration in which these values are known."""
        dropped = frozenset((call.key, port) for call in self.deciders for port in unneeded(call, values))
        plan = self._variants.get(dropped)
        if plan is None:
            plan = self._variants[dropped] = self._compile(dropped)
        return plan

    def _compile(self, dropped: frozenset[tuple[str, str]]) -> RegionPlan:
        late = _without_ports(self.late, dropped)
        return flat_region(late, self.roots, self.passes, training=self.loop.training is not None)


def _without_ports(ops: Mapping[str, Op], dropped: Collection[tuple[str, str]]) -> dict[str, Op]:
    """The operations with these ports, each by its call's key and its name, left out."""
    return {
        key: without(op, frozenset(port for k, port in dropped if k == key)) if isinstance(op, Call) else op
        for key, op in ops.items()
    }


@dataclass
class Plan:
    """A bound, optimised graph, ready to run.

    bound: the operations before the passes. effects: what each graph pass did, for people, by its name.
    """

    graph: Graph
    bound: Mapping[str, Op]
    ops: dict[str, Op]
    outputs: dict[str, tuple[Source, PortType]]
    digests: Digests
    passes: frozenset[str]
    effects: dict[str, str]


def compile_plan(
    graph: Graph,
    values: Mapping[str, Any],
    *,
    place: str = "cpu float32",
    passes: Collection[str] = ALL_PASSES,
    only: Collection[str] | None = None,
    policy: Policy = YOURS,
) -> Plan:
    """Bind the parameters and apply the graph passes, in the order in which they are listed.

    ``values`` has a checked value for each parameter (``bind``). ``only`` keeps these outputs and what they
    need; without it, nodes with effects stay too. ``policy`` says which files the workflow may touch. Raises
    ``KeyError`` for an output that does not exist, and ``WorkflowError`` for a file that the policy does not allow and
    for a call that these values show to be wired wrong.
    """
    check_shapes(graph, values, only)
    chosen = frozenset(passes)
    check_effects(needed_ops(graph, only), values, policy)
    literals = {name: Literal(own_parameter(value)) for name, value in values.items()}
    ops = {key: bind_params(op, literals) for key, op in graph.ops.items()} if literals else dict(graph.ops)
    wanted = list(graph.outputs) if only is None else list(only)
    outputs: dict[str, tuple[Source, PortType]] = {}
    for name in wanted:
        out = graph.outputs[name]
        source = literals[out.source.name] if isinstance(out.source, Param) else out.source
        outputs[name] = (source, out.type)
    digests = Digests(place)
    digests.add(ops)
    bound = ops
    effects: dict[str, str] = {}
    aliases: dict[Source, Source] = {}

    def count(name: str, before: Mapping[str, Op], after: Mapping[str, Op]) -> None:
        effects[name] = f"{_size(before)} -> {_size(after)} operations"

    if "skip" in chosen:
        before = ops
        ops, aliases = skip(ops, {})
        ops = _follow(ops, aliases)
        count("skip", before, ops)
    if "hoist" in chosen:
        before = ops
        ops = hoist(ops)
        count("hoist", before, ops)
    if "merge" in chosen:
        before = ops
        ops, twins = merge(ops, digests)
        aliases = {**aliases, **twins}
        ops = _follow({key: _merge_body(op, digests, aliases) for key, op in ops.items()}, aliases)
        count("merge", before, ops)
    change = aliased(aliases)
    outputs = {name: (change(source), kind) for name, (source, kind) in outputs.items()}
    if "prune" in chosen or only is not None:
        before = ops
        ops = prune(ops, [s for s, _ in outputs.values()], effects=only is None)
        ops = {key: _prune_body(op) for key, op in ops.items()}
        ops = prune(ops, [s for s, _ in outputs.values()], effects=only is None)
        count("prune", before, ops)
    check_wiring(ops.values(), {})
    return Plan(graph, bound, ops, outputs, digests, chosen, effects)


def needed_ops(graph: Graph, only: Collection[str] | None) -> dict[str, Op]:
    """The operations that a run of these outputs needs; of all outputs, nodes with effects too."""
    if only is None:
        return dict(graph.ops)
    return prune(graph.ops, [graph.outputs[name].source for name in only], effects=False)


def _size(ops: Mapping[str, Op]) -> int:
    return sum(1 + (_size(op.body) if isinstance(op, Loop) else 0) for op in ops.values())


def _follow(ops: Mapping[str, Op], aliases: Mapping[Source, Source]) -> dict[str, Op]:
    if not aliases:
        return dict(ops)
    change = aliased(aliases)
    return {key: rewrite(op, change) for key, op in ops.items()}


def _merge_body(op: Op, digests: Digests, aliases: dict[Source, Source]) -> Op:
    if not isinstance(op, Loop):
        return op
    body, twins = merge(op.body, digests)
    aliases.update(twins)
    body = {key: _merge_body(inner, digests, aliases) for key, inner in body.items()}
    return _with_body(op, body)


def _prune_body(op: Op) -> Op:
    if not isinstance(op, Loop):
        return op
    body = {key: _prune_body(inner) for key, inner in prune(op.body, loop_roots(op)).items()}
    return _with_body(op, prune(body, loop_roots(op)))


def _with_body(loop: Loop, body: Mapping[str, Op]) -> Loop:
    return replace(loop, body=dict(body))


def loop_roots(loop: Loop) -> tuple[Source, ...]:
    """What each iteration must give: the next carries, the collected values and the losses."""
    losses = (m.loss for m in loop.training.models) if loop.training else ()
    return (*loop.next.values(), *loop.collect.values(), *losses)


class _Slots:
    def __init__(self) -> None:
        self.by_source: dict[Source, Slot] = {}
        self.constants: list[tuple[Slot, Any]] = []
        self.inputs: list[tuple[Source, Slot]] = []
        self.size = 0

    def new(self) -> Slot:
        self.size += 1
        return self.size - 1

    def of(self, source: Source) -> Slot:
        slot = self.by_source.get(source)
        if slot is None:
            slot = self.by_source[source] = self.new()
            if isinstance(source, Literal):
                self.constants.append((slot, source.value))
            else:
                self.inputs.append((source, slot))
        return slot

    def each(self, sources: Sources) -> Slot | tuple[Slot, ...]:
        return tuple(self.of(s) for s in sources) if isinstance(sources, tuple) else self.of(sources)

    def outputs(self, op: Op) -> tuple[Slot, ...]:
        slots = []
        for name in op.outputs:
            slot = self.by_source[Output(op.key, name)] = self.new()
            slots.append(slot)
        return tuple(slots)


def flat_region(
    ops: Mapping[str, Op],
    roots: Iterable[Source],
    passes: frozenset[str],
    *,
    training: bool = False,
    pruned: bool = False,
) -> RegionPlan:
    """Number the slots of a region and list its steps in order; ``pruned`` says that all operations are needed."""
    kept = tuple(roots)
    if "prune" in passes and not pruned:
        ops = prune(ops, kept)
    ordered: Iterable[Op | BatchCall] = ops.values()
    if "batch" in passes and not training:
        ordered = batched(ops)
    slots = _Slots()
    steps = [_step(op, slots, passes) for op in ordered]
    results = {source: slots.of(source) for source in kept}
    _free(steps, {*results.values(), *(slot for slot, _ in slots.constants)})
    return RegionPlan(slots.size, slots.constants, slots.inputs, steps, results)


def _step(op: Op | BatchCall, slots: _Slots, passes: frozenset[str]) -> Step:
    if isinstance(op, BatchCall):
        members = tuple(call_step(call, slots) for call in op.calls)
        outs = tuple(slot for member in members for slot in member.outs)
        return Step(op, None, (), (), {}, outs, True, False, members=members, watch=members[0].watch)
    if isinstance(op, Call):
        return call_step(op, slots)
    closure = tuple((s, slots.of(s)) for s in dict.fromkeys(op.sources()))
    return Step(op, None, (), (), {}, slots.outputs(op), True, False, body=body_plan(op, passes), closure=closure)


def call_step(call: Call, slots: _Slots) -> Step:
    """A call with its slots. Leading ports go by position, so that no dict is built for them."""
    args: list[Slot | tuple[Slot, ...]] = []
    names = iter(call.spec.inputs)
    for name in names:
        if name not in call.inputs:
            break
        args.append(slots.each(call.inputs[name]))
    by_name: list[tuple[str, Slot | tuple[Slot, ...]]] = [
        (name, slots.each(call.inputs[name])) for name in names if name in call.inputs
    ]
    constants, validated = dict[str, Any](), list[str]()
    for name, source in call.settings.items():
        if isinstance(source, Literal):
            constants[name] = source.value
        else:
            by_name.append((name, slots.each(source)))
            validated.append(name)
    mutable = tuple(name for name, value in constants.items() if is_mutable(value))
    plain = not by_name and not any(isinstance(a, tuple) for a in args) and not call.checks and not mutable
    return Step(
        call,
        call.spec.function,
        tuple(args),
        tuple(by_name),
        constants,
        slots.outputs(call),
        call.spec.named_outputs,
        plain,
        tuple(validated),
        mutable,
        tuple(map(output_check, call.outputs.values())),
        watch=call.spec.watch,
    )


def reads(step: Step) -> Iterable[Slot]:
    """The slots that a step reads."""
    for member in step.members:
        yield from reads(member)
    for slot in (*step.args, *(s for _, s in step.wired)):
        if isinstance(slot, tuple):
            yield from slot
        else:
            yield slot
    yield from (slot for _, slot in step.closure)


def _free(steps: list[Step], kept: set[Slot]) -> None:
    seen = set(kept)
    for step in reversed(steps):
        last = {slot for slot in (*reads(step), *step.outs) if slot not in seen}
        seen |= last
        step.frees = tuple(sorted(last))


def body_plan(loop: Loop, passes: frozenset[str]) -> BodyPlan:
    """Split a body into what depends on the loop's entry alone, and the rest."""
    early: dict[str, Op] = {}
    late: dict[str, Op] = {}
    roots = loop_roots(loop)
    if "precompute" in passes and loop.training is None:
        for key, op in loop.body.items():
            alone = isinstance(op, Call) and is_pure(op) and not any(_late(s, loop, late) for s in op.sources())
            (early if alone else late)[key] = op
    else:
        late = dict(loop.body)
    needed = {s for op in late.values() for s in op.sources()} | set(roots)
    early_roots = tuple(s for s in needed if isinstance(s, Output) and s.op in early)
    early_plan = flat_region(early, early_roots, passes) if early else None
    deciders: tuple[Call, ...] = ()
    if "skip" in passes:
        deciders = tuple(op for op in late.values() if isinstance(op, Call) and op.spec.needs is not None)
    watched = tuple(
        source
        for call in deciders
        for name in call.spec.needs_arguments
        if not isinstance(source := argument_source(call, name) or Literal(None), (Literal, tuple))
        and not _late(source, loop, late)
    )
    entries = tuple(s for s in needed if isinstance(s, (Item, Index)) and s.loop == loop.key)
    return BodyPlan(loop, passes, early_plan, late, roots, deciders, watched, entries)


def _late(source: Source, loop: Loop, late: Mapping[str, Op]) -> bool:
    if isinstance(source, Carry):
        return source.loop == loop.key
    return isinstance(source, Output) and source.op in late
