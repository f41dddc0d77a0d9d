"""The built-in nodes and types, imported when they are looked up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from guidegraph.graph.memory.pause_collector import pause_for_import
from guidegraph.graph.node import NodeSpec, get_spec
from guidegraph.plugins import builtin
from guidegraph.plugins.contribution import Contribution, read_contribution


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
                    self._keep(map(get_spec, builtin.read_nodes(builtin.find_node_modules(marks, derived=derived))))
        return self._nodes.get(id)

    def may_define(self, namespace: str) -> bool:
        """Whether a module of nodes contains the name of a namespace, so that nodes of it may exist."""
        return bool(builtin.find_node_modules(_namespace_marks(namespace)))

    def load_types(self) -> dict[str, type]:
        """The built-in port types by name."""
        with pause_for_import():
            return {cls.__name__: cls for cls in builtin.guidegraph_types()}

    def load_all(self) -> Contribution:
        """All built-in nodes and types, in the order of their modules."""
        with pause_for_import():
            contribution = read_contribution(builtin, None)
        self._keep(contribution.nodes.values())
        return replace(contribution, nodes={id: self._nodes[id] for id in contribution.nodes})

    def _keep(self, specs: Iterable[NodeSpec]) -> None:
        for spec in specs:
            if spec.id not in self._nodes:
                self._nodes[spec.id] = replace(spec, distribution=self.owner)


def _namespace_marks(namespace: str) -> tuple[str, ...]:
    return f'"{namespace}"', f'"{namespace}.'
