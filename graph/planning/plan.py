"""From a validated graph to a flat plan: steps with numbered slots, without look-ups at run time.

A region (the top level, or a loop's body) becomes a ``RegionPlan``. A loop's body may need several, one for each set of
ports that ``needs`` drops in some iteration; they are made when first used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidegraph.graph.ir import (
    Call,
    Carry,
    Choice,
    Graph,
    Index,
    Item,
    Literal,
    Loop,
    Op,
    Output,
    Param,
    Source,
    walk,
)
from guidegraph.graph.planning.admission import check_shapes
from guidegraph.graph.planning.batch import BatchCall, group_siblings
from guidegraph.graph.planning.choices import choose_branch, find_next_choices, find_optional_operations
from guidegraph.graph.planning.digest import Digests, is_pure
from guidegraph.graph.planning.last_result import cache_last_result
from guidegraph.graph.planning.optimise import OutputSource, drop_unneeded, optimise
from guidegraph.graph.planning.passes import (
    ALL_PASSES,
    argument_source,
    bind_params,
    drop_ports,
    find_unneeded_ports,
    hoist,
    prune,
)
from guidegraph.graph.planning.settle import make_choices, make_parameter_choices
from guidegraph.graph.planning.steps import RegionPlan, Slots, Step, call_step, free_after_last_use
from guidegraph.graph.resolution.wiring_checks import check_wiring
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy, check_effects, list_parameter_paths
from guidegraph.graph.values.ownership import copy_parameter


@dataclass
class BodyPlan:
    """The plan of a loop's body: a prologue that depends on the loop's item alone, and variants of the main part.

    The variants differ in the ports that are dropped. before: computed once, after choices whose value comes from
    outside of the loop.
    """

    loop: Loop
    passes: frozenset[str]
    prologue: RegionPlan | None
    main_ops: dict[str, Op]
    roots: tuple[Source, ...]
    calls_with_needs: tuple[Call, ...]
    needs_sources: tuple[Source, ...]
    item_sources: tuple[Source, ...]
    before: RegionPlan | None = None
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
            late = _drop_ports(self.main_ops, dropped)
            plan = self._variants[dropped] = first_phase(
                late, self.roots, self.passes, training=self.loop.training is not None
            )
        return plan

    def whole(self) -> RegionPlan:
        """The plan of an iteration that needs all ports, with the choices as steps."""
        return flatten_region(self.main_ops, self.roots, self.passes, training=self.loop.training is not None)


def _plan_body_after_choices(loop: Loop, branches: Mapping[str, str], passes: frozenset[str]) -> BodyPlan:
    """The plan of a loop's body with these branches taken; operations that are now invariant run before it."""
    settled = make_choices({loop.key: loop}, [], branches).ops
    ops = hoist(settled) if "hoist" in passes else settled
    chosen = ops.pop(loop.key)
    assert isinstance(chosen, Loop)
    plan = plan_body(chosen, passes)
    if ops:
        read = {source for op in chosen.body.values() for source in op.sources()} | {*chosen.roots()}
        plan.before = flatten_region(ops, [s for s in read if isinstance(s, Output) and s.op in ops], passes)
    return plan


@dataclass
class Phase:
    """The part of a region that can run before its next choices; all of it if there are none.

    roots: the current source of each of the region's original roots.
    """

    region: RegionPlan
    choices: tuple[Choice, ...]
    roots: dict[Source, Source]
    later: dict[str, Op]
    passes: frozenset[str]
    training: bool
    _next_phases: dict[tuple[str, ...], Phase] = field(default_factory=dict)

    def after_branches(self, branches: tuple[str, ...]) -> Phase:
        """The next phase, after the choices have taken these branches."""
        phase = self._next_phases.get(branches)
        if phase is None:
            taken = {choice.key: branch for choice, branch in zip(self.choices, branches, strict=True)}
            settled = make_choices(self.later, self.roots.values(), taken)
            roots = {root: settled.source(source) for root, source in self.roots.items()}
            phase = self._next_phases[branches] = _phase(settled.ops, roots, self.passes, self.training)
        return phase


def first_phase(
    ops: Mapping[str, Op], roots: Iterable[Source], passes: frozenset[str], *, training: bool = False
) -> Phase:
    """The first phase of a region, and the only one if it has no choices."""
    return _phase(ops, {root: root for root in roots}, passes, training)


def _phase(ops: Mapping[str, Op], roots: dict[Source, Source], passes: frozenset[str], training: bool) -> Phase:
    choices = find_next_choices(ops, roots.values())
    if not choices:
        return Phase(flatten_region(ops, roots.values(), passes, training=training), (), roots, {}, passes, training)
    deciding = [choice.when for choice in choices]
    first_ops = prune(ops, deciding, effects=False)
    later = {key: op for key, op in ops.items() if key not in first_ops}
    read = (*deciding, *roots.values(), *(source for op in later.values() for source in op.sources()))
    results = dict.fromkeys(s for s in read if s in deciding or (isinstance(s, Output) and s.op in first_ops))
    return Phase(
        flatten_region(first_ops, results, passes, training=training, pruned=True),
        choices,
        roots,
        later,
        passes,
        training,
    )


def _drop_ports(ops: Mapping[str, Op], dropped: Collection[tuple[str, str]]) -> dict[str, Op]:
    """The operations without these ports, each given as (key of the call, port)."""
    return {
        key: drop_ports(op, frozenset(port for k, port in dropped if k == key)) if isinstance(op, Call) else op
        for key, op in ops.items()
    }


@dataclass
class Plan:
    """A bound, optimised graph, ready to run.

    bound: the operations before the passes, after the choices that could be made. taken: the branches of those, by key.
    output_sources: the outputs' sources in ``bound``. effects: a readable summary of each graph pass. only: whether
    only the outputs are computed, and nodes with effects are dropped. given_paths: files and folders that the user
    named for an untrusted workflow.
    """

    graph: Graph
    bound: Mapping[str, Op]
    ops: dict[str, Op]
    outputs: dict[str, OutputSource]
    digests: Digests
    passes: frozenset[str]
    effects: dict[str, str]
    output_sources: Mapping[str, OutputSource] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    only: bool = False
    given_paths: tuple[Path, ...] = ()

    def with_branches(self, branches: Mapping[str, str]) -> Plan:
        """The plan after these choices, as if the workflow had the branches in place of the choices."""
        device_key = self.digests.device_key
        plan = _optimise_with_choices(
            self.graph, self.bound, self.output_sources, device_key, self.passes, self.only, branches
        )
        return replace(plan, given_paths=self.given_paths)


def compile_plan(
    graph: Graph,
    values: Mapping[str, Any],
    *,
    place: str = "cpu float32",
    passes: Collection[str] = ALL_PASSES,
    only: Collection[str] | None = None,
    policy: Policy = OWN_WORKFLOW,
) -> Plan:
    """Bind the parameters, make the choices that they decide, and apply the graph passes as they are listed.

    values: a checked value for each parameter (``bind``). only: keep these outputs and their dependencies; by default,
    all outputs and the nodes with effects. policy: the files that the workflow may access. Raises ``KeyError`` for an
    output that does not exist, and ``WorkflowError`` for a file that the policy does not allow or a call that is wired
    wrong for these values.
    """
    needed = find_needed_ops(graph, only, values)
    check_effects(needed, values, policy)
    check_shapes(graph, values, only)
    literals = {name: Literal(copy_parameter(value)) for name, value in values.items()}
    ops = {key: bind_params(op, literals) for key, op in graph.ops.items()} if literals else dict(graph.ops)
    outputs: dict[str, OutputSource] = {}
    for name in list(graph.outputs) if only is None else list(only):
        output = graph.outputs[name]
        source = literals[output.source.name] if isinstance(output.source, Param) else output.source
        outputs[name] = (source, output.type)
    plan = _optimise_with_choices(graph, ops, outputs, place, frozenset(passes), only is not None, {})
    return replace(plan, given_paths=list_parameter_paths(needed, values, policy))


def _optimise_with_choices(
    graph: Graph,
    bound: Mapping[str, Op],
    output_sources: Mapping[str, OutputSource],
    device_key: str,
    passes: frozenset[str],
    only: bool,
    branches: Mapping[str, str],
) -> Plan:
    roots = [source for source, _ in output_sources.values()]
    if ("prune" in passes or only) and any(isinstance(op, Choice) for op in walk(bound)):
        # Prune before choices are made: afterwards it is unknown which nodes with effects belong to a branch.
        bound = drop_unneeded(bound, roots, effects=not only)
    settled = make_choices(bound, roots, branches)
    outputs = {name: (settled.source(source), kind) for name, (source, kind) in output_sources.items()}
    digests = Digests(device_key)
    digests.add(settled.ops)
    optimised = optimise(settled.ops, outputs, digests, passes, only=only)
    check_wiring(optimised.ops.values(), {})
    return Plan(
        graph,
        settled.ops,
        optimised.ops,
        optimised.outputs,
        digests,
        passes,
        optimised.effects,
        outputs,
        settled.taken,
        only,
    )


def find_needed_ops(graph: Graph, only: Collection[str] | None, values: Mapping[str, Any]) -> dict[str, Op]:
    """The operations that a run of these outputs needs; by default all outputs, and nodes with effects too.

    values: of the parameters. Of choices made by parameters, only the branches that are taken count.
    """
    roots = [graph.outputs[name].source for name in (graph.outputs if only is None else only)]
    settled = make_parameter_choices(graph.ops, roots, values)
    if only is None:
        return settled.ops
    return prune(settled.ops, map(settled.source, roots), effects=False)


def loop_roots(loop: Loop) -> tuple[Source, ...]:
    """The sources that each iteration must compute: next carries, collected values and losses."""
    return loop.roots()


def flatten_region(
    ops: Mapping[str, Op],
    roots: Iterable[Source],
    passes: frozenset[str],
    *,
    training: bool = False,
    pruned: bool = False,
) -> RegionPlan:
    """Number the slots of a region and list its steps in order. pruned: all operations are known to be needed."""
    root_sources = tuple(roots)
    if "prune" in passes and not pruned:
        ops = prune(ops, root_sources)
    ordered: Iterable[Op | BatchCall] = ops.values()
    if "batch" in passes and not training:
        ordered = group_siblings(ops)
    slots = Slots()
    steps = [_step(op, slots, passes) for op in ordered]
    results = {source: slots.of(source) for source in root_sources}
    free_after_last_use(steps, {*results.values(), *(slot for slot, _ in slots.constants)})
    return RegionPlan(slots.size, slots.constants, slots.inputs, steps, results)


def _step(op: Op | BatchCall, slots: Slots, passes: frozenset[str]) -> Step:
    if isinstance(op, BatchCall):
        members = tuple(call_step(call, slots) for call in op.calls)
        outs = tuple(slot for member in members for slot in member.outs)
        return Step(op, None, (), (), {}, outs, True, False, members=members, watch=members[0].watch)
    if isinstance(op, Call):
        return call_step(op, slots)
    closure = tuple((s, slots.of(s)) for s in dict.fromkeys(op.sources()))
    return Step(op, None, (), (), {}, slots.outputs(op), True, False, body=plan_body(op, passes), closure=closure)


def plan_body(loop: Loop, passes: frozenset[str]) -> BodyPlan:
    """Split a body into a prologue, which depends on the loop's item alone, and the rest."""
    prologue: dict[str, Op] = {}
    main_ops: dict[str, Op] = {}
    roots = loop_roots(loop)
    optional = find_optional_operations(loop.body, roots)
    if "precompute" in passes and loop.training is None:
        for key, op in loop.body.items():
            certain = isinstance(op, Call) and not isinstance(op, Choice) and key not in optional
            in_prologue = certain and is_pure(op) and not any(_reads_main(s, loop, main_ops) for s in op.sources())
            (prologue if in_prologue else main_ops)[key] = op
    else:
        main_ops = dict(loop.body)
    if optional and "hoist" in passes:
        main_ops |= {
            key: cache_last_result(op)
            for key, op in _find_invariant(loop).items()
            if key in optional and key in main_ops
        }
    needed = {s for op in main_ops.values() for s in op.sources()} | set(roots)
    prologue_roots = tuple(s for s in needed if isinstance(s, Output) and s.op in prologue)
    prologue_plan = flatten_region(prologue, prologue_roots, passes) if prologue else None
    deciders: tuple[Call, ...] = ()
    if "skip" in passes:
        deciders = tuple(op for op in main_ops.values() if isinstance(op, Call) and op.spec.needs is not None)
    needs_sources = tuple(
        source
        for call in deciders
        for name in call.spec.needs_arguments
        if not isinstance(source := argument_source(call, name) or Literal(None), (Literal, tuple))
        and not _reads_main(source, loop, main_ops)
    )
    item_sources = tuple(s for s in needed if isinstance(s, (Item, Index)) and s.loop == loop.key)
    return BodyPlan(loop, passes, prologue_plan, main_ops, roots, deciders, needs_sources, item_sources)


def _find_invariant(loop: Loop) -> dict[str, Call]:
    """The loop-invariant calls of a body that were not moved before the loop."""
    invariant: dict[str, Call] = {}
    for key, op in loop.body.items():
        reads: list[Source] = [s for s in op.sources() if isinstance(s, (Carry, Item, Index)) and s.loop == loop.key]
        reads += [s for s in op.sources() if isinstance(s, Output) and s.op in loop.body and s.op not in invariant]
        if not reads and isinstance(op, Call) and not isinstance(op, Choice) and is_pure(op):
            invariant[key] = op
    return invariant


def _reads_main(source: Source, loop: Loop, late: Mapping[str, Op]) -> bool:
    if isinstance(source, Carry):
        return source.loop == loop.key
    return isinstance(source, Output) and source.op in late
