"""Host operations, which the torch-free runtime does between the graphs, as operations of a bundle's plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.example_values import ExampleValues
from guidegraph.graph.export.partition.leaves import plain_fields, tensor_leaves
from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.graph.ir import Call
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Literal, Many, Output, Param, Source, Sources, list_sources
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.types import PortType, Tensor
from guidegraph_runtime.bundle.manifest import Operation
from guidegraph_runtime.operations import OPERATIONS


def make_host_operation(call: Call, examples: ExampleValues) -> Operation:
    """The plan's operation for a call that the runtime does.

    Inputs are links by port: ``port.field`` for a structured value and ``port.0``, ``port.1``, … for a list. Non-tensor
    values that are the same in every run are settings, by port, ``port.field`` or ``port.0``.
    """
    links: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for name, sources in call.arguments():
        source_list, is_list = list_sources(sources), isinstance(sources, Many)
        if not any(examples.is_dynamic(source) or tensor_leaves(examples.value(source)) for source in source_list):
            values = [examples.value(source) for source in source_list]
            settings[name] = _to_json(call, name, values if is_list else values[0], examples)
            continue
        for i, source in enumerate(source_list):
            port = f"{name}.{i}" if is_list else name
            if not examples.is_dynamic(source) and not tensor_leaves(examples.value(source)) and is_list:
                settings[port] = _to_json(call, name, examples.value(source), examples)
                continue
            names = _all_names(source, examples)
            links |= {f"{port}.{path}" if path else port: value_name for path, value_name in names.items()}
            if not is_list and not examples.is_dynamic(source):
                for path, value in plain_fields(examples.value(source)).items():
                    if value is not None:
                        settings[f"{name}.{path}"] = _to_json(call, name, value, examples)
    outputs = [
        value_name for name in call.outputs for value_name in _all_names(Output(call.key, name), examples).values()
    ]
    return Operation(op=call.spec.id, node=call.key, inputs=links, settings=settings, outputs=tuple(outputs))


def _all_names(source: Source, examples: ExampleValues) -> dict[str, str]:
    return examples.value_names(source) | examples.field_names(source)


def _to_json(call: Call, name: str, value: Any, examples: ExampleValues) -> Any:
    """A literal as JSON; bytes, and files named by paths, become files of the bundle."""
    if isinstance(value, bytes):
        return {"file": examples.host.add_file(f"{call.spec.id.replace('.', '/')}.json", value)}
    if isinstance(value, Path):
        return {
            "file": examples.host.add_file(
                f"{call.spec.id.replace('.', '/')}{file_suffix(value)}", read_regular(value, limit="file_bytes")
            )
        }
    if isinstance(value, (list, tuple)):
        return [_to_json(call, name, item, examples) for item in value]
    if isinstance(value, dict):
        return {str(key): _to_json(call, name, item, examples) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ExportError(
        f"nodes.{call.key} ({call.spec.id}) gets a {type(value).__name__} as '{name}', which the runtime does not know",
        "leave it out of the exported outputs (--only), or use a node that can be traced",
        place=str(call.mark),
    )


def file_suffix(path: Path) -> str:
    """The suffix of a file's copy in a bundle."""
    return path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", path.suffix) else ""


def find_recipe(call: Call, examples: ExampleValues) -> ExportRecipe | None:
    """The recipe of a node that runs partly on the host; None if it has none for these values."""
    assert call.spec.split is not None
    known_values = {
        name: examples.value(source)
        for name, source in call.arguments()
        if not isinstance(source, Many) and not examples.is_dynamic(source)
    }
    recipe: ExportRecipe | None = call.spec.split(**known_values)
    return recipe


def split_call(call: Call, examples: ExampleValues) -> tuple[Call, Call, ExportRecipe]:
    """A node that runs partly on the host as two calls, with their recipe.

    The first call is the runtime's operation, the second the function that is traced.
    """
    parts = find_recipe(call, examples)
    if parts is None:
        raise ExportError(
            f"nodes.{call.key} ({call.spec.id}) cannot be taken apart for these values",
            "fix what it depends on by leaving it out of the parameters, or use another encoder",
            place=str(call.mark),
        )
    kinds = {name: PortType((type(name, (Tensor,), {"axes": axes}),)) for name, axes in parts.outputs.items()}
    key = f"{call.key}.host"
    host_inputs = {
        host_port: source
        for node_port, host_port in parts.ports.items()
        for name, source in call.arguments()
        if name == node_port
    }
    settings: dict[str, Sources] = {name: Literal(value) for name, value in parts.settings.items()}
    port_names = (*host_inputs, parts.beside) if parts.beside else (*host_inputs,)
    ports = {name: Port(name, Any, PortType((object,))) for name in port_names}
    host_function = _wrap_operation(parts.operation, tuple(ports), tuple(kinds))
    first = NodeSpec(parts.operation, host_function, ports, {}, kinds, len(kinds) > 1, runtime=True)
    tensors = {name: Port(name, Any, kind) for name, kind in kinds.items()}
    second = replace(
        call.spec,
        function=parts.function,
        inputs=tensors,
        settings={},
        host=False,
        split=None,
        runtime=False,
        needs=None,
    )
    links: dict[str, Sources] = {name: Output(key, name if len(kinds) > 1 else "out") for name in kinds}
    return (
        replace(call, key=key, spec=first, inputs=host_inputs, settings=settings, checks=()),
        replace(call, spec=second, inputs=links, settings={}, checks=()),
        parts,
    )


def are_siblings(a: ExportRecipe, b: ExportRecipe) -> bool:
    """Whether two recipes are of the same operation and settings, so that their calls may fill up to one size."""
    return (a.operation, a.settings) == (b.operation, b.settings)


def link_siblings(calls: Sequence[tuple[Call, ExportRecipe]], examples: ExampleValues) -> list[Call]:
    """Calls of the runtime's operations, each with the links of its siblings at its recipe's port `beside`.

    Only parameters and constants are linked, which are known before any operation runs.
    """
    linked: list[Call] = []
    for call, recipe in calls:
        own = [source for sources in call.inputs.values() for source in list_sources(sources)]
        beside = [
            source
            for other, its in calls
            if are_siblings(recipe, its)
            for sources in other.inputs.values()
            for source in list_sources(sources)
        ]
        sources: list[Source] = []
        for source in beside:
            is_early = isinstance(source, Param) or not examples.is_dynamic(source)
            if is_early and source not in own and source not in sources:  # a constant list has no hash
                sources.append(source)
        if recipe.beside and sources:
            linked.append(replace(call, inputs={**call.inputs, recipe.beside: Many(tuple(sources))}))
    return linked


def _wrap_operation(name: str, ports: tuple[str, ...], outputs: tuple[str, ...]) -> Callable[..., Any]:
    """An operation of the runtime wrapped as a node's function, for the example run."""

    def run(*args: Any, **by_name: Any) -> Any:
        results: Mapping[str, Any] = OPERATIONS[name](**dict(zip(ports, args, strict=False)), **by_name)
        if isinstance(results.get("out"), Mapping):
            results = results["out"]
        tensors = tuple(torch.from_numpy(results[output]) for output in outputs)
        return tensors if len(tensors) > 1 else tensors[0]

    return run
