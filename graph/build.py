"""From a file to a validated graph: everything that is wrong is found, and found before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guidegraph.graph.elaborate import Elaborator
from guidegraph.graph.errors import Problem, WorkflowError, choices
from guidegraph.graph.ir import Call, Graph, GraphOutput, Param, Parameter, walk
from guidegraph.graph.node import Port
from guidegraph.graph.parse import ParsedParam, ParsedWorkflow, parse
from guidegraph.graph.paths import resolve as resolve_path
from guidegraph.graph.registry import Registry
from guidegraph.graph.scope import Scope, Typed, Unresolved, resolve
from guidegraph.graph.types import PortType, port_type
from guidegraph.graph.yamltree import plain, read_text

BASIC_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "path": Path,
    "Path": Path,
    "list": list,
    "dict": dict,
    "any": Any,
    "Any": Any,
}


def build(path: Path, registry: Registry, sources: Mapping[str, str] | None = None) -> Graph:
    """Read, check and resolve a workflow and the workflows it uses.

    sources: texts that stand in for files, by absolute path. Raises ``WorkflowError`` that lists all problems.
    """
    return _Builder(registry, sources or {}).graph(path.absolute())


class _Builder:
    def __init__(self, registry: Registry, overlay: Mapping[str, str]):
        self.registry = registry
        self.overlay = overlay
        self.problems: list[Problem] = []
        self.sources: dict[str, str] = {}
        self._parsed: dict[Path, ParsedWorkflow | None] = {}

    def parsed(self, path: Path) -> ParsedWorkflow | None:
        """A workflow file, parsed once; its problems are noted once. Raises ``WorkflowError`` where it is unreadable."""
        if path not in self._parsed:
            text = self.overlay[str(path)] if str(path) in self.overlay else read_text(path)
            self.sources[str(path)] = text
            self._parsed[path], problems = parse(text, path)
            self.problems += problems
        return self._parsed[path]

    def graph(self, path: Path) -> Graph:
        workflow = self.parsed(path)
        if workflow is None:
            raise WorkflowError(self.problems)
        self._requires(workflow)
        params = self.params(workflow)
        typed: dict[str, Typed] = {name: (Param(name), p.port.type) for name, p in params.items()}
        scope = Scope(typed, frozenset(workflow.params) - frozenset(params))
        elaborator = Elaborator(self.registry, self.problems, self.parsed, self.params)
        ops = elaborator.region(workflow.nodes, scope, "", path.parent, (path,))
        outputs: dict[str, GraphOutput] = {}
        for name, (_, link) in workflow.outputs.items():
            try:
                source, kind = resolve(link, scope, f"outputs.{name}")
            except Unresolved as error:
                if error.problem:
                    self.problems.append(error.problem)
                continue
            outputs[name] = GraphOutput(source, kind, link.mark)
        if self.problems:
            raise WorkflowError(self.problems)
        params = {name: _path_param(p, ops) for name, p in params.items()}
        return Graph(path, params, ops, outputs, {n: v for n, (_, v) in workflow.requires.items()}, self.sources)

    def _requires(self, workflow: ParsedWorkflow) -> None:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        for name, (mark, text) in workflow.requires.items():
            version = self.registry.versions.get(name)
            where = f"requires.{name}"
            try:
                wanted = SpecifierSet(text)
            except InvalidSpecifier:
                message = f"expected a version such as '>=0.1', found '{text}'"
                self.problems.append(Problem(mark, "bad-value", message, where))
                continue
            if version is None:
                hint = choices(name, self.registry.versions, "installed plugins")
                message = f"the plugin '{name}' is not installed: pip install {name}; {hint}"
                self.problems.append(Problem(mark, "missing-plugin", message, where))
            elif not wanted.contains(version, prereleases=True):
                message = f"'{name}' {text} is required, version {version} is installed"
                self.problems.append(Problem(mark, "plugin-version", message, where))

    def params(self, workflow: ParsedWorkflow) -> dict[str, Parameter]:
        """The declared parameters that are right; problems of the others are noted."""
        found: dict[str, Parameter] = {}
        for name, parsed in workflow.params.items():
            if parameter := self._param(parsed, workflow.path.parent):
                found[name] = parameter
        return found

    def _param(self, parsed: ParsedParam, base: Path) -> Parameter | None:
        path = f"params.{parsed.name}"
        default = plain(parsed.default) if parsed.default is not None else None
        if parsed.type is None:
            annotation: Any = Any if default is None else type(default)
        else:
            try:
                annotation = self.annotation(parsed.type.text)
            except KeyError as error:
                names = [*BASIC_TYPES, *self.registry.types]
                hint = choices(str(error.args[0]), names, "types")
                message = f"unknown type '{error.args[0]}'; {hint}"
                self.problems.append(Problem(parsed.type.mark, "bad-type", message, path))
                return None
            if parsed.default is not None and default is None:
                annotation = annotation | None
        required = parsed.default is None
        port = Port(parsed.name, annotation, port_type(annotation), setting=True)
        if parsed.default is not None and default is not None:
            try:
                default = port.literal(default)
                if isinstance(default, Path):
                    default = resolve_path(default, base)
            except ValueError as error:
                mark = parsed.default.mark
                self.problems.append(Problem(mark, "bad-value", f"the default does not fit: {error}", path))
                return None
        return Parameter(parsed.name, port, default, required, parsed.help, parsed.mark, base)

    def annotation(self, text: str) -> Any:
        """The annotation that a type's name means: ``int``, ``Image``, ``int | list``. Raises ``KeyError``."""
        found: Any = None
        for name in (part.strip() for part in text.split("|")):
            known = BASIC_TYPES.get(name, self.registry.types.get(name))
            if known is None:
                raise KeyError(name)
            found = known if found is None else found | known
        return found


def _path_param(parameter: Parameter, ops: Mapping[str, Any]) -> Parameter:
    """A text parameter that feeds a path is a path, with its default relative to the workflow's file."""
    if parameter.port.type != PortType((str,)) or not _feeds_path(parameter.name, ops):
        return parameter
    default = parameter.default if parameter.required else resolve_path(parameter.default, parameter.base)
    return replace(parameter, port=Port(parameter.name, Path, port_type(Path), setting=True), default=default)


def _feeds_path(name: str, ops: Mapping[str, Any]) -> bool:
    for op in walk(ops):
        if isinstance(op, Call):
            for port_name, source in (*op.inputs.items(), *op.settings.items()):
                port = op.spec.port(port_name)
                if source == Param(name) and port is not None and Path in port.type.alternatives:
                    return True
    return False
