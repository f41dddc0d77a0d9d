"""Resolution of sub-workflows: a node that uses a workflow is replaced by that workflow's operations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from guidegraph.graph.errors import WorkflowError, closest_match, suggest
from guidegraph.graph.ir import Op, Parameter
from guidegraph.graph.language.named_workflows import list_shipped_workflows, suggest_file
from guidegraph.graph.language.syntax import ParsedNode, ParsedWorkflow
from guidegraph.graph.language.yaml_tree import Scalar, shorten
from guidegraph.graph.literals import to_absolute_path
from guidegraph.graph.paths import PACKAGE
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.link_rule import narrows
from guidegraph.graph.resolution.ports import LiteralOrigin
from guidegraph.graph.resolution.scope import ResolvedNode, Scope, TypedSource
from guidegraph.graph.sources import Literal

NOT_EMBEDDED = "this workflow is from a stranger and does not include that file"
MAX_FILES = 32


def resolve_sub_workflow_path(use: str, base: Path) -> Path:
    """The path of a used workflow. Raises ``ValueError`` if it is invalid."""
    return Path(os.path.normpath(to_absolute_path(use, base)))


def display_path(use: str, path: Path, folder: str) -> str:
    """A used workflow's path for messages. folder: of the workflow that uses it, as messages show it."""
    return str(path) if use.startswith((PACKAGE, "~", "/")) else os.path.normpath(os.path.join(folder, use))


def resolve_sub_workflow(
    resolver: BlockResolver, node: ParsedNode, scope: Scope, key: str, block: BlockContext
) -> tuple[dict[str, Op], ResolvedNode]:
    """Resolve a node that uses a workflow: the workflow's operations, and its outputs as the node's outputs."""
    path, workflow = _read_workflow(resolver, node, block)
    if path is None or workflow is None:
        resolver.check_links(node, scope)
        return {}, ResolvedNode(broken=True)
    params = _connect_parameters(resolver, node, workflow, scope, block.base)
    broken = {name for name in workflow.params if name not in params}
    unread = workflow.unread & {"params", "nodes"}
    inner = Scope(params, broken, unread=frozenset(unread))
    folder = os.path.dirname(workflow.file)
    inner_block = replace(block, prefix=f"{key}/", base=path.parent, display_folder=folder, files=(*block.files, path))
    ops = resolver.resolve_block(workflow.nodes, inner, inner_block)
    outputs: dict[str, TypedSource] = {}
    for name, (_, link) in workflow.outputs.items():
        if link is not None and (typed := resolver.find_source(link, inner, f"outputs.{name}")) is not None:
            outputs[name] = typed
    partial = len(outputs) < len(workflow.outputs) or "outputs" in workflow.unread
    return ops, ResolvedNode(outputs, broken=not outputs, partial=partial)


def _read_workflow(
    resolver: BlockResolver, node: ParsedNode, block: BlockContext
) -> tuple[Path | None, ParsedWorkflow | None]:
    """The used workflow's path and syntax tree; the first is None if it cannot be used, the second if invalid."""
    node_path, mark, use = f"{node.path}.use", node.use.mark, node.use.text
    try:
        path = resolve_sub_workflow_path(use, block.base)
    except ValueError as error:
        reason = str(error)
        if use.startswith(PACKAGE):
            shipped = list_shipped_workflows()
            guess = closest_match(use.removeprefix(PACKAGE)[:60], shipped)
            hint = f"did you mean '{PACKAGE}{guess}'?" if guess else suggest("", shipped, "workflows that do")
            reason = f"it does not ship with the package; {hint}"
        resolver.report(mark, "no-file", f"cannot use '{shorten(use)}': {reason}", node_path)
        return None, None
    if path in block.files:
        chain = " -> ".join(p.name for p in (*block.files[block.files.index(path) :], path))
        resolver.report(mark, "cycle", f"workflows use each other: {chain}", node_path)
        return None, None
    if len(block.files) >= MAX_FILES:
        resolver.report(mark, "too-deep", f"workflows use each other at most {MAX_FILES} deep", node_path)
        return None, None
    try:
        return path, resolver.parse_file(path, display_path(use, path, block.display_folder))
    except WorkflowError as error:
        reason = error.problems[0].message
        if reason != NOT_EMBEDDED:  # a suggestion would reveal file names to a stranger
            reason += suggest_file(path, "use: ")
        resolver.report(mark, "no-file", f"cannot use '{shorten(use)}': {reason}", node_path)
        return None, None


def _connect_parameters(
    resolver: BlockResolver, node: ParsedNode, workflow: ParsedWorkflow, scope: Scope, base: Path
) -> dict[str, TypedSource]:
    """The sources of the workflow's parameters: links, literals and defaults."""
    parameters = resolver.resolve_params(workflow)
    sources: dict[str, TypedSource] = {}
    missing: list[Parameter] = []
    for name, parameter in parameters.items():
        if name in node.inputs:
            if (linked := _link_parameter(resolver, node, parameter, scope)) is not None:
                sources[name] = linked
        elif name in node.literals:
            path = f"{node.path}.with.{name}"
            literal = resolver.resolve_literal(parameter.port, node.literals[name][1], base, scope, path)
            if literal is not None:
                sources[name] = TypedSource(literal, parameter.port.type)
        elif parameter.required:
            missing.append(parameter)
        else:
            default = Literal(parameter.default)
            resolver.origins[default] = LiteralOrigin(
                workflow.default_mark(name), parameter.base, f"params.{name}.default"
            )
            sources[name] = TypedSource(default, parameter.port.type)
    _report_names(resolver, node, workflow, parameters, missing)
    return sources


def _link_parameter(
    resolver: BlockResolver, node: ParsedNode, parameter: Parameter, scope: Scope
) -> TypedSource | None:
    links = node.inputs[parameter.name][1]
    path = f"{node.path}.in.{parameter.name}"
    if links is None:
        return None
    if not isinstance(links, Scalar):
        resolver.report(
            links.mark, "not-a-list", f"parameter '{parameter.name}' takes one link, found a list of links", path
        )
        return None
    typed = resolver.find_source(links, scope, path)
    if typed is None or (connected := resolver.connect_source(typed, parameter.port, links, scope, path)) is None:
        return None
    actual_type = typed.type if typed.actual_type is None else typed.actual_type
    declared, is_path = parameter.port.type, not connected[1] and narrows(actual_type, parameter.port.type)
    return TypedSource(
        connected[0], declared, None if actual_type == declared or is_path else actual_type, typed.possible_type
    )


def _report_names(
    resolver: BlockResolver,
    node: ParsedNode,
    workflow: ParsedWorkflow,
    declared: Mapping[str, Parameter],
    missing: list[Parameter],
) -> None:
    """Report unknown parameters, parameters given twice and missing ones."""
    guesses: set[str | None] = set()
    for group, kind in ((node.inputs, "in"), (node.literals, "with")):
        for name, (mark, _) in group.items():
            path = f"{node.path}.{kind}.{shorten(name)}"
            if name not in workflow.params and "params" not in workflow.unread:
                hint = suggest(name[:60], declared, "parameters")
                resolver.report(mark, "unknown-port", f"the workflow has no parameter '{shorten(name)}'; {hint}", path)
                guesses.add(closest_match(name[:60], [p.name for p in missing]))
            elif kind == "with" and name in node.inputs:
                resolver.report(mark, "given-twice", f"'{name}' is wired under 'in' too; keep one", path)
    for parameter in missing if not node.partial else ():
        if parameter.name not in guesses:
            listing = ", ".join(f"{p.name}{'' if p.required else '?'}" for p in declared.values())
            message = f"the workflow needs its parameter '{parameter.name}' ({parameter.port.type})"
            resolver.report(node.mark, "missing-port", f"{message}; parameters: {listing}", node.path)
