"""Reads and checks the nodes and types of one plugin, without other plugins."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pluggy

from guidegraph.graph.errors import suggest
from guidegraph.graph.node import SPEC_ATTRIBUTE, NodeDefinitionError, NodeSpec, get_spec
from guidegraph.plugins import hookspecs
from guidegraph.plugins.entry_points import PluginError
from guidegraph.plugins.failures import format_location
from guidegraph_runtime.error_text import describe_error

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("guidegraph_"))


@dataclass(frozen=True)
class Contribution:
    """A plugin's nodes by id and port types by name."""

    nodes: dict[str, NodeSpec]
    types: dict[str, type]

    @property
    def namespaces(self) -> list[str]:
        return list(dict.fromkeys(id.partition(".")[0] for id in self.nodes))


def make_hook_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def read_contribution(plugin: object, namespace: str | None) -> Contribution:
    """Read and check a plugin's nodes and types. ``namespace``: prefix that its ids must have; None allows any,
    and a module without hooks, such as a notebook (``__main__``), contributes the nodes that it defines.

    Raises ``PluginError`` for an unknown hook, a wrong signature, a return value that is not a list of nodes (types),
    and a foreign or duplicate id; an exception of the plugin's own code is its cause.
    """
    _check_marks(plugin)
    manager = make_hook_manager()
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split()), f"the hooks are {', '.join(HOOKS)}") from None
    functions = _collect(manager.hook.guidegraph_nodes, "node functions")
    if not manager.get_hookcallers(plugin):
        name = getattr(plugin, "__name__", None)
        own = {id(v): v for v in vars(plugin).values() if inspect.isfunction(v) and v.__module__ == name}  # once each
        functions = [function for function in own.values() if hasattr(function, SPEC_ATTRIBUTE)]
        if not functions or namespace is not None:
            fix = "mark a function 'guidegraph_nodes' that returns the node functions with @hookimpl"
            raise PluginError("implements no hook of guidegraph", fix)
    nodes: dict[str, NodeSpec] = {}
    for function in functions:
        try:
            spec = get_spec(function)
        except NodeDefinitionError as error:
            reason = f"guidegraph_nodes returned something else: {error}"
            raise PluginError(reason, "return functions made by @node") from None
        if namespace is not None and spec.id.partition(".")[0] != namespace:
            fix = f"call it '{namespace}.{spec.id.rpartition('.')[2]}', or rename the entry point"
            raise PluginError(f"the node id '{spec.id}' does not begin with '{namespace}.'", fix)
        if spec.id in nodes:
            raise PluginError(f"two nodes have the id '{spec.id}'", "give each node an id of its own")
        nodes[spec.id] = spec
    types: dict[str, type] = {}
    for cls in _collect(manager.hook.guidegraph_types, "port types"):
        if not isinstance(cls, type):
            raise PluginError(f"guidegraph_types returned {cls!r}, which is not a class", "return classes")
        if types.get(cls.__name__, cls) is not cls:
            raise PluginError(f"two port types are called '{cls.__name__}'", "rename one of them")
        types[cls.__name__] = cls
    return Contribution(nodes, types)


def _check_marks(plugin: object) -> None:
    """Raise ``PluginError`` for a hook without its marker, which would be silently ignored."""
    for name, value in list(vars(plugin).items()) if hasattr(plugin, "__dict__") else ():
        if not name.startswith("guidegraph_") or not inspect.isfunction(value):
            continue
        if not hasattr(value, f"{hookspecs.PROJECT}_impl"):
            raise PluginError(f"the function {name} is not marked as a hook", "decorate it with @hookimpl")
        if name not in HOOKS:
            raise PluginError(f"there is no hook '{name}'; {suggest(name, HOOKS, 'hooks')}", "rename or remove it")


def _collect(hook: pluggy.HookCaller, expected: str) -> list[Any]:
    try:
        results = hook()
        collected: list[Any] = []
        for result in results:
            if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
                raise PluginError(f"{hook.name} returned {result!r:.80}", f"return a list of {expected}")
            collected += result
        return collected
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        fix = f"repair the hook{format_location(error)}; it must return a list of {expected}"
        raise PluginError(f"{hook.name} failed: {describe_error(error)}", fix) from error
