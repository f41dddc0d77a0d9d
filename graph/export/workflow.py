"""Exporting a validated workflow: the inputs, the host plan and the traced parts of a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

import torch

from guidegraph.graph.device_context import use_device
from guidegraph.graph.export.errors import ExportError, LeftForRun, NotPassedOn
from guidegraph.graph.export.file_stems import choose_stems
from guidegraph.graph.export.onnx.adaptable_weights import ADAPTABLE_METHOD
from guidegraph.graph.export.parameter_bounds import find_bounds
from guidegraph.graph.export.partition.assign import find_host_calls, partition_operations
from guidegraph.graph.export.partition.example_values import ExampleRun, ExampleValues, HostPlan
from guidegraph.graph.export.partition.host_operations import file_suffix
from guidegraph.graph.export.partition.host_planner import HostPlanner
from guidegraph.graph.export.partition.precision import PROVIDERS
from guidegraph.graph.export.partition.subgraph import is_number
from guidegraph.graph.export.trace_parts import ExportedPart, OnPart, multiples, trace_parts
from guidegraph.graph.ir import Graph, Op, Parameter
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.planning.passes import bind_params, hoist, make_choices, prune
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal, Output, Param, Source
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy
from guidegraph.graph.types import PortType, SequenceOf, register_structured
from guidegraph_runtime.allowed_files import choose_file_type, takes_file
from guidegraph_runtime.bundle.manifest import Input, Operation
from guidegraph_runtime.bundle.manifest_types import MULTIPLES, walk_operations
from guidegraph_runtime.declare.choice_words import CHOOSE, OTHERWISE, WHEN
from guidegraph_runtime.declare.settings import alternatives_of, words_of
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.compute import PARAMS


@dataclass(frozen=True)
class Exported:
    """An exported workflow.

    inputs: the remaining parameters. fixed: the reason why each of the others is fixed. outputs: the name in the run of
    each output's value. values: of all parameters at export. examples: of inputs that are tensors, with which the parts
    were traced. frozen: layers that a LoRA can no longer change, by the reason. iterations: of the example's loops by
    key, without inner ones.
    """

    graph: Graph
    inputs: Mapping[str, Input]
    fixed: Mapping[str, str]
    outputs: Mapping[str, str]
    plan: tuple[Operation, ...]
    parts: tuple[ExportedPart, ...]
    host: HostPlan
    values: Mapping[str, Any]
    examples: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    iterations: Mapping[str, int] = field(default_factory=dict)

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers of which one must run the parts; empty if any can."""
        return next((PROVIDERS[part.precision] for part in self.parts if part.precision in PROVIDERS), ())


OnPlan: TypeAlias = Callable[[Exported], None]
"""Called with an export without its parts, before they are traced."""


def export_workflow(
    graph: Graph,
    values: Mapping[str, Any],
    *,
    device: str = "cpu",
    only: Collection[str] | None = None,
    precision: Mapping[str, str] | None = None,
    on_part: OnPart | None = None,
    on_plan: OnPlan | None = None,
    one_graph: bool = False,
    policy: Policy = OWN_WORKFLOW,
) -> Exported:
    """Run a workflow once on its parameters' ``values`` as an example, and trace its parts.

    only: the outputs to export. precision: of parts by name, and of all parts in loops under ``EVERY_STEP``; others are
    fp32. on_part: called with each traced part and the seconds that it took. on_plan: called before any part is traced,
    with the export so far, which has no parts; it may raise an error. one_graph: all parts will form one graph, so the
    runtime does only the operations before it. policy: which files the workflow may access. Raises ``ExportError`` for
    operations that can neither be traced nor done by the runtime, and ``NodeError`` if the example fails.
    """
    planner, fixed, plan, outputs = plan_export(
        graph, values, device=device, only=only, one_graph=one_graph, policy=policy
    )
    frozen_models, host = planner.run.frozen, planner.examples.host
    names_read = {
        name.removeprefix("params.") for operation in _all_operations(plan) for name in operation.inputs.values()
    }
    names_read |= {
        str(operation.settings.get("over", "")).removeprefix("params.") for operation in _all_operations(plan)
    }
    free_values = {name: value for name, value in values.items() if name in names_read and name not in fixed}
    inputs = make_inputs({name: graph.params[name] for name in free_values}, free_values, plan, host)
    traced = {key for part in planner.parts for key in part.keys}
    counts = {name for name in numbers_in(values) if name in inputs and not inputs[name].many}
    constants = planner.examples.constants() | {Param(name): values[name] for name in fixed}
    for name, bounds in find_bounds(graph.ops, traced, counts, constants, 1 if one_graph else 0).items():
        if name in inputs and inputs[name].type in ("int", "float"):
            inputs[name] = replace(inputs[name], bounds=bounds)
    for name, labels in _find_branches(plan).items():
        if name in inputs and inputs[name].type in ("str", "int"):
            allowed: Any = labels if inputs[name].type == "str" else tuple(map(int, labels))
            inputs[name] = replace(inputs[name], choices=allowed)
    for name, words in _find_words(plan).items():
        if name in inputs and inputs[name].type == "str" and inputs[name].choices is None:
            inputs[name] = replace(inputs[name], choices=words)
    frozen = {
        f"nodes.{key} was computed with it at export: make a parameter of what it reads": [
            *getattr(model, ADAPTABLE_METHOD)()
        ]
        for key, model in frozen_models.values()
        if hasattr(model, ADAPTABLE_METHOD)
    }
    iterations = {
        key: len(planner.examples.list_items(loop))
        for key, loop in graph.loops.items()
        if loop.over in planner.examples.values
    }
    planned = Exported(graph, inputs, fixed, outputs, plan, (), host, values, frozen=frozen, iterations=iterations)
    if on_plan is not None:
        on_plan(planned)
    midway = find_host_calls(graph.ops, numbers_in(values)) - planner.hosted if one_graph else set()
    plans = [
        replace(part, models=tuple(m for m in part.models if id(m) not in frozen_models)) for part in planner.parts
    ]
    parts = trace_parts(plans, device, precision or {}, on_part, midway)
    plan = with_multiples(plan, {part.plan.name: multiples(part) for part in parts})
    return replace(planned, plan=plan, parts=parts)


def with_multiples(
    plan: Sequence[Operation], multiples_by_part: Mapping[str, Mapping[str, int]]
) -> tuple[Operation, ...]:
    """The plan with the factors of each part's axes, so that other sizes are refused before a run."""
    changed = []
    for operation in plan:
        if operation.op == "part" and (factors := multiples_by_part.get(operation.node)):
            operation = replace(operation, settings={**operation.settings, MULTIPLES: dict(factors)})
        if operation.body is not None:
            operation = replace(operation, body=with_multiples(operation.body, multiples_by_part))
        changed.append(operation)
    return tuple(changed)


@pause_collector()
def plan_export(
    graph: Graph,
    values: Mapping[str, Any],
    *,
    device: str = "cpu",
    only: Collection[str] | None = None,
    one_graph: bool = False,
    policy: Policy = OWN_WORKFLOW,
) -> tuple[HostPlanner, dict[str, str], tuple[Operation, ...], dict[str, str]]:
    """Do the example run. Returns the planner, the reasons for fixed parameters, the plan, and the outputs' names."""
    register_structured()
    output_sources = {name: out.source for name, out in graph.outputs.items() if only is None or name in only}
    ops: dict[str, Op] = hoist(prune(graph.ops, output_sources.values(), effects=False))
    fits = {
        name: input_type(parameter.port.type, values.get(name)) is not None for name, parameter in graph.params.items()
    }
    at_export: set[str] = set()
    in_run: set[str] = set()
    fixed_before: dict[str, str] = {}
    while True:
        roles = partition_operations(
            ops,
            fits,
            numbers_in(values),
            one_graph=one_graph,
            at_export=at_export,
            in_run=in_run,
            fixed_before=fixed_before,
        )
        literals = {name: Literal(values[name]) for name in roles.fixed}
        bound = {key: bind_params(op, literals) if literals else op for key, op in ops.items()}
        result = make_choices(bound, output_sources.values())
        if result.taken:  # export the branch in place of the choice
            ops, fixed_before = result.ops, roles.fixed
            output_sources = {name: result.source(source) for name, source in output_sources.items()}
            continue
        free_parameters: dict[Source, Any] = {
            Param(name): value for name, value in values.items() if name not in roles.fixed
        }
        compiled = compile_plan(graph, values, RunConfig(only=only, policy=policy))
        examples = ExampleValues(free_parameters, roles.dynamic)
        planner = HostPlanner(ExampleRun(compiled, examples), roles.hosted, one_graph, frozenset(in_run))
        try:
            with use_device(device, "float32"), torch.no_grad():
                plan = planner.plan_block(bound, [*output_sources.values()])
            break
        except LeftForRun as error:
            in_run.add(error.key)
        except NotPassedOn as error:
            if not error.key or error.key in at_export:
                raise
            at_export.add(error.key)
    outputs = {}
    for name, source in output_sources.items():
        if not isinstance(source, Output) or not examples.is_dynamic(source):
            raise ExportError(
                f"output '{name}' is the same in every run",
                "leave it out (--only)",
                place=str(graph.outputs[name].mark),
            )
        names = examples.value_names(source)
        if list(names) != [""]:
            raise ExportError(
                f"output '{name}' is a structured value ({', '.join(names)}), and a bundle gives tensors",
                "leave it out (--only)",
                place=str(graph.outputs[name].mark),
            )
        outputs[name] = names[""]
    return planner, roles.fixed, plan, outputs


def numbers_in(values: Mapping[str, Any]) -> set[str]:
    """The names of the values that are numbers; booleans do not count."""
    return {name for name, value in values.items() if is_number(value)}


def _find_branches(plan: tuple[Operation, ...]) -> dict[str, tuple[str, ...]]:
    """By parameter, the branches of the choices that it makes, unless they have one for other values."""
    branches: dict[str, tuple[str, ...]] = {}
    for operation in _all_operations(plan):
        when = operation.inputs.get(WHEN, "")
        if operation.op != CHOOSE or not when.startswith("params."):
            continue
        labels: Any = operation.settings["of"]
        name = when.removeprefix("params.")
        if OTHERWISE not in labels:
            branches[name] = tuple(label for label in labels if label in branches.get(name, labels))
    return branches


def _find_words(plan: tuple[Operation, ...]) -> dict[str, tuple[str, ...]]:
    """By parameter, the words that every setting of the runtime's operations that reads it takes, such as samplers."""
    by_parameter: dict[str, tuple[str, ...]] = {}
    for operation in _all_operations(plan):
        hints = OPERATIONS[operation.op].hints if operation.op in OPERATIONS else {}
        for port, source in operation.inputs.items():
            words = words_of(hints.get(port))
            if source.startswith("params.") and words:
                name = source.removeprefix("params.")
                by_parameter[name] = tuple(word for word in words if word in by_parameter.get(name, words))
    return by_parameter


def _all_operations(plan: tuple[Operation, ...]) -> list[Operation]:
    return [inner for operation in plan for inner in (operation, *_all_operations(operation.body or ()))]


KINDS: Mapping[type, str] = {str: "str", int: "int", float: "float", bool: "bool", Path: "path"}


def input_type(kind: PortType, value: Any) -> tuple[str, bool] | None:
    """The type of a parameter as a bundle's input, and whether it takes a list; None if it cannot be an input.

    If the type only says that it is a list, the type of its elements at export counts; lists of numbers in a list are
    ``numbers``. A parameter that is infinite at export cannot be an input, since the file of a bundle has finite
    numbers only.
    """
    if any(isinstance(number, float) and not math.isfinite(number) for number in _flatten(value)):
        return None
    plain = [
        alternative
        for alternative in kind.alternatives
        if not isinstance(alternative, SequenceOf) and alternative not in (list, tuple)
    ]
    many = len(plain) < len(kind.alternatives)
    if not plain and isinstance(value, (list, tuple)):
        plain = list({type(alternative) for alternative in value})
    if len(plain) == 1 and plain[0] in (list, tuple) and all(map(is_number, _flatten(value))):
        return "numbers", True
    if len(plain) != 1 or plain[0] not in KINDS:
        return None
    return KINDS[plain[0]], many


def _flatten(value: Any) -> Iterator[Any]:
    """The elements of a list, or of the lists in it; any other value alone."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        yield from item if isinstance(item, (list, tuple)) else [item]


def make_inputs(
    parameters: Mapping[str, Parameter], values: Mapping[str, Any], plan: Sequence[Operation], host: HostPlan
) -> dict[str, Input]:
    """The inputs of a bundle. values: their defaults. plan: what reads them. host: takes the files that they name.

    Raises ``ExportError`` for a file that cannot be read.
    """
    stems = choose_stems(values)
    needed = _find_needed(plan)
    readers: dict[str, set[str]] = {}  # the operations that read the file of each parameter that names one
    for operation in walk_operations(plan):
        for port, source in operation.inputs.items():
            if source.startswith(PARAMS) and takes_file(operation.op, port):
                readers.setdefault(source.removeprefix(PARAMS), set()).add(operation.op)
    inputs = {}
    for name, parameter in parameters.items():
        value, stem, optional = values[name], stems[name], parameter.port.type.optional
        type_and_many = input_type(parameter.port.type, value)
        assert type_and_many is not None
        kind, many = type_and_many
        if kind == "path" and name in readers:
            kind = choose_file_type(readers[name])
        if isinstance(value, Path):
            value = _keep_file(parameter, stem, value, host)
        elif isinstance(value, (list, tuple)):
            numbered = enumerate(value)
            value = [_keep_file(parameter, f"{stem}-{i}", v, host) if isinstance(v, Path) else v for i, v in numbered]
        inputs[name] = Input(
            kind,
            default=value,
            help=parameter.help,
            many=many,
            required=value is None and not optional,
            optional=value is not None and optional and name not in needed,
        )
    return inputs


def _find_needed(plan: Iterable[Operation]) -> set[str]:
    """The parameters that some operation of a plan reads, and does not take as null."""
    needed = set()
    for operation in walk_operations(plan):
        hints = OPERATIONS[operation.op].hints if operation.op in OPERATIONS else {}
        links = {**operation.inputs, "over": str(operation.settings.get("over", ""))}
        for port, source in links.items():
            kind, dot, name = source.partition(".")
            if kind == "params" and dot and NoneType not in alternatives_of(hints.get(port)):
                needed.add(name)
    return needed


def _keep_file(parameter: Parameter, stem: str, path: Path, host: HostPlan) -> str:
    """Copy the file that a parameter names into the bundle, as the default of the input, and return its name there."""
    file = f"inputs/{stem}{file_suffix(path)}"
    try:
        host.files[file] = read_regular(path, limit="file_bytes")
    except OSError as error:
        reason = f"parameter '{parameter.name}' names '{path}', which cannot be read: {error.strerror}"
        raise ExportError(reason, "give it a file", place=str(parameter.mark)) from error
    return file
