"""One call of a workflow as a bundle of its own: its denoiser, say, for the engine or another program to use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from guidegraph.graph.context import placement
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.leaves import leaves_of, statics_of
from guidegraph.graph.export.parts import Given, PartInput, PartPlan, is_number, plan_part
from guidegraph.graph.export.precision import EVERY_STEP
from guidegraph.graph.export.roles import is_host
from guidegraph.graph.export.walk import Walk, entries
from guidegraph.graph.export.workflow import Exported, OnPart, traced_parts
from guidegraph.graph.hosted import kinds
from guidegraph.graph.ir import Call, Carry, Graph, Index, Item, Literal, Loop, Op, Output, Param, Source, Sources, walk
from guidegraph.graph.plan import compile_plan
from guidegraph.graph.trust.policy import YOURS, Policy
from guidegraph.graph.types import PortType, register_structured
from guidegraph_runtime.manifest import Input, Operation
from guidegraph_runtime.names import CALL, FIELDS, MASKS


def calls_named(graph: Graph, name: str) -> list[Call]:
    """The calls that a name may mean, which can be traced: a node, with or without where it is, or a model port.

    Of calls of one node on one model the first is taken: they differ in what a bundle is given anyway.
    """
    calls = [op for op in walk(graph.ops) if isinstance(op, Call) and _is_traceable(op)]
    found = [call for call in calls if call.key == name] or [
        call for call in calls if re.split(r"[./]", call.key)[-1] == name
    ]
    if found:
        return found
    first: dict[tuple[str, Sources], Call] = {}
    for call in calls:
        port = call.spec.port(name)
        if name in call.inputs and port is not None and kinds(port.type) == {"model"}:
            first.setdefault((call.spec.id, call.inputs[name]), call)
    return list(first.values())


def _is_traceable(call: Call) -> bool:
    made = {kind for port in call.outputs.values() for kind in kinds(port)}
    return call.spec.pure and not (call.spec.host or is_host(call)) and made <= {"tensor", "structured"}


def export_call(
    graph: Graph,
    values: Mapping[str, Any],
    name: str,
    *,
    device: str = "cpu",
    precision: Mapping[str, str] | None = None,
    on_part: OnPart | None = None,
    policy: Policy = YOURS,
) -> Exported:
    """Run a workflow up to one call, and trace that call alone.

    Its tensors become inputs, named as the ports, or as the fields of structured values: ``x``, ``t``, ``tokens``. What
    its numbers are wired from become inputs with defaults; models and all else are in the graph. Raises ``ExportError``
    for a name that means no call or several, and for what `export_workflow` raises it.
    """
    import torch

    found = calls_named(graph, name)
    if len(found) != 1:
        named = f"'{name}' means {', '.join(call.key for call in found)}" if found else f"no node is named '{name}'"
        raise ExportError(named, "give the place of one node, as guidegraph plan shows it")
    call = found[0]
    register_structured()
    label = re.sub(r"\W", "_", name)
    with placement(device, "float32"), torch.no_grad():
        state = _reached(graph, values, call, policy)
        state.evaluate(call)
        part, numbers = _part(call, state, label)
    precision = {label if at == EVERY_STEP else at: one for at, one in (precision or {}).items()}
    (traced,) = traced_parts([part], device, precision, on_part)
    inputs = {
        one.name: Input("float", default=numbers[one.name])
        if one.name in numbers
        else Input("tensor", required=True, dtype=_dtype(one), dims=traced.traced.inputs[one.name])
        for one in traced.plan.inputs
    }
    links = {one: f"params.{one}" for one in inputs}
    operation = Operation("part", label, links, _settings(call, state), part.outputs)
    reason = f"only nodes.{call.key} was exported"
    fixed = {param: reason for param in graph.params if param not in inputs and param.isidentifier()}
    examples = {one.name: one.example for one in traced.plan.inputs if one.name not in numbers}
    outputs = {one: one for one in part.outputs}
    return Exported(graph, inputs, fixed, outputs, (operation,), (traced,), state.host, values, examples)


def _reached(graph: Graph, values: Mapping[str, Any], call: Call, policy: Policy) -> Walk:
    """The example run with all that a call reads, in the first iteration of the loops around it."""
    known: dict[Source, Any] = {Param(name): value for name, value in values.items()}
    state = Walk(compile_plan(graph, values, policy=policy), set(), known, {})
    around = _loops_around(graph.ops, call.key)
    needed = _needed(graph.ops, [*call.sources(), *(loop.over for loop in around)])
    region: Mapping[str, Op] = graph.ops
    for loop in (*around, None):
        for op in region.values():
            if op.key in needed:
                state.evaluate(op)
        if loop is None:
            break
        rows = entries(state.value(loop.over))
        if not len(rows):
            raise ExportError(f"nodes.{loop.key} runs over nothing", "give it an entry or more", place=str(loop.mark))
        carried = {name: source for name, source in loop.carry.items() if not _is_lacking(state, source)}
        state.values.update({Carry(loop.key, name): state.value(source) for name, source in carried.items()})
        state.items[loop.key] = loop.item
        state.enter(loop, rows, 0)
        region = loop.body
    return state


def _is_lacking(state: Walk, source: Source) -> bool:
    return not isinstance(source, Literal) and source not in state.values


def _loops_around(ops: Mapping[str, Op], key: str) -> list[Loop]:
    """The loops in whose bodies a call is, outermost first."""
    found: list[Loop] = []
    region = ops
    while key not in region:
        inner = next(op for op in region.values() if isinstance(op, Loop) and key in {one.key for one in walk(op.body)})
        found.append(inner)
        region = inner.body
    return found


def _needed(ops: Mapping[str, Op], wanted: Iterable[Source]) -> set[str]:
    """The keys of what some values depend on, carried ones through what their loops start with."""
    known = {op.key: op for op in walk(ops)}
    found: set[str] = set()
    left = list(wanted)
    while left:
        source = left.pop()
        if isinstance(source, Carry):
            loop = known[source.loop]
            assert isinstance(loop, Loop)
            left.append(loop.carry[source.name])
        elif isinstance(source, (Item, Index)):
            loop = known[source.loop]
            assert isinstance(loop, Loop)
            left.append(loop.over)
        elif isinstance(source, Output) and source.op not in found:
            found.add(source.op)
            left += known[source.op].sources()
    return found


def _part(call: Call, state: Walk, label: str) -> tuple[PartPlan, dict[str, float]]:
    """The call as a function of what it reads, and the numbers among that."""
    given: list[Given] = []
    constants: dict[Source, Any] = {}

    def wired(port: str, source: Source, kind: PortType | None) -> Source:
        if isinstance(source, Literal):
            return source
        value, at = state.value(source), Param(port)
        if leaves_of(value) or isinstance(value, float):
            given.append(Given(at, port, value, kind))
        else:
            constants[at] = value
        return at

    def all_wired(ports: Mapping[str, Sources]) -> dict[str, Sources]:
        found: dict[str, Sources] = {}
        for port, sources in ports.items():
            declared = call.spec.port(port)
            kind = None if declared is None else declared.type
            if isinstance(sources, tuple):
                found[port] = tuple(wired(f"{port}.{i}", source, None) for i, source in enumerate(sources))
            else:
                found[port] = wired(port, sources, kind)
        return found

    alone = replace(call, inputs=all_wired(call.inputs), settings=all_wired(call.settings), checks=())
    results = [
        Given(Output(call.key, port), "" if port == "out" else port, state.values[Output(call.key, port)], kind)
        for port, kind in call.outputs.items()
    ]
    part = plan_part(label, [alone], given, constants, results, in_loop=True)
    names = _names([one.name for one in part.inputs], [name.lstrip(".") or "out" for name in part.outputs])
    inputs = tuple(replace(one, name=name) for one, name in zip(part.inputs, names, strict=False))
    numbers = {port.name.rpartition(".")[2]: float(port.value) for port in given if is_number(port.value)}
    return replace(part, inputs=inputs, outputs=tuple(names[len(inputs) :])), numbers


def _names(inputs: list[str], outputs: list[str]) -> list[str]:
    """Short names: the last word of a place, and all of its words where another has the same."""
    found: list[str] = []
    for places in (inputs, outputs):
        words = Counter(place.rpartition(".")[2] for place in places)
        for place in places:
            word = place.rpartition(".")[2]
            name = word if words[word] == 1 and word.isidentifier() else place.replace(".", "_")
            found.append(f"new_{name}" if name in found else name)
    return found


def _settings(call: Call, state: Walk) -> dict[str, Any]:
    """What a program that uses the graph must know beside its tensors."""
    fixed = {
        f"{port}.{path}".removeprefix("out."): value
        for port in call.outputs
        for path, value in statics_of(state.values[Output(call.key, port)]).items()
        if isinstance(value, (bool, int, float, str))
    }
    models = (state.values[source] for source in _read(call) if source in state.values)
    return {CALL: call.spec.id, FIELDS: fixed, MASKS: any(getattr(one, MASKS, False) is True for one in models)}


def _dtype(one: PartInput) -> str:
    return str(one.example.dtype).removeprefix("torch.")


def _read(call: Call) -> Iterator[Source]:
    return (source for source in call.sources() if not isinstance(source, Literal))
