"""A choice that a bundle's run makes: both branches are exported, and the runtime runs the one that is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guidegraph.graph.export.errors import ExportError, NotPassedOn
from guidegraph.graph.export.leaves import leaves_of, statics_of
from guidegraph.graph.export.parts import is_number
from guidegraph.graph.ir import WHEN, Choice, Output, Source
from guidegraph_runtime.choices import CHOOSE
from guidegraph_runtime.manifest import Operation

if TYPE_CHECKING:
    from guidegraph.graph.export.walk import Walk


def choice_operation(choice: Choice, walk: Walk) -> Operation:
    """The plan's entry of a choice.

    ``of`` has each branch as ``{"from": {name in the choice: name in the branch}}``, or as ``{"is": value}`` where it
    is one plain value that is the same in every run. Raises ``ExportError`` where the branches differ in structure.
    """
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    if walk.is_dynamic(choice.when):
        inputs[WHEN] = walk.named(choice.when)[""]
    else:
        when = walk.value(choice.when)
        settings[WHEN] = when.item() if hasattr(when, "item") else when
    branches = {name: choice.branch(name) for name in choice.inputs}
    names = {name: _names(choice, source, walk) for name, source in branches.items()}
    _check_alike(choice, names, branches, walk)
    base = walk.name(Output(choice.key, "out"))
    ends = {path: f"{base}.{path}" if path else base for found in names.values() if found for path in found}
    for path in walk.named_statics(next(iter(branches.values()))):
        if path in ends:
            walk.statics[ends[path]] = ends[path]
    settings["of"] = {
        name: {"from": {ends[path]: at for path, at in found.items()}} if found else {"is": walk.value(branches[name])}
        for name, found in names.items()
    }
    inputs |= {at: at for found in names.values() for at in found.values()}
    return Operation(CHOOSE, choice.key, inputs, settings, tuple(ends.values()) or (base,))


def _names(choice: Choice, source: Source, walk: Walk) -> dict[str, str]:
    """What the run calls the values of a branch, by their paths; nothing for a plain value that never changes."""
    value = walk.value(source)
    if walk.is_dynamic(source) or leaves_of(value) or is_number(value):
        return walk.named(source) | walk.named_statics(source)
    if isinstance(value, (str, bool)) or value is None:
        return {}
    raise NotPassedOn(
        choice.key,
        f"nodes.{choice.key} (choose) gives a {type(value).__name__}, and a bundle passes on tensors, numbers, texts",
        "choose among what the models give instead",
        place=str(choice.mark),
    )


def _check_alike(choice: Choice, names: dict[str, dict[str, str]], branches: dict[str, Source], walk: Walk) -> None:
    """Raise ``ExportError`` unless all branches have the same fields, and the same values in those that are fixed."""

    def structure(name: str) -> tuple[set[str], dict[str, Any]]:
        fixed = {path: one for path, one in statics_of(walk.value(branches[name])).items() if path not in names[name]}
        return set(names[name]) or {""}, fixed

    first, *others = branches
    for name in others:
        if structure(name) != structure(first):
            raise ExportError(
                f"the branches '{first}' and '{name}' of nodes.{choice.key} give values of different structure: "
                f"{_shown(*structure(first))}; {_shown(*structure(name))}",
                "give both the same kind of value, or leave it out of the exported outputs (--only)",
                place=str(choice.mark),
            )


def _shown(paths: set[str], fixed: dict[str, Any]) -> str:
    plain = [f"{path}={value!r:.40}" for path, value in fixed.items()]
    return ", ".join([*(path or "one value" for path in sorted(paths)), *plain])
