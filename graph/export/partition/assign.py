"""Partition of the operations: computed at export, run on the host by the runtime, or traced into a graph.

Only operations that depend on a parameter or a loop are left for the run. A parameter stays one if all of its readers
can take it at run time; otherwise it is fixed at its value at export, and the bundle records why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guidegraph.graph.export.errors import ExportError, raise_together
from guidegraph.graph.ir import Call, Op, list_choices, walk
from guidegraph.graph.kinds import find_kind
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Index, Item, Output, Param, Source, list_parameters, list_sources
from guidegraph_runtime.operations import shapes_read_by


@dataclass
class Roles:
    """A partition of operations.

    dynamic: the keys of those left for the run. hosted: the keys of those among them that the runtime does. fixed: the
    reason for each fixed parameter, by name.
    """

    dynamic: set[str] = field(default_factory=set)
    hosted: set[str] = field(default_factory=set)
    fixed: dict[str, str] = field(default_factory=dict)


def partition_operations(
    ops: Mapping[str, Op],
    params: Mapping[str, bool],
    numbers: Collection[str],
    *,
    one_graph: bool = False,
    at_export: Collection[str] = (),
    in_run: Collection[str] = (),
    fixed_before: Mapping[str, str] | None = None,
) -> Roles:
    """Partition the operations, and fix the parameters that cannot be inputs of a bundle.

    params: for each parameter, whether its type can be an input of a bundle. numbers: parameters whose value is a
    number, which a graph can take. at_export: operations that run only at export, since a run cannot pass on their
    results; the parameters that they read are fixed. in_run: operations to leave for the run though they are constant,
    unless a reader cannot run there. one_graph: all traced operations become one graph, so the runtime
    does only the operations before it. fixed_before: parameters that are already fixed, with the reasons.
    Raises ``ExportError`` for the operations that must run in a loop and can neither be traced nor done by the runtime.
    """
    fixed = {
        name: "a bundle takes no input of its type, or that is infinite at export"
        for name, fits in params.items()
        if not fits
    }
    fixed |= fixed_before or {}
    on_host = all_host_calls = find_host_calls(ops, numbers, fixed)
    while True:
        reads = _find_parameters_read(ops, fixed, in_run)
        refused: list[ExportError] = []
        newly_fixed = dict(_find_parameters_to_fix(ops, reads, fixed, on_host, numbers, at_export, refused))
        if one_graph:
            newly_fixed |= _fix_choice_parameters(ops, reads, fixed, refused)
        raise_together(refused)
        if not newly_fixed:
            dynamic = {key for key, names in reads.items() if names is not None}
            # The prelude is known only after all parameters to fix are fixed.
            prelude = _find_prelude(ops, dynamic, all_host_calls) if one_graph else all_host_calls
            if prelude != on_host:
                on_host = prelude
                continue
            return Roles(dynamic, on_host, {name: reason for name, reason in fixed.items() if name in params})
        fixed.update(newly_fixed)
        on_host = all_host_calls = find_host_calls(ops, numbers, fixed)


_LOOP = "<loop>"


def _find_parameters_read(
    ops: Mapping[str, Op], fixed: Mapping[str, str], in_run: Collection[str]
) -> dict[str, frozenset[str] | None]:
    """The parameters on which each operation depends, with `<loop>` for a loop; None if it is constant.

    An operation that the runtime can do is left for the run even if it is constant, so that its settings, such as a
    sampler's, can be changed there, and so is one of ``in_run``. Its key then stands for it among the parameters.
    """
    parameters_by_key: dict[str, frozenset[str] | None] = {}

    def reads(source: Source) -> frozenset[str]:
        match source:
            case Param(name):
                return frozenset() if name in fixed else frozenset({name})
            case Carry() | Item() | Index():
                return frozenset({_LOOP})
            case Output(key):
                return parameters_by_key.get(key) or frozenset()
        return frozenset()

    for op in walk(ops):
        names: frozenset[str] = frozenset()
        if op.has_blocks:
            names = frozenset({_LOOP})
        elif op.key not in fixed:
            ports = (*op.spec.inputs.values(), *op.spec.settings.values())
            reads_files = any(Path in port.type.alternatives for port in ports)
            if op.key in in_run or (op.spec.runtime and not reads_files and not op.has_branches):
                names = frozenset({op.key})
        for source in op.sources():
            names |= reads(source)
        parameters_by_key[op.key] = names or None
    return parameters_by_key


def _find_parameters_to_fix(
    ops: Mapping[str, Op],
    reads: Mapping[str, frozenset[str] | None],
    fixed: Mapping[str, str],
    hosted: set[str],
    numbers: Collection[str],
    at_export: Collection[str],
    refused: list[ExportError],
) -> Iterator[tuple[str, str]]:
    """Names of parameters, each with the reason to fix it. Appends errors of operations to ``refused``."""
    for op in walk(ops):
        names = reads[op.key]
        if names is None:
            continue
        if op.has_blocks:
            if problem := find_kind(op.kind).export_problem:
                refused.append(ExportError(f"nodes.{op.key} {problem[0]}", problem[1], place=str(op.mark)))
            continue
        if op.key not in at_export if op.has_branches else op.key in hosted:
            continue
        if op.key in at_export and _LOOP not in names:
            why = f"nodes.{op.key} ({op.spec.id}) makes a model of it, and runs at export only"
            yield from ((name, why) for name in sorted(names))
            continue
        if runs_on_host(op) and op.spec.host:
            refused.append(
                ExportError(
                    f"nodes.{op.key} ({op.spec.id}) is computed from what the graph gives, and cannot be traced (host)",
                    "leave it out of the exported outputs (--only), or export a bundle instead, which can have it "
                    "between two graphs: leave out --single-file",
                    place=str(op.mark),
                )
            )
            continue
        if op.spec.host or not op.spec.pure:
            if _LOOP in names:
                kind = "host" if op.spec.host else "not pure"
                refused.append(
                    ExportError(
                        f"nodes.{op.key} ({op.spec.id}) is computed from what a loop gives, cannot be traced ({kind}), "
                        "and the runtime has no such operation",
                        "leave it out of the exported outputs (--only), or use a node that can be traced",
                        place=str(op.mark),
                    )
                )
                continue
            why = f"nodes.{op.key} ({op.spec.id}) runs at export only"
            yield from ((name, why) for name in sorted(names))
            continue
        for name, port in op.parameters():
            if name not in fixed and not (name in numbers and _takes_numbers(port)):
                yield name, f"nodes.{op.key} ({op.spec.id}) takes it while it is traced"


def _fix_choice_parameters(
    ops: Mapping[str, Op],
    reads: Mapping[str, frozenset[str] | None],
    fixed: Mapping[str, str],
    refused: list[ExportError],
) -> dict[str, str]:
    """The parameters to fix because choices depend on them: one graph has one branch of each choice.

    Appends choices that depend on a value computed in the run to ``refused``.
    """
    reasons: dict[str, str] = {}
    for choice in list_choices(walk(ops)):
        when, node = choice.when, f"nodes.{choice.key} (choose)"
        if reads[choice.key] is None:
            continue
        if not isinstance(when, Param):
            refused.append(
                ExportError(
                    f"{node} is made by what a run computes, and one graph has one branch of a choice",
                    "export a bundle instead, which makes choices: leave out --single-file",
                    place=str(choice.mark),
                )
            )
        elif when.name not in fixed:
            reasons[when.name] = f"{node} is made by it, and one graph has one branch of a choice"
    return reasons


def runs_on_host(call: Call) -> bool:
    """Whether the runtime does a call, or the first part of it."""
    return call.spec.runtime or call.spec.split is not None


def find_host_calls(ops: Mapping[str, Op], numbers: Collection[str], fixed: Collection[str] = ()) -> set[str]:
    """The keys of the calls that run on the host. fixed: parameters whose value is the same in every run.

    A call that the runtime can do and that can also be traced runs on the host at the top level. In a loop it is traced
    if it reads a tensor of a graph, so that it does not split the graph, unless it reads a parameter that a graph
    cannot take. A tensor that is the same in every run, such as a model's schedule, is not of a graph.
    """
    host: set[str] = set()
    traced: set[str] = set()
    changing: set[str] = set()
    for op in walk(ops):
        per_run = any(name not in fixed for name in list_parameters(op.sources()))
        per_step = any(isinstance(source, (Carry, Item, Index)) for source in op.sources())
        derived = any(isinstance(source, Output) and source.op in changing for source in op.sources())
        if op.has_blocks or per_run or per_step or derived:
            changing.add(op.key)
        if op.has_blocks or not runs_on_host(op):
            if op.key in changing:
                traced.add(op.key)
            continue
        looped = op.key not in ops
        fits = all(name in numbers and _takes_numbers(port) for name, port in op.parameters())
        may_be_traced = fits and op.spec.split is None and not op.spec.host and op.spec.pure
        sources = [source for port_sources in op.inputs.values() for source in list_sources(port_sources)]
        reads_graph = any(isinstance(s, Carry) or (isinstance(s, Output) and s.op in traced) for s in sources)
        (traced if looped and may_be_traced and reads_graph else host).add(op.key)
    return host


def _takes_numbers(port: Port) -> bool:
    return float in port.type.alternatives or port.type.is_any


def _find_prelude(ops: Mapping[str, Op], dynamic: set[str], hosted: set[str]) -> set[str]:
    """The host operations that depend on no traced operation, so that they can run before the graph.

    Ports of which an operation reads only the shape, such as ``like`` of noise, do not count as a dependency, nor does
    the iteration's index there.
    """
    after_graph: set[str] = set()

    def reads(source: Source) -> bool:
        return isinstance(source, (Carry, Item, Index)) or (isinstance(source, Output) and source.op in after_graph)

    prelude = set()
    for op in walk(ops):
        if op.key not in dynamic:
            continue
        needed = [*op.sources()]
        if not op.has_blocks and (shapes := shapes_read_by(op.spec.id)):
            needed = [source for name, source in op.links() if name not in {*shapes, "index"}]
        if op.key in hosted and not any(map(reads, needed)):
            prelude.add(op.key)
        if op.key not in prelude or any(map(reads, op.sources())):
            after_graph.add(op.key)
    return prelude
