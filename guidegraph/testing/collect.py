"""Nodes of a plugin × checks, each with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from guidegraph.graph.node import spec_of
from guidegraph.testing.applicable import applicable_checks
from guidegraph.testing.case import NodeCase
from guidegraph.testing.catalogue import CHECKS
from guidegraph.testing.outcome import Inapplicable, Nonconforming
from guidegraph.testing.run import run_check

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet


@dataclass(frozen=True)
class Check:
    """One check of one node, to call in a test; one that turns out to say nothing of the node skips the test.

    The reason is in the skip. `applicable_checks` leaves out what a declaration already tells.
    """

    case: NodeCase
    name: str

    @property
    def id(self) -> str:
        return f"{self.case.id}-{self.name.replace(' ', '-')}"

    def __call__(self) -> None:
        import pytest

        __tracebackhide__ = True
        try:
            run_check(self.case, self.name)
        except Inapplicable as reason:
            pytest.skip(str(reason))


def cases_of(plugin: object, cases: Iterable[NodeCase] = ()) -> list[NodeCase]:
    """A case of each node that a plugin gives, in its order; `cases` take the place of those that need no help.

    plugin: a module with the hook ``guidegraph_nodes``, its name, or node functions. Raises ``PluginError`` for a
    plugin that cannot be used, ``ValueError`` for a case of another plugin's node.
    """
    by_node: dict[str, list[NodeCase]] = {}
    for case in cases:
        by_node.setdefault(case.spec.id, []).append(case)
    nodes = list(_nodes_of(plugin))
    known = {spec_of(function).id for function in nodes}
    if foreign := sorted(by_node.keys() - known):
        raise ValueError(f"there is a case for {', '.join(foreign)}, which the plugin does not give")
    return [case for function in nodes for case in by_node.get(spec_of(function).id) or [NodeCase(function)]]


def _nodes_of(plugin: object) -> Iterator[Callable[..., Any]]:
    from guidegraph.plugins.contribution import contribution_of
    from guidegraph.plugins.modules import import_plugin_module

    if isinstance(plugin, (list, tuple)):
        yield from plugin
        return
    found = import_plugin_module(plugin) if isinstance(plugin, str) else plugin
    yield from (spec.function for spec in contribution_of(found, None).nodes.values())


def conformance_cases(
    plugin: object, *cases: NodeCase, checks: Collection[str] = tuple(CHECKS), slow: Collection[str] = ()
) -> list[ParameterSet]:
    """Parameters for ``pytest.mark.parametrize("check", …)``: each node of a plugin × each check that applies.

    plugin and cases: see `cases_of`. checks: those to run, where they apply. slow: those that get the mark ``slow``.
    """
    pytest = import_module("pytest")
    found = []
    for case in cases_of(plugin, cases):
        for name in applicable_checks(case, checks):
            check = Check(case, name)
            found.append(pytest.param(check, id=check.id, marks=[pytest.mark.slow] if name in slow else []))
    return found


def conforms(node: Callable[..., Any] | NodeCase, /, **options: Any) -> dict[str, str]:
    """Run all checks of one node, and give the reasons of those that say nothing of it, by name.

    options: as for `NodeCase`. Raises ``AssertionError`` that lists every check that does not hold.
    """
    case = node if isinstance(node, NodeCase) else NodeCase(node, **options)
    skipped: dict[str, str] = {}
    failed: list[str] = []
    for name in CHECKS:
        try:
            run_check(case, name)
        except Inapplicable as reason:
            skipped[name] = str(reason)
        except Nonconforming as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise AssertionError("\n".join(failed))
    return skipped
