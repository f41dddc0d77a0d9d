"""Exporting one call of a workflow, such as its denoiser, as a bundle for the engine or another program."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from guidegraph.graph.device_context import use_device
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.assign import runs_on_host
from guidegraph.graph.export.partition.example_values import ExampleRun, ExampleValues
from guidegraph.graph.export.partition.leaves import plain_fields, tensor_leaves
from guidegraph.graph.export.partition.precision import EVERY_STEP
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartPlan, is_number, plan_part
from guidegraph.graph.export.trace_parts import OnPart, trace_parts
from guidegraph.graph.export.workflow import Exported
from guidegraph.graph.ir import Call, Graph, Loop, Op, find_loops, walk, walk_calls
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.port import port_kinds
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param, Source, Sources
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy
from guidegraph.graph.types import PortType, register_structured
from guidegraph_runtime.bundle.manifest import Input, Operation
from guidegraph_runtime.bundle.manifest_types import CALL, FIELDS, MASKS


def find_calls(graph: Graph, name: str) -> list[Call]:
    """The traceable calls that a name may mean: a node, by its full or its last name, or a model port.

    Of the calls of one node on one model, only the first is returned: they differ only in the bundle's inputs.
    """
    calls = [
        call
        for call in walk_calls(graph.ops)
        if call.spec.pure
        and not (call.spec.host or runs_on_host(call))
        and {kind for port in call.outputs.values() for kind in port_kinds(port)} <= {"tensor", "structured"}
    ]
    matches = [call for call in calls if call.key == name] or [
        call for call in calls if re.split(r"[./]", call.key)[-1] == name
    ]
    if matches:
        return matches
    first: dict[tuple[str, Sources], Call] = {}
    for call in calls:
        port = call.spec.ports.get(name)
        if name in call.inputs and port is not None and port_kinds(port.type) == {"model"}:
            first.setdefault((call.spec.id, call.inputs[name]), call)
    return list(first.values())


def export_call(
    graph: Graph,
    values: Mapping[str, Any],
    name: str,
    *,
    device: str = "cpu",
    precision: Mapping[str, str] | None = None,
    on_part: OnPart | None = None,
    policy: Policy = OWN_WORKFLOW,
) -> Exported:
    """Run a workflow up to one call, and trace that call alone.

    Its tensors become inputs, named after the ports or the fields of structured values: ``x``, ``t``, ``tokens``. Wired
    finite numbers become inputs with defaults; models and everything else become part of the graph. Raises
    ``ExportError`` for a name that means no call or several, and for the same reasons as `export_workflow`.
    """
    matches = find_calls(graph, name)
    if len(matches) != 1:
        problem = (
            f"'{name}' means {', '.join(call.key for call in matches)}" if matches else f"no node is named '{name}'"
        )
        raise ExportError(problem, "give the place of one node, as guidegraph plan shows it")
    call = matches[0]
    register_structured()
    label = re.sub(r"\W", "_", name)
    with use_device(device, "float32"), torch.no_grad():
        run = _run_up_to(graph, values, call, policy)
        run.evaluate(call)
        part, numbers = _plan_call(call, run.examples, label)
    precision = {label if part_name == EVERY_STEP else part_name: port for part_name, port in (precision or {}).items()}
    (traced,) = trace_parts([part], device, precision, on_part)
    inputs = {
        port.name: Input("float", default=numbers[port.name])
        if port.name in numbers
        else Input(
            "tensor",
            required=True,
            dtype=str(port.example.dtype).removeprefix("torch."),
            dims=traced.traced.inputs[port.name],
        )
        for port in traced.plan.inputs
    }
    links = {port: f"params.{port}" for port in inputs}
    operation = Operation("part", label, links, _describe_call(call, run.examples), part.outputs)
    reason = f"only nodes.{call.key} was exported"
    fixed = {param: reason for param in graph.params if param not in inputs and param.isidentifier()}
    examples = {port.name: port.example for port in traced.plan.inputs if port.name not in numbers}
    outputs = {port: port for port in part.outputs}
    return Exported(graph, inputs, fixed, outputs, (operation,), (traced,), run.examples.host, values, examples)


def _run_up_to(graph: Graph, values: Mapping[str, Any], call: Call, policy: Policy) -> ExampleRun:
    """An example run of everything that a call reads, in the first iteration of the loops around it."""
    parameters: dict[Source, Any] = {Param(name): value for name, value in values.items()}
    examples = ExampleValues(parameters)
    run = ExampleRun(compile_plan(graph, values, RunConfig(policy=policy)), examples)
    loops: list[Loop] = []  # around the call, outermost first
    block: Mapping[str, Op] = graph.ops
    while call.key not in block:
        inner = find_loops(block.values()).values()
        loops.append(next(loop for loop in inner if call.key in {op.key for op in walk(loop.body)}))
        block = loops[-1].body
    needed = _find_needed(graph.ops, [*call.sources(), *(loop.over for loop in loops)])
    block = graph.ops
    for loop in (*loops, None):
        for op in block.values():
            if op.key in needed:
                run.evaluate(op)
        if loop is None:
            break
        items = examples.list_items(loop)
        for name, source in loop.carry.items():
            if isinstance(source, Literal) or source in examples.values:
                examples.values[Carry(loop.key, name)] = examples.value(source)
        examples.items[loop.key] = loop.item
        examples.enter_iteration(loop, items, 0)
        block = loop.body
    return run


def _find_needed(ops: Mapping[str, Op], sources: Iterable[Source]) -> set[str]:
    """The keys of the operations that some sources depend on; a carried value depends on its loop's start value."""
    ops_by_key = {op.key: op for op in walk(ops)}
    loops = find_loops(ops_by_key.values())

    def leave_loops(source: Source) -> Source:
        while isinstance(source, (Carry, Item, Index)):
            loop = loops[source.loop]
            source = loop.carry[source.name] if isinstance(source, Carry) else loop.over
        return source

    roots = map(leave_loops, sources)
    return set(find_dependencies(ops_by_key, roots, reads=lambda op: map(leave_loops, op.sources())))


def _plan_call(call: Call, examples: ExampleValues, label: str) -> tuple[PartPlan, dict[str, float]]:
    """The call as a part whose inputs are the values that it reads, and the numbers among those."""
    inputs_read: list[ExampleValue] = []
    constants: dict[Source, Any] = {}

    def connect(port: str, source: Source, kind: PortType | None) -> Source:
        if isinstance(source, Literal):
            return source
        value, param = examples.value(source), Param(port)
        if tensor_leaves(value) or (isinstance(value, float) and math.isfinite(value)):
            inputs_read.append(ExampleValue(param, port, value, kind))
        else:
            constants[param] = value
        return param

    def connect_all(ports: Mapping[str, Sources]) -> dict[str, Sources]:
        connected: dict[str, Sources] = {}
        for port, sources in ports.items():
            declared = call.spec.ports.get(port)
            kind = None if declared is None else declared.type
            if isinstance(sources, Many):
                elements = enumerate(sources.sources)
                connected[port] = Many(tuple(connect(f"{port}.{i}", source, None) for i, source in elements))
            else:
                connected[port] = connect(port, sources, kind)
        return connected

    isolated = replace(call, inputs=connect_all(call.inputs), settings=connect_all(call.settings), checks=())
    outputs = {port: Output(call.key, port) for port in call.outputs}
    results = [
        ExampleValue(output, "" if port == "out" else port, examples.values[output], call.outputs[port])
        for port, output in outputs.items()
    ]
    part = plan_part(label, [isolated], inputs_read, constants, results, in_loop=True)
    names = _short_names(
        [part_input.name for part_input in part.inputs], [name.lstrip(".") or "out" for name in part.outputs]
    )
    inputs = tuple(replace(part_input, name=name) for part_input, name in zip(part.inputs, names, strict=False))
    numbers = {port.name.rpartition(".")[2]: float(port.value) for port in inputs_read if is_number(port.value)}
    return replace(part, inputs=inputs, outputs=tuple(names[len(inputs) :])), numbers


def _short_names(inputs: list[str], outputs: list[str]) -> list[str]:
    """Short names: the last word of a dotted path, or all of its words if the last one is not unique."""
    names: list[str] = []
    for paths in (inputs, outputs):
        words = Counter(path.rpartition(".")[2] for path in paths)
        for path in paths:
            last_word = path.rpartition(".")[2]
            name = last_word if words[last_word] == 1 and last_word.isidentifier() else path.replace(".", "_")
            names.append(f"new_{name}" if name in names else name)
    return names


def _describe_call(call: Call, examples: ExampleValues) -> dict[str, Any]:
    """The settings that a program needs to use the graph, besides its tensors."""
    fixed = {
        f"{port}.{path}".removeprefix("out."): value
        for port in call.outputs
        for path, value in plain_fields(examples.values[Output(call.key, port)]).items()
        if isinstance(value, (bool, int, float, str))
    }
    models = (examples.values[source] for source in call.sources() if source in examples.values)
    return {CALL: call.spec.id, FIELDS: fixed, MASKS: any(getattr(model, MASKS, False) is True for model in models)}
