"""A workflow that another one uses as a node: its operations are put in the node's place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.graph.errors import WorkflowError, choices, closest
from guidegraph.graph.ir import Literal, Op, Parameter
from guidegraph.graph.link_rule import narrows
from guidegraph.graph.literals import absolute_path
from guidegraph.graph.parsed import ParsedNode, ParsedWorkflow
from guidegraph.graph.paths import PACKAGE
from guidegraph.graph.scope import Entry, Scope, Typed
from guidegraph.graph.wiring import Origin
from guidegraph.graph.yamltree import Scalar, short

if TYPE_CHECKING:
    from guidegraph.graph.elaborate import Elaborator, Place

NOT_CARRIED = "this workflow is a stranger's, and does not carry that file"
MAX_FILES = 32


def used_path(use: str, base: Path) -> Path:
    """The file of a workflow that is used. Raises ``ValueError``."""
    return Path(os.path.normpath(absolute_path(use, base)))


def used_shown(use: str, path: Path, folder: str) -> str:
    """A used workflow's path as errors show it; folder: that of the workflow that uses it, as errors show it."""
    return str(path) if use.startswith((PACKAGE, "~", "/")) else os.path.normpath(os.path.join(folder, use))


def elaborate_workflow(
    e: Elaborator, node: ParsedNode, scope: Scope, key: str, place: Place
) -> tuple[dict[str, Op], Entry]:
    """The operations of the workflow that ``node`` uses, and its outputs as the node's."""
    path, workflow = _read(e, node, place)
    if path is None or workflow is None:
        e.follow(node, scope)
        return {}, Entry(broken=True)
    params = _parameters(e, node, workflow, scope, place.base)
    broken = {name for name in workflow.params if name not in params}
    unread = workflow.unread & {"params", "nodes"}
    inner = Scope(params, broken, unread=frozenset(unread))
    folder = os.path.dirname(workflow.file)
    at = replace(place, prefix=f"{key}/", base=path.parent, shown=folder, files=(*place.files, path))
    ops = e.region(workflow.nodes, inner, at)
    outputs: dict[str, Typed] = {}
    for name, (_, link) in workflow.outputs.items():
        if link is not None and (found := e.link(link, inner, f"outputs.{name}")) is not None:
            outputs[name] = found
    partial = len(outputs) < len(workflow.outputs) or "outputs" in workflow.unread
    return ops, Entry(outputs, broken=not outputs, partial=partial)


def _read(e: Elaborator, node: ParsedNode, place: Place) -> tuple[Path | None, ParsedWorkflow | None]:
    """The workflow's file, parsed; nothing where it cannot be used."""
    where, mark, use = f"{node.path}.use", node.use.mark, node.use.text
    try:
        path = used_path(use, place.base)
    except ValueError as error:
        e.add(mark, "no-file", f"cannot use '{short(use)}': {error}", where)
        return None, None
    if path in place.files:
        chain = " -> ".join(p.name for p in (*place.files[place.files.index(path) :], path))
        e.add(mark, "cycle", f"workflows use each other: {chain}", where)
        return None, None
    if len(place.files) >= MAX_FILES:
        e.add(mark, "too-deep", f"workflows use each other at most {MAX_FILES} deep", where)
        return None, None
    try:
        return path, e.parsed(path, used_shown(use, path, place.shown))
    except WorkflowError as error:
        e.add(mark, "no-file", f"cannot use '{short(use)}': {_reason(error, path)}", where)
        return None, None


def _reason(error: WorkflowError, path: Path) -> str:
    """Why a workflow cannot be used, with the one that was meant; a stranger's is told of no other file."""
    message = error.problems[0].message
    return message if message == NOT_CARRIED else f"{message}{_beside(path)}"


def _beside(path: Path) -> str:
    """The workflow in the same folder that was meant."""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml") and p != path)
    except (OSError, ValueError):
        return ""
    guess = closest(path.name[:60], names)
    return f"; did you mean '{guess}'?" if guess else ""


def _parameters(
    e: Elaborator, node: ParsedNode, workflow: ParsedWorkflow, scope: Scope, base: Path
) -> dict[str, Typed]:
    """What the parameters of the workflow are fed with."""
    declared = e.params(workflow)
    typed: dict[str, Typed] = {}
    missing: list[Parameter] = []
    for name, parameter in declared.items():
        if name in node.inputs:
            if (found := _linked(e, node, parameter, scope)) is not None:
                typed[name] = found
        elif name in node.literals:
            where = f"{node.path}.with.{name}"
            literal = e.literal(parameter.port, node.literals[name][1], base, scope, where)
            if literal is not None:
                typed[name] = Typed(literal, parameter.port.type)
        elif parameter.required:
            missing.append(parameter)
        else:
            default = Literal(parameter.default)
            e.origins[default] = Origin(workflow.default_mark(name), parameter.base, f"params.{name}.default")
            typed[name] = Typed(default, parameter.port.type)
    _report_names(e, node, workflow, declared, missing)
    return typed


def _linked(e: Elaborator, node: ParsedNode, parameter: Parameter, scope: Scope) -> Typed | None:
    links = node.inputs[parameter.name][1]
    where = f"{node.path}.in.{parameter.name}"
    if links is None:
        return None
    if not isinstance(links, Scalar):
        e.add(links.mark, "not-a-list", f"parameter '{parameter.name}' takes one link, found a list of links", where)
        return None
    found = e.link(links, scope, where)
    if found is None or (fitting := e.fitting(found, parameter.port, links, scope, where)) is None:
        return None
    given = found.type if found.given is None else found.given
    declared, is_path = parameter.port.type, not fitting[1] and narrows(given, parameter.port.type)
    return Typed(fitting[0], declared, None if given == declared or is_path else given, found.loose)


def _report_names(
    e: Elaborator,
    node: ParsedNode,
    workflow: ParsedWorkflow,
    declared: Mapping[str, Parameter],
    missing: list[Parameter],
) -> None:
    """Names that are no parameters, parameters given twice, and those that are missing."""
    meant: set[str | None] = set()
    for group, kind in ((node.inputs, "in"), (node.literals, "with")):
        for name, (mark, _) in group.items():
            where = f"{node.path}.{kind}.{short(name)}"
            if name not in workflow.params and "params" not in workflow.unread:
                hint = choices(name[:60], declared, "parameters")
                e.add(mark, "unknown-port", f"the workflow has no parameter '{short(name)}'; {hint}", where)
                meant.add(closest(name[:60], [p.name for p in missing]))
            elif kind == "with" and name in node.inputs:
                e.add(mark, "given-twice", f"'{name}' is wired under 'in' too; keep one", where)
    for parameter in missing if not node.partial else ():
        if parameter.name not in meant:
            listed = ", ".join(f"{p.name}{'' if p.required else '?'}" for p in declared.values())
            message = f"the workflow needs its parameter '{parameter.name}' ({parameter.port.type})"
            e.add(node.mark, "missing-port", f"{message}; parameters: {listed}", node.path)
