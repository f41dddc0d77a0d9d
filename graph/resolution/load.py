"""Building a validated graph from a workflow's file; all problems are reported before anything runs.

The number of nodes in a workflow once its sub-workflows are inlined, counted before any is built.

Workflows that each use the next one twice reach a hundred thousand nodes in 1.5 kB. Counting visits each file once at
each depth.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph, GraphOutput, Op, Parameter
from guidegraph.graph.language.bind_parameters import list_misfits
from guidegraph.graph.language.named_workflows import WORKFLOW_SUFFIXES, suggest_file
from guidegraph.graph.language.parameters import resolve_parameters
from guidegraph.graph.language.parse import parse
from guidegraph.graph.language.path_values import Uses, convert_path_parameters, convert_texts, list_uses, names_paths
from guidegraph.graph.language.syntax import ParsedLoop, ParsedNode, ParsedOp, ParsedWorkflow
from guidegraph.graph.language.yaml_tree import Scalar, read_text, shorten
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.admission import check_wiring
from guidegraph.graph.planning.passes import rewrite_sources
from guidegraph.graph.resolution.block_resolver import BlockContext
from guidegraph.graph.resolution.ports import PortResolver, TypeRecord
from guidegraph.graph.resolution.resolver import Resolver
from guidegraph.graph.resolution.scope import Scope, TypedSource
from guidegraph.graph.resolution.sub_workflows import MAX_FILES, NOT_EMBEDDED, display_path, resolve_sub_workflow_path
from guidegraph.graph.sources import Literal, Param, Source
from guidegraph.graph.trust.limits import Limits, current_limits, enforce_limits, find_trip_problems, limit_message
from guidegraph.graph.trust.policy import is_shipped


def convert_path_literals(ops: Mapping[str, Op], uses: Uses, resolver: PortResolver) -> dict[str, Op]:
    """The operations with paths for the texts of constants that feed paths behind a choice, a loop's item or a carry.

    Relative paths are relative to the file that has the constant. A text that is not a path is reported.
    """
    converted: dict[Source, Source] = {}
    for source, ports in uses.items():
        naming = [use.kind for use in ports if names_paths(use.kind)]
        if not naming or not isinstance(source, Literal) or source not in resolver.origins:
            continue
        origin = resolver.origins[source]
        if resolver.types is not None:
            resolver.types.ports[origin.mark] = naming[0]
        try:
            converted[source] = Literal(convert_texts(source.value, naming, origin.base))
        except ValueError as error:
            resolver.report(origin.mark, "bad-value", f"it is a path for {ports[0].location}: {error}", origin.path)
    if not converted:
        return dict(ops)
    return {key: rewrite_sources(op, lambda source: converted.get(source, source)) for key, op in ops.items()}


def build(
    path: Path,
    registry: Registry,
    sources: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    *,
    stranger: bool = False,
    types: TypeRecord | None = None,
    files: set[Path] | None = None,
) -> Graph:
    """Read, check and resolve a workflow and its sub-workflows.

    sources: texts that replace files, by absolute path. limits: by default those in force. stranger: read no other
    files, except those that ship with the package. types: filled with the types of links and literals. files:
    filled with the absolute paths of the workflow and its sub-workflows, those that cannot be read among them. Raises
    ``WorkflowError`` that lists all problems.
    """
    with enforce_limits(limits or current_limits()), pause_collector():
        return _Builder(registry, sources or {}, stranger, types, set() if files is None else files).build(path)


class _Builder:
    def __init__(
        self,
        registry: Registry,
        overlay: Mapping[str, str],
        stranger: bool,
        types: TypeRecord | None,
        files: set[Path],
    ):
        self.registry = registry
        self.overlay = overlay
        self.stranger = stranger
        self.types = types
        self.files = files
        self._main: Path | None = None
        self.problems: list[Problem] = []
        self.sources: dict[str, str] = {}
        self._parsed: dict[Path, ParsedWorkflow | None] = {}
        self._params: dict[Path, dict[str, Parameter]] = {}
        # Separate from the resolver's problems, which it discards when it resolves a loop's body again.
        self._file_problems: list[Problem] = []
        self._missing_plugins: list[str] = []
        self._bytes = 0

    def parse_file(self, path: Path, file: str) -> ParsedWorkflow | None:
        """Parse a workflow and record its problems, once. Raises ``WorkflowError`` if the file cannot be read."""
        if path not in self._parsed:
            self.files.add(path)
            try:
                is_embedded = str(path) in self.overlay
                if not is_embedded and self.stranger and path != self._main and not is_shipped(path):
                    raise WorkflowError([Problem(Mark(file, 1, 1), "no-file", NOT_EMBEDDED)])
                text = self.overlay[str(path)] if is_embedded else read_text(path, file)
            except WorkflowError as error:
                if error.problems[0].code == "no-file":
                    raise
                self._file_problems += error.problems
                self._parsed[path] = None
                return None
            self._bytes += len(text.encode(errors="surrogatepass"))
            description = f"the workflow has {self._bytes:,} bytes, with those that it uses"
            if message := limit_message("workflow_bytes", self._bytes, description):
                self._file_problems.append(Problem(Mark(file, 1, 1), "too-large", message))
                self._parsed[path] = None
                return None
            self.sources[str(path)] = text
            self._parsed[path], problems = parse(text, path, file)
            self._file_problems += problems
            if (workflow := self._parsed[path]) is not None:
                problems = find_requirement_problems(workflow.requires, self.registry)
                self._missing_plugins += [problem.path for problem in problems if problem.code == "missing-plugin"]
                self._file_problems += problems
        return self._parsed[path]

    def resolve_params(self, workflow: ParsedWorkflow) -> dict[str, Parameter]:
        """Resolve a workflow's parameters, once; returns the valid ones and records the problems of the others."""
        if workflow.path not in self._params:
            self._params[workflow.path] = resolve_parameters(workflow, self.registry, self._file_problems)
        return self._params[workflow.path]

    def build(self, file: Path) -> Graph:
        path = Path(os.path.normpath(file.absolute()))
        self._main = path
        try:
            workflow = self.parse_file(path, str(file))
        except WorkflowError as error:
            raise WorkflowError([replace(p, message=p.message + suggest_file(path)) for p in error.problems]) from None
        if workflow is None:
            raise WorkflowError(self._file_problems)
        if problems := find_expansion_problems(workflow, self.parse_file, WORKFLOW_SUFFIXES):
            raise WorkflowError([*self._file_problems, *problems])
        params = self.resolve_params(workflow)
        typed = {name: TypedSource(Param(name), p.port.type) for name, p in params.items()}
        broken = [name for name in workflow.params if name not in params]
        scope = Scope(typed, broken, unread=workflow.unread & {"params", "nodes"})
        resolver = Resolver(
            self.registry, self.problems, self.parse_file, self.resolve_params, self._missing_plugins, self.types
        )
        ops = resolver.resolve_block(
            workflow.nodes, scope, BlockContext("", path.parent, os.path.dirname(file), (path,))
        )
        outputs: dict[str, GraphOutput] = {}
        for name, (_, link) in workflow.outputs.items():
            if link is not None and (typed_source := resolver.find_source(link, scope, f"outputs.{name}")) is not None:
                outputs[name] = GraphOutput(typed_source.source, typed_source.type, link.mark)
        uses = list_uses(ops)
        ops = convert_path_literals(ops, uses, resolver)
        declared, params = params, convert_path_parameters(workflow, params, uses, self.problems)
        if self.types is not None:
            changed = [name for name, p in params.items() if p is not declared[name] and not p.required]
            self.types.ports |= {workflow.default_mark(name): params[name].port.type for name in changed}
        defaults = {name: p.default for name, p in params.items() if not p.required}
        for name, message in list_misfits(ops, defaults):
            mark = workflow.default_mark(name)
            self.problems.append(
                Problem(mark, "bad-value", f"the default does not fit: {message}", f"params.{name}.default")
            )
        self.problems += find_trip_problems(ops, {})  # a run may change the defaults
        if self.problems or self._file_problems:
            raise WorkflowError([*self._file_problems, *self.problems])
        check_wiring(ops.values(), {})
        return Graph(path, params, ops, outputs, self.sources)


DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""A distribution's name (PEP 508); safe to copy into a shell."""


def find_requirement_problems(requires: Mapping[str, tuple[Mark, Scalar]], registry: Registry) -> list[Problem]:
    """A problem for each requirement that is not met.

    A requirement names a distribution (normalised as pip does) or a node's id, for the version of that node.
    """
    if not requires:
        return []
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion

    problems: list[Problem] = []
    for name, (mark, tree) in requires.items():
        location, text = f"requires.{shorten(name)}", tree.text
        try:
            specifier = SpecifierSet(text)
        except InvalidSpecifier:
            message = f"expected a version such as '>=0.1', found '{shorten(text)}'"
            problems.append(Problem(tree.mark, "bad-value", message, location))
            continue
        node = registry.nodes.get(name)
        version = node.version if node is not None else registry.versions.get(canonicalize_name(name))
        if version is None and (reason := registry.absent.get(canonicalize_name(name))) is not None:
            problems.append(
                Problem(mark, "missing-plugin", f"the plugin '{name}' is not available: {reason}", location)
            )
            continue
        if version is None:
            problems.append(Problem(mark, "missing-plugin", _explain_absence(name, registry), location))
            continue
        try:
            met = specifier.contains(version, prereleases=True)
        except InvalidVersion:
            met = False
        if not met:
            message = f"'{name}' {text} is required, version {version} is installed"
            problems.append(Problem(tree.mark, "plugin-version", message, location))
    return problems


def _explain_absence(name: str, registry: Registry) -> str:
    """The message for a required plugin that is missing."""
    hint = suggest(name[:60], registry.versions, "installed")
    if not DISTRIBUTION.fullmatch(name):
        return f"the plugin '{shorten(name)}' is not installed, and its name is not valid; {hint}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"the plugin '{shorten(name)}' is not installed: pip install {name}; {hint}"
    reason = f"'{shorten(name)}' is installed, version {version}, and is not a plugin that is in use"
    return f"{reason}; 'requires' takes plugins and nodes, so remove it"


ParseFile = Callable[[Path, str], ParsedWorkflow | None]


def find_expansion_problems(workflow: ParsedWorkflow, parse_file: ParseFile, endings: tuple[str, ...]) -> list[Problem]:
    """A problem if a workflow has more nodes than the limit allows.

    parse_file: parses a used workflow, given its path and its path for messages. endings: suffixes of such files.
    """
    counter = _NodeCounter(parse_file, endings)
    total = counter.count_workflow(workflow, (workflow.path,))
    message = limit_message("nodes", total, f"with the workflows that it uses, this is {total:,} nodes")
    if message is None:
        return []
    mark, path = counter.find_largest(workflow)
    return [Problem(mark, "too-large", message, path)]


class _NodeCounter:
    def __init__(self, parse_file: ParseFile, endings: tuple[str, ...]):
        self._parse_file, self._endings = parse_file, endings
        self._counts: dict[tuple[Path, int], int] = {}

    def count_workflow(self, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """Count a workflow's nodes. files: the workflows being counted, outermost first, this one included."""
        key = workflow.path, len(files)
        if key not in self._counts:
            self._counts[key] = self._count_nodes(workflow.nodes, workflow, files)
        return self._counts[key]

    def find_largest(self, workflow: ParsedWorkflow) -> tuple[Mark, str]:
        """The position and path of the node that contributes most nodes."""
        files = (workflow.path,)
        op = max(workflow.nodes.values(), key=lambda op: self._count_nodes({op.name: op}, workflow, files))
        return (op.use.mark, f"{op.path}.use") if isinstance(op, ParsedNode) else (op.mark, op.path)

    def _count_nodes(self, nodes: Mapping[str, ParsedOp], workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        total = len(nodes)
        for op in nodes.values():
            if isinstance(op, ParsedLoop):
                total += self._count_nodes(op.body, workflow, files) + len(op.option_nodes)
            elif isinstance(op, ParsedNode) and op.use.text.endswith(self._endings):
                total += self._count_used(op.use.text, workflow, files)
        return total

    def _count_used(self, use: str, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """Count the nodes of a used workflow; 0 if it cannot be used, which is reported when it is resolved."""
        try:
            path = resolve_sub_workflow_path(use, workflow.path.parent)
            if path in files or len(files) >= MAX_FILES:
                return 0
            used = self._parse_file(path, display_path(use, path, os.path.dirname(workflow.file)))
        except (ValueError, WorkflowError):
            return 0
        return self.count_workflow(used, (*files, path)) if used is not None else 0
