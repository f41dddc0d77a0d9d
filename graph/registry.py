"""The installed nodes and port types, and the plugins that failed to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guidegraph.graph.node import NodeSpec
from guidegraph.graph.types import Tensor


@dataclass(frozen=True)
class Registry:
    """All nodes, types and plugins that a workflow may use.

    nodes: specifications by id. types: port types by name, for ``type:`` of a parameter.
    failed: namespaces whose plugin did not load, with the reason.
    versions: versions of plugin distributions, for ``requires``. absent: installed distributions whose plugin failed
    or is disabled, with the reason. folders: the folders of each namespace's plugin, for workflows named
    ``NAMESPACE:FILE``; empty for a plugin that is a single module.
    """

    nodes: Mapping[str, NodeSpec]
    types: Mapping[str, type] = field(default_factory=lambda: {"Tensor": Tensor})
    failed: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
