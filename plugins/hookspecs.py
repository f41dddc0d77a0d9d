"""The hooks that a plugin can implement. Later versions only add arguments, so old plugins keep working."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from guidegraph.graph.events import Observer
from guidegraph.graph.values.ownership import copy_parameter

if TYPE_CHECKING:
    from guidegraph.graph.ir import Graph
    from guidegraph.graph.output_format import OutputFormat
    from guidegraph.nodes.checkpoints.family import Family
    from guidegraph.nodes.condition_fields import ConditionField


PROJECT = "guidegraph"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def hook_of(hooks: pluggy.PluginManager, hook: str, plugin: object) -> pluggy.HookCaller:
    """A hook that calls only this plugin."""
    return hooks.subset_hook_caller(hook, [other for other in hooks.get_plugins() if other is not plugin])


@dataclass(frozen=True)
class RunInfo:
    """The run about to start, as an observer's plugin sees it. ``params`` are copies of its parameters by name."""

    graph: Graph
    params: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", copy_parameter(dict(self.params)))


@hookspec
def guidegraph_nodes() -> Iterable[Callable[..., Any]]:  # type: ignore[empty-body]
    """The plugin's nodes: functions decorated with ``@node``. Their ids begin with the plugin's namespace."""


@hookspec
def guidegraph_types() -> Iterable[type]:  # type: ignore[empty-body]
    """The plugin's port types: classes, known in workflows by their ``__name__``."""


@hookspec
def guidegraph_outputs() -> Iterable[OutputFormat]:  # type: ignore[empty-body]
    """File formats for port types, the plugin's own or others. A type with several is written in each of them."""


@hookspec
def guidegraph_condition_fields() -> Iterable[ConditionField]:  # type: ignore[empty-body]
    """The fields that the plugin's conditions may carry, besides those of other plugins, by names of its own."""


@hookspec
def guidegraph_families() -> Iterable[Family]:  # type: ignore[empty-body]
    """Families of checkpoints that `checkpoint.load` recognises and opens."""


@hookspec
def guidegraph_commands(app: Any) -> None:
    """Add commands to ``app``, the command line's ``typer.Typer``."""


@hookspec
def guidegraph_observer(run: RunInfo) -> Observer | None:
    """An observer of the run that is about to start: a callable that takes each event; or None."""


@hookspec
def guidegraph_preview(value: Any, port_type: type) -> str | bytes | None:
    """A preview of a value of one of the plugin's types: a text of a few lines, or the bytes of a small PNG; or None.

    A text has at most 1,000 characters, and the page shows its first 8 lines; a PNG has at most 4 MiB.
    port_type: the one of ``guidegraph_types`` that the value has. The value belongs to a run and must not be changed.
    """
