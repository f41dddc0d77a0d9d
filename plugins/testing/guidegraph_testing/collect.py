"""Collect checks: the nodes of a plugin × the checks that apply, each with an id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from guidegraph.graph.node import get_spec
from guidegraph.nodes.condition_fields import declare_fields
from guidegraph.plugins.contribution import read_contribution
from guidegraph.plugins.entry_points import import_plugin_module
from guidegraph_testing.applicable import applicable_checks
from guidegraph_testing.case import Inapplicable, NodeCase, Nonconforming
from guidegraph_testing.catalogue import CHECKS
from guidegraph_testing.run_check import run_check

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet


@dataclass(frozen=True)
class Check:
    """One check of one node, to call in a test. If it turns out not to apply, it skips the test with the reason.

    `applicable_checks` excludes those that the declaration already rules out.
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
    """A case for each node of a plugin, in its order; `cases` replace the default ones.

    plugin: a module with the hook ``guidegraph_nodes``, its name, or node functions. Raises ``PluginError`` for an
    unusable plugin, ``ValueError`` for a case of another plugin's node, or for a condition field that another plugin
    declares in another way.
    """
    by_node: dict[str, list[NodeCase]] = {}
    for case in cases:
        by_node.setdefault(case.spec.id, []).append(case)
    module: object = None
    if isinstance(plugin, (list, tuple)):
        nodes = [*plugin]
    else:
        module = import_plugin_module(plugin) if isinstance(plugin, str) else plugin
        contribution = read_contribution(module, None)
        declare_fields(contribution.condition_fields, getattr(module, "__name__", repr(module)))
        nodes = [spec.function for spec in contribution.nodes.values()]
    ids = {get_spec(function).id for function in nodes}
    if foreign := sorted(by_node.keys() - ids):
        raise ValueError(f"there is a case for {', '.join(foreign)}, which the plugin does not give")
    all_cases = [case for function in nodes for case in by_node.get(get_spec(function).id) or [NodeCase(function)]]
    return all_cases if module is None else [replace(case, plugin=module) for case in all_cases]


def conformance_cases(
    plugin: object, *cases: NodeCase, checks: Collection[str] = tuple(CHECKS), slow: Collection[str] = ()
) -> list[ParameterSet]:
    """Parameters for ``pytest.mark.parametrize("check", …)``: each node of a plugin × each check that applies.

    plugin, cases: see `cases_of`. checks: those to run, if they apply. slow: those to mark ``slow``.
    """
    pytest = import_module("pytest")
    parameters = []
    for case in cases_of(plugin, cases):
        for name in applicable_checks(case, checks):
            check = Check(case, name)
            parameters.append(pytest.param(check, id=check.id, marks=[pytest.mark.slow] if name in slow else []))
    return parameters


def conforms(node: Callable[..., Any] | NodeCase, /, **options: Any) -> dict[str, str]:
    """Run all checks of one node. Returns the reasons of those that do not apply, by name.

    options: as for `NodeCase`. Raises ``AssertionError`` that lists every failed check.
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
