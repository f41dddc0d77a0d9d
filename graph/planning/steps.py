"""Blocks of a graph as steps over numbered slots, without look-ups at run time.

A block (the top level, or a loop's body) becomes a ``BlockPlan``. A loop's body may need several, one for each set of
ports that ``needs`` drops in some iteration; they are made when first used.

The batch pass: sibling calls of a batchable node on the same model become one call.

Siblings are calls of one node that agree in everything that is not batchable and do not depend on each other. At run
time their arguments are concatenated along the leading axis (``call_as_batch``). If structure, dtypes or the other axes
do not match, the calls are made one by one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, cast

from guidegraph.graph.ir import Call, CallLayout, Choice, Loop, Op, find_loops, list_calls
from guidegraph.graph.node import Watch
from guidegraph.graph.planning.digest import FRESH, value_digest
from guidegraph.graph.planning.passes import (
    choose_branch,
    drop_ports,
    find_next_choices,
    find_optional_operations,
    find_unneeded_ports,
    hoist,
    make_choices,
    prune,
)
from guidegraph.graph.planning.topological_order import order_by_edges
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Source, Sources, list_sources


@dataclass(frozen=True)
class BatchCall:
    """Several calls that can run as one."""

    calls: tuple[Call, ...]

    @property
    def key(self) -> str:
        return self.calls[0].key


def group_siblings(ops: Mapping[str, Op]) -> list[Op | BatchCall]:
    """The operations in topological order, with siblings as one ``BatchCall``."""
    families: dict[Any, list[Call]] = {}
    for call in list_calls(ops.values()):
        if call.spec.batchable and call.spec.pure:
            families.setdefault(_family_key(call), []).append(call)
    groups: list[tuple[Call, ...]] = []
    for family in families.values():
        if len(family) > 1:
            groups += [tuple(g) for g in _group_independent(ops, {c.key: c for c in family}).values() if len(g) > 1]
    return _sort_batches(ops, groups) if groups else list(ops.values())


def _family_key(call: Call) -> Any:
    fixed = [(n, _sources_key(s)) for n, s in call.inputs.items() if n not in call.spec.batchable]
    ports = tuple(n for n in call.inputs if n in call.spec.batchable)
    return call.spec.id, ports, tuple(fixed), tuple(sorted((n, _sources_key(s)) for n, s in call.settings.items()))


def _sources_key(sources: Sources) -> str:
    return "|".join(map(_source_key, list_sources(sources)))


def _source_key(source: Source) -> str:
    if not isinstance(source, Literal):
        return repr(source)
    digest = value_digest(source.value)
    # Objects, such as models passed from Python, are compared by identity.
    return f"object {id(source.value)}" if digest.startswith(FRESH) else digest


def _group_independent(ops: Mapping[str, Op], family: Mapping[str, Call]) -> dict[int, list[Call]]:
    """Members by rank, the number of members on the longest path to each. Those of one rank are independent."""
    ranks: dict[str, int] = {}
    members: dict[int, list[Call]] = {}
    for key, op in ops.items():
        rank = max((ranks[s.op] for s in op.sources() if isinstance(s, Output) and s.op in ranks), default=0)
        ranks[key] = rank + (key in family)
        if key in family:
            members.setdefault(ranks[key], []).append(family[key])
    return members


def _sort_batches(ops: Mapping[str, Op], groups: Sequence[tuple[Call, ...]]) -> list[Op | BatchCall]:
    """Topological order with each group as one vertex; a group that would close a cycle is not joined."""
    leader = {key: key for key in ops}
    batches: dict[str, BatchCall] = {}
    for group in groups:
        trial = {**leader, **{call.key: group[0].key for call in group}}
        edges = _contract(ops, trial)
        if len(order_by_edges(edges)) == len(edges):
            leader = trial
            batches[group[0].key] = BatchCall(group)
    return [batches.get(key) or ops[key] for key in order_by_edges(_contract(ops, leader))]


def _contract(ops: Mapping[str, Op], leader: Mapping[str, str]) -> dict[str, set[str]]:
    """The operations that read each operation's outputs, with the members of a group as their leader, the first."""
    successors: dict[str, set[str]] = {leader[key]: set() for key in ops}
    for key, op in ops.items():
        for source in op.sources():
            if isinstance(source, Output) and source.op in ops:
                successors[leader[source.op]].add(leader[key])
    return successors


Slot = int


@dataclass(slots=True)
class Step:
    """A call, a batch of calls or a loop, with slots for arguments and outputs.

    call: the call; None for a loop or a batch. ops: the operation that the step runs, or the calls of a batch.
    function: of the node; None for a loop or a batch.
    args: slots (or tuples of slots) of leading ports, passed by position. wired: those passed by the name of their port
    or setting. layout: of a call. outs: the slot of each output. reads: all slots that the step reads. plain: see
    ``CallLayout``. watch: the process state to restore after it. frees: slots that this step is the last to use.
    members: the calls of a batch. joined: the arguments that a batch joins, by index if they are passed by position.
    body: of a loop. closure: the sources that a loop reads from outside.
    accelerated: computes the members of an accelerated part at once, from the slots.
    """

    call: Call | None
    ops: tuple[Op, ...]
    outs: tuple[Slot, ...]
    reads: tuple[Slot, ...]
    function: Callable[..., Any] | None = None
    args: tuple[Slot | tuple[Slot, ...], ...] = ()
    wired: tuple[tuple[str, Slot | tuple[Slot, ...]], ...] = ()
    layout: CallLayout | None = None
    plain: bool = False
    watch: Watch = "nothing"
    frees: tuple[Slot, ...] = ()
    members: tuple[Step, ...] = ()
    joined: tuple[int | str, ...] = ()
    body: BodyPlan | None = None
    closure: tuple[tuple[Source, Slot], ...] = ()
    accelerated: Callable[[list[Any]], None] | None = None

    def outputs(self) -> list[Output]:
        """The outputs that the step computes, in the order of ``outs``."""
        return [Output(op.key, name) for op in self.ops for name in op.outputs]


@dataclass(slots=True)
class BlockPlan:
    """Steps over ``size`` slots.

    constants: slots with literals. inputs: slots that are filled from outside of the block. results: the slot of each
    source that the block computes for others.
    """

    size: int
    constants: list[tuple[Slot, Any]]
    inputs: list[tuple[Source, Slot]]
    steps: list[Step]
    results: dict[Source, Slot]


class Slots:
    """The slots of a block by source.

    Of each operation's outputs, the first slot is kept by the key, with the positions of the others by name.
    """

    def __init__(self) -> None:
        self.constants: list[tuple[Slot, Any]] = []
        self.inputs: list[tuple[Source, Slot]] = []
        self.size = 0
        self._outputs: dict[str, tuple[Slot, Mapping[str, int]]] = {}
        self._by_source: dict[Source, Slot] = {}

    def of(self, source: Source) -> Slot:
        if type(source) is Output and (outputs := self._outputs.get(source.op)) is not None:
            return outputs[0] + outputs[1][source.name]
        slot = self._by_source.get(source)
        if slot is None:
            slot = self._by_source[source] = self.size
            self.size += 1
            if isinstance(source, Literal):
                self.constants.append((slot, source.value))
            else:
                self.inputs.append((source, slot))
        return slot

    def each(self, sources: Sources) -> Slot | tuple[Slot, ...]:
        return tuple(map(self.of, sources.sources)) if isinstance(sources, Many) else self.of(sources)

    def outputs(self, key: str, positions: Mapping[str, int]) -> tuple[Slot, ...]:
        """New slots for the outputs of an operation. positions: of each output by name."""
        first = self.size
        self._outputs[key] = first, positions
        self.size = first + len(positions)
        return (first,) if len(positions) == 1 else tuple(range(first, self.size))


def call_step(call: Call, slots: Slots) -> Step:
    """The step of a call."""
    spec, layout = call.spec, call.layout
    args: tuple[Slot | tuple[Slot, ...], ...]
    wired: tuple[tuple[str, Slot | tuple[Slot, ...]], ...] = ()
    if layout.flat:
        args = reads = tuple(map(slots.of, cast("tuple[Source, ...]", layout.leading)))
    else:
        args = tuple([slots.each(sources) for sources in layout.leading])
        wired = tuple([(name, slots.each(sources)) for name, sources in layout.by_name])
        flat: list[Slot] = []
        for slot in [*args, *[slot for _, slot in wired]]:
            if isinstance(slot, tuple):
                flat += slot
            else:
                flat.append(slot)
        reads = tuple(flat)
    outs = slots.outputs(call.key, spec.output_positions)
    return Step(call, (call,), outs, reads, spec.function, args, wired, layout, layout.plain, spec.watch)


def free_after_last_use(steps: list[Step], kept: set[Slot]) -> None:
    """Set ``frees`` of each step: the slots, except for those ``kept``, that it is the last to use."""
    seen = set(kept)
    for step in reversed(steps):
        frees: list[Slot] = []
        for slot in step.reads + step.outs:
            if slot not in seen:
                seen.add(slot)
                frees.append(slot)
        step.frees = tuple(frees)


@dataclass
class BodyPlan:
    """The plan of a loop's body: a prologue that depends on the loop's item alone, and variants of the main part.

    The variants differ in the ports that are dropped. main_ops: the operations of the main part. roots: the sources
    that each iteration computes. calls_with_needs: calls whose ports may be dropped. needs_sources: the sources that
    decide this. item_sources: the loop's item and index, where the main part reads them. before: computed once, after
    choices whose value comes from outside of the loop.
    """

    loop: Loop
    passes: frozenset[str]
    prologue: BlockPlan | None
    main_ops: dict[str, Op]
    roots: tuple[Source, ...]
    calls_with_needs: tuple[Call, ...]
    needs_sources: tuple[Source, ...]
    item_sources: tuple[Source, ...]
    before: BlockPlan | None = None
    _variants: dict[frozenset[tuple[str, str]], Phase] = field(default_factory=dict)
    _specialised: dict[frozenset[tuple[str, str]], BodyPlan] = field(default_factory=dict)
    _with_choices: dict[tuple[tuple[str, str], ...], BodyPlan] = field(default_factory=dict)

    def choose(self, outside: Mapping[Source, Any]) -> BodyPlan:
        """The plan after the choices whose value comes from outside of the loop; itself if there are none.

        Loop-invariant operations of the branches that are taken become its ``before``.
        """
        choices = [choice for choice in find_next_choices(self.main_ops, self.roots) if choice.when in outside]
        branches = tuple((choice.key, choose_branch(choice, outside[choice.when])) for choice in choices)
        if not branches:
            return self
        plan = self._with_choices.get(branches)
        if plan is None:
            plan = self._with_choices[branches] = _plan_body_after_choices(self.loop, dict(branches), self.passes)
        return plan

    def specialise(self, outside: Mapping[Source, Any]) -> BodyPlan:
        """The plan for known values from outside of the loop.

        Ports that these values make unneeded in every iteration are dropped, so the prologue does not compute them.
        """
        dropped = frozenset(
            (call.key, port) for call in self.calls_with_needs for port in find_unneeded_ports(call, outside)
        )
        if not dropped:
            return self
        plan = self._specialised.get(dropped)
        if plan is None:
            body = _drop_ports(self.loop.body, dropped)
            if "prune" in self.passes:
                body = prune(body, self.roots)
            plan = self._specialised[dropped] = plan_body(replace(self.loop, body=body), self.passes)
        return plan

    def variant(self, values: Mapping[Source, Any]) -> Phase:
        """The plan of an iteration with these known values."""
        dropped = frozenset(
            (call.key, port) for call in self.calls_with_needs for port in find_unneeded_ports(call, values)
        )
        plan = self._variants.get(dropped)
        if plan is None:
            main_ops = _drop_ports(self.main_ops, dropped)
            plan = self._variants[dropped] = first_phase(main_ops, self.roots, self.passes, self.loop.excluded_passes)
        return plan

    def flatten(self) -> BlockPlan:
        """The plan of an iteration that needs all ports, with the choices as steps."""
        return flatten_block(self.main_ops, self.roots, self.passes, self.loop.excluded_passes)


def _plan_body_after_choices(loop: Loop, branches: Mapping[str, str], passes: frozenset[str]) -> BodyPlan:
    """The plan of a loop's body with these branches taken; operations that are now invariant run before it."""
    after_choices = make_choices({loop.key: loop}, [], branches).ops
    ops = hoist(after_choices) if "hoist" in passes else after_choices
    chosen = find_loops(ops.values())[loop.key]
    plan = plan_body(chosen, passes)
    del ops[loop.key]
    if ops:
        read = {source for op in chosen.body.values() for source in op.sources()} | {*chosen.roots()}
        plan.before = flatten_block(ops, [s for s in read if isinstance(s, Output) and s.op in ops], passes)
    return plan


@dataclass
class Phase:
    """The part of a block that can run before its next choices; all of it if there are none.

    block: computes what the choices and later phases read; that of the last phase computes the roots, by their original
    source. roots: the current source of each of the block's original roots.
    """

    block: BlockPlan
    choices: tuple[Choice, ...]
    roots: dict[Source, Source]
    later: dict[str, Op]
    passes: frozenset[str]
    excluded: frozenset[str]
    _next_phases: dict[tuple[str, ...], Phase] = field(default_factory=dict)

    def after_branches(self, branches: tuple[str, ...]) -> Phase:
        """The next phase, after the choices have taken these branches."""
        phase = self._next_phases.get(branches)
        if phase is None:
            taken = {choice.key: branch for choice, branch in zip(self.choices, branches, strict=True)}
            after_choices = make_choices(self.later, self.roots.values(), taken)
            roots = {root: after_choices.source(source) for root, source in self.roots.items()}
            phase = self._next_phases[branches] = _phase(after_choices.ops, roots, self.passes, self.excluded)
        return phase


def first_phase(
    ops: Mapping[str, Op], roots: Iterable[Source], passes: frozenset[str], excluded: frozenset[str] = frozenset()
) -> Phase:
    """The first phase of a block, and the only one if it has no choices. excluded: see ``flatten_block``."""
    return _phase(ops, {root: root for root in roots}, passes, excluded)


def _phase(
    ops: Mapping[str, Op], roots: dict[Source, Source], passes: frozenset[str], excluded: frozenset[str]
) -> Phase:
    choices = find_next_choices(ops, roots.values())
    if not choices:
        block = flatten_block(ops, roots.values(), passes, excluded)
        block.results = {root: block.results[source] for root, source in roots.items()}
        return Phase(block, (), roots, {}, passes, excluded)
    deciding = [choice.when for choice in choices]
    first_ops = prune(ops, deciding, effects=False)
    later = {key: op for key, op in ops.items() if key not in first_ops}
    read = (*deciding, *roots.values(), *(source for op in later.values() for source in op.sources()))
    results = dict.fromkeys(s for s in read if s in deciding or (isinstance(s, Output) and s.op in first_ops))
    return Phase(
        flatten_block(first_ops, results, passes, excluded, pruned=True),
        choices,
        roots,
        later,
        passes,
        excluded,
    )


def _drop_ports(ops: Mapping[str, Op], dropped: Collection[tuple[str, str]]) -> dict[str, Op]:
    """The operations without these ports, each given as (key of the call, port)."""
    changed = dict(ops)
    for call in list_calls(ops.values()):
        changed[call.key] = drop_ports(call, frozenset(port for key, port in dropped if key == call.key))
    return changed


def flatten_block(
    ops: Mapping[str, Op],
    roots: Iterable[Source],
    passes: frozenset[str],
    excluded: frozenset[str] = frozenset(),
    *,
    pruned: bool = False,
) -> BlockPlan:
    """Number the slots of a block and list its steps in order.

    excluded: passes that are for the loops inside alone. pruned: all operations are known to be needed.
    """
    root_sources = tuple(roots)
    if "prune" in passes and not pruned:
        ops = prune(ops, root_sources)
    ordered: Iterable[Op | BatchCall] = ops.values()
    if "batch" in passes - excluded:
        ordered = group_siblings(ops)
    slots = Slots()
    steps = [call_step(op, slots) if type(op) is Call else _step(op, slots, passes) for op in ordered]
    results = {source: slots.of(source) for source in root_sources}
    free_after_last_use(steps, {*results.values(), *(slot for slot, _ in slots.constants)})
    return BlockPlan(slots.size, slots.constants, slots.inputs, steps, results)


def _step(op: Op | BatchCall, slots: Slots, passes: frozenset[str]) -> Step:
    match op:
        case BatchCall():
            members = tuple(call_step(call, slots) for call in op.calls)
            outs = tuple(slot for member in members for slot in member.outs)
            reads = tuple(slot for member in members for slot in member.reads)
            call = op.calls[0]
            leading = list(call.spec.inputs)[: len(members[0].args)]  # these are passed by position
            ports = [port for port in call.spec.batchable if port in call.inputs]
            joined = tuple(leading.index(port) if port in leading else port for port in ports)
            return Step(None, op.calls, outs, reads, watch=members[0].watch, members=members, joined=joined)
        case Loop():
            closure = tuple((s, slots.of(s)) for s in dict.fromkeys(op.sources()))
            positions = {name: i for i, name in enumerate(op.outputs)}
            reads, outs = tuple(slot for _, slot in closure), slots.outputs(op.key, positions)
            return Step(None, (op,), outs, reads, body=plan_body(op, passes), closure=closure)
        case Call():
            return call_step(op, slots)


def plan_body(loop: Loop, passes: frozenset[str]) -> BodyPlan:
    """Split a body into a prologue, which depends on the loop's item alone, and the rest.

    There is no prologue without the rest.
    """
    prologue: dict[str, Op] = {}
    main_ops: dict[str, Op] = {}
    roots = loop.roots()
    optional = find_optional_operations(loop.body, roots)
    if "precompute" in passes - loop.excluded_passes:
        for key, op in loop.body.items():
            certain = not (op.has_blocks or op.has_branches or key in optional)
            in_prologue = certain and op.is_pure and not any(_reads_main(s, loop, main_ops) for s in op.sources())
            (prologue if in_prologue else main_ops)[key] = op
    else:
        main_ops = dict(loop.body)
    if not main_ops:  # computing every item before the loop would save nothing, and delay its progress
        main_ops, prologue = prologue, {}
    if optional and "hoist" in passes:
        main_ops |= {
            key: cache_last_result(op)
            for key, op in _find_invariant(loop).items()
            if key in optional and key in main_ops
        }
    needed = {s for op in main_ops.values() for s in op.sources()} | set(roots)
    prologue_roots = tuple(s for s in needed if isinstance(s, Output) and s.op in prologue)
    prologue_plan = flatten_block(prologue, prologue_roots, passes) if prologue else None
    calls_with_needs: tuple[Call, ...] = ()
    if "skip" in passes:
        calls_with_needs = tuple(call for call in list_calls(main_ops.values()) if call.spec.needs is not None)
    needs_sources = tuple(
        source
        for call in calls_with_needs
        for name in call.spec.needs_arguments
        if not isinstance(source := call.argument(name) or Literal(None), (Literal, Many))
        and not _reads_main(source, loop, main_ops)
    )
    item_sources = tuple(s for s in needed if isinstance(s, (Item, Index)) and s.loop == loop.key)
    return BodyPlan(loop, passes, prologue_plan, main_ops, roots, calls_with_needs, needs_sources, item_sources)


def _find_invariant(loop: Loop) -> dict[str, Call]:
    """The loop-invariant calls of a body that were not moved before the loop."""
    invariant: dict[str, Call] = {}
    for call in list_calls(loop.body.values()):
        reads: list[Source] = [s for s in call.sources() if isinstance(s, (Carry, Item, Index)) and s.loop == loop.key]
        reads += [s for s in call.sources() if isinstance(s, Output) and s.op in loop.body and s.op not in invariant]
        if call.is_pure and not call.has_branches and not reads:
            invariant[call.key] = call
    return invariant


def _reads_main(source: Source, loop: Loop, main_ops: Mapping[str, Op]) -> bool:
    if isinstance(source, Carry):
        return source.loop == loop.key
    return isinstance(source, Output) and source.op in main_ops


def cache_last_result(call: Call) -> Call:
    """The call of a pure node that computes again only if its arguments differ from those of the last call.

    A loop-invariant value that only some iterations need is therefore computed in the first of them.
    """
    function = call.spec.function
    last: tuple[list[Any], Any] | None = None  # the arguments and the result, set at once: threads may run one plan

    @wraps(function)
    def run(*args: Any, **by_name: Any) -> Any:
        nonlocal last
        arguments = [*_flatten((*args, *by_name.values()))]
        kept = last
        if kept is None or len(kept[0]) != len(arguments) or not all(map(operator.is_, kept[0], arguments)):
            kept = last = (arguments, function(*args, **by_name))
        return kept[1]

    run.keeps_last_result = True  # type: ignore[attr-defined]
    return replace(call, spec=replace(call.spec, function=run))


def keeps_last_result(call: Call) -> bool:
    """Whether a call is one that ``cache_last_result`` made."""
    return getattr(call.spec.function, "keeps_last_result", False)


def _flatten(values: Iterable[Any]) -> Iterator[Any]:
    """The values with lists of links flattened."""
    for value in values:
        if isinstance(value, list):
            yield from (len(value), *value)
        else:
            yield value
