"""Building a validated graph from a workflow's file; all problems are reported before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph, GraphOutput, Op, Parameter
from guidegraph.graph.language.bind_parameters import list_misfits
from guidegraph.graph.language.named_workflows import WORKFLOW_SUFFIXES, suggest_file
from guidegraph.graph.language.parameters import resolve_parameters
from guidegraph.graph.language.parse import parse
from guidegraph.graph.language.path_values import Uses, convert_path_parameters, convert_texts, list_uses, names_paths
from guidegraph.graph.language.requirements import find_requirement_problems
from guidegraph.graph.language.syntax import ParsedWorkflow
from guidegraph.graph.language.yaml_tree import read_text
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.planning.passes import rewrite_sources
from guidegraph.graph.planning.wiring_checks import check_wiring
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.block_resolver import BlockContext
from guidegraph.graph.resolution.expansion_limit import find_expansion_problems
from guidegraph.graph.resolution.ports import PortResolver, TypeRecord
from guidegraph.graph.resolution.resolver import Resolver
from guidegraph.graph.resolution.scope import Scope, TypedSource
from guidegraph.graph.resolution.sub_workflows import NOT_EMBEDDED
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
