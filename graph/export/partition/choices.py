"""Choices made in a bundle's run: all branches are exported, and the runtime runs the one that is taken."""

from __future__ import annotations

from typing import Any

from guidegraph.graph.export.errors import ExportError, NotPassedOn
from guidegraph.graph.export.partition.example_values import ExampleValues
from guidegraph.graph.export.partition.leaves import plain_fields, tensor_leaves
from guidegraph.graph.export.partition.subgraph import is_number
from guidegraph.graph.ir import Choice
from guidegraph.graph.sources import Output, Source
from guidegraph_runtime.bundle.manifest import Operation
from guidegraph_runtime.declare.choice_words import CHOOSE, WHEN


def make_choice_operation(choice: Choice, examples: ExampleValues) -> Operation:
    """The plan's operation for a choice.

    ``of`` has each branch as ``{"from": {name in the choice: name in the branch}}``, or as ``{"is": value}`` for a
    plain value that is the same in every run. Raises ``ExportError`` if the branches differ in structure.
    """
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    if examples.is_dynamic(choice.when):
        inputs[WHEN] = examples.value_names(choice.when)[""]
    else:
        when = examples.value(choice.when)
        settings[WHEN] = when.item() if hasattr(when, "item") else when
    branches = {name: choice.branch(name) for name in choice.inputs}
    names = {name: _branch_names(choice, source, examples) for name, source in branches.items()}
    _check_same_structure(choice, names, branches, examples)
    base = examples.name(Output(choice.key, "out"))
    result_names = {
        path: f"{base}.{path}" if path else base
        for branch_names in names.values()
        if branch_names
        for path in branch_names
    }
    for path in examples.field_names(next(iter(branches.values()))):
        if path in result_names:
            examples.run_names[result_names[path]] = result_names[path]
    settings["of"] = {
        name: {"from": {result_names[path]: value_name for path, value_name in branch_names.items()}}
        if branch_names
        else {"is": examples.value(branches[name])}
        for name, branch_names in names.items()
    }
    inputs |= {value_name: value_name for branch_names in names.values() for value_name in branch_names.values()}
    return Operation(CHOOSE, choice.key, inputs, settings, tuple(result_names.values()) or (base,))


def _branch_names(choice: Choice, source: Source, examples: ExampleValues) -> dict[str, str]:
    """The names in the run of a branch's values by path; empty for a plain value that is the same in every run."""
    value = examples.value(source)
    if examples.is_dynamic(source) or tensor_leaves(value) or is_number(value):
        return examples.value_names(source) | examples.field_names(source)
    if isinstance(value, (str, bool)) or value is None:
        return {}
    raise NotPassedOn(
        choice.key,
        f"nodes.{choice.key} (choose) gives a {type(value).__name__}, and a bundle passes on tensors, numbers, texts",
        "choose among what the models give instead",
        place=str(choice.mark),
    )


def _check_same_structure(
    choice: Choice, names: dict[str, dict[str, str]], branches: dict[str, Source], examples: ExampleValues
) -> None:
    """Raise ``ExportError`` unless all branches have the same fields, with the same values in the constant ones."""

    def structure(name: str) -> tuple[set[str], dict[str, Any]]:
        fields = plain_fields(examples.value(branches[name]))
        fixed = {path: value for path, value in fields.items() if path not in names[name]}
        return set(names[name]) or {""}, fixed

    first, *remaining = branches
    for name in remaining:
        if structure(name) != structure(first):
            raise ExportError(
                f"the branches '{first}' and '{name}' of nodes.{choice.key} give values of different structure: "
                f"{_format_structure(*structure(first))}; {_format_structure(*structure(name))}",
                "give both the same kind of value, or leave it out of the exported outputs (--only)",
                place=str(choice.mark),
            )


def _format_structure(paths: set[str], fixed: dict[str, Any]) -> str:
    plain = [f"{path}={value!r:.40}" for path, value in fixed.items()]
    return ", ".join([*(path or "one value" for path in sorted(paths)), *plain])
