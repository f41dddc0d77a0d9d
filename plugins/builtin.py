"""The built-in nodes and port types: they come in through the hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

from guidegraph import nodes
from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.graph.types import Tensor
from guidegraph.nodes import sampler_types, tensor_types, types
from guidegraph.nodes.guidance.hooks import HookedDenoiser, MemoryDenoiser, OpaqueDenoiser
from guidegraph.nodes.guidance.rule_memory import RuleMemory
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.metrics.frechet import Moments
from guidegraph.plugins.hookspecs import hookimpl


def find_node_modules() -> list[str]:
    """Names of the modules that define nodes, sorted. Reads their text, as some of the others import torch."""
    folder = Path(nodes.__path__[0])
    marks = (b"\n@node(", b"\nfrom guidegraph.nodes.derive import")
    files = (path for path in folder.rglob("*.py") if any(mark in path.read_bytes() for mark in marks))
    return sorted(".".join((nodes.__name__, *path.relative_to(folder).with_suffix("").parts)) for path in files)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    modules = [import_module(name) for name in find_node_modules()]
    return [f for m in modules for f in vars(m).values() if hasattr(f, SPEC_ATTRIBUTE) and f.__module__ == m.__name__]


@hookimpl
def guidegraph_types() -> list[type]:
    classes = [
        value
        for module in (types, sampler_types, tensor_types)
        for value in vars(module).values()
        if isclass(value) and value.__module__ == module.__name__
    ]
    classes += [types.Table, HookedDenoiser, MemoryDenoiser, Moments, OpaqueDenoiser, RuleMemory, StepContext]
    return [Tensor, *sorted(classes, key=lambda kind: kind.__name__)]
