"""The built-in nodes and port types, imported on demand: they come in through the hooks that any plugin uses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import cache
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from guidegraph import nodes
from guidegraph.graph.memory.pause_collector import pause_for_import
from guidegraph.graph.node import SPEC_ATTRIBUTE, NodeSpec, get_spec
from guidegraph.graph.output_format import OutputFormat
from guidegraph.graph.types import Tensor
from guidegraph.nodes.condition_fields import BASIC_FIELDS, ConditionField
from guidegraph.plugins.contribution import Contribution, read_contribution
from guidegraph.plugins.hookspecs import hookimpl

_DERIVES = "\nfrom guidegraph.nodes.derive import"
_MARKS = re.compile(rf"\n@node\(|{_DERIVES}")


@cache
def _read_modules() -> dict[str, str]:
    """The texts of the modules that define nodes, by name, sorted. Others may import torch."""
    folder = Path(nodes.__path__[0])
    texts: dict[str, str] = {}
    for parent, _, files in os.walk(folder):
        for file in files:
            if file.endswith(".py"):
                path = Path(parent, file)
                text = path.read_text(encoding="utf-8")
                if _MARKS.search(text):
                    name = ".".join((nodes.__name__, *path.relative_to(folder).with_suffix("").parts))
                    texts[name] = text
    return dict(sorted(texts.items()))


def find_node_modules(marks: Collection[str] = ("",), *, derived: bool = False) -> list[str]:
    """Names of the modules that define nodes and contain one of the marks, sorted. Imports none of them.

    derived: only modules that make nodes of the runtime's operations, whose ids need not be in the text.
    """
    mark = re.compile("|".join(map(re.escape, marks)))
    texts = _read_modules().items()
    return [name for name, text in texts if (_DERIVES in text or not derived) and mark.search(text)]


def read_nodes(modules: Iterable[str]) -> list[Callable[..., Any]]:
    """Import modules; returns the nodes that they define, in order."""
    imported = [import_module(name) for name in modules]
    functions = [f for m in imported for f in vars(m).values() if isfunction(f) and f.__module__ == m.__name__]
    return [f for f in functions if hasattr(f, SPEC_ATTRIBUTE)]


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return read_nodes(find_node_modules())


@hookimpl
def guidegraph_outputs() -> list[OutputFormat]:
    from guidegraph.nodes.output_formats import list_formats

    return list_formats()


@hookimpl
def guidegraph_condition_fields() -> list[ConditionField]:
    return list(BASIC_FIELDS)


@hookimpl
def guidegraph_types() -> list[type]:
    from guidegraph.nodes import sampler_types, tensor_types, types
    from guidegraph.nodes.guidance.hooks import HookedDenoiser, MemoryDenoiser, OpaqueDenoiser
    from guidegraph.nodes.guidance.step_context import RuleMemory, StepContext

    classes = [
        value
        for module in (types, sampler_types, tensor_types)
        for value in vars(module).values()
        if isclass(value) and value.__module__ == module.__name__
    ]
    classes += [types.Table, HookedDenoiser, MemoryDenoiser, OpaqueDenoiser, RuleMemory, StepContext]
    return [Tensor, *sorted(classes, key=lambda kind: kind.__name__)]


class BuiltinNodes:
    """Imports the modules of built-in nodes: those that may define an id, or all of them.

    owner: the distribution of the nodes and its version, ``NAME==VERSION``.
    """

    def __init__(self, owner: str):
        self.owner = owner
        self._nodes: dict[str, NodeSpec] = {}

    def find(self, id: str) -> NodeSpec | None:
        """The built-in node with this id; None if there is none."""
        candidates: tuple[tuple[tuple[str, ...], bool], ...] = (
            ((f'("{id}"', f'(\n    "{id}"'), False),  # modules that define the id
            ((f'"{id}"',), False),  # that contain it
            (_namespace_marks(id.partition(".")[0]), True),  # that derive nodes of its namespace from operations
        )
        for marks, derived in candidates:
            if id not in self._nodes:
                with pause_for_import():
                    self._keep(map(get_spec, read_nodes(find_node_modules(marks, derived=derived))))
        return self._nodes.get(id)

    def may_define(self, namespace: str) -> bool:
        """Whether a module of nodes contains the name of a namespace, so that nodes of it may exist."""
        return bool(find_node_modules(_namespace_marks(namespace)))

    def load_types(self) -> dict[str, type]:
        """The built-in port types by name."""
        with pause_for_import():
            return {cls.__name__: cls for cls in guidegraph_types()}

    def load_all(self) -> Contribution:
        """All built-in nodes and types, in the order of their modules."""
        with pause_for_import():
            contribution = read_contribution(sys.modules[__name__], None)
        self._keep(contribution.nodes.values())
        return replace(contribution, nodes={id: self._nodes[id] for id in contribution.nodes})

    def _keep(self, specs: Iterable[NodeSpec]) -> None:
        for spec in specs:
            if spec.id not in self._nodes:
                self._nodes[spec.id] = replace(spec, distribution=self.owner)


def _namespace_marks(namespace: str) -> tuple[str, ...]:
    return f'"{namespace}"', f'"{namespace}.'
