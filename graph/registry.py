"""The nodes and port types that are known, and what could not be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guidegraph.graph.node import NodeSpec
from guidegraph.graph.types import Tensor


@dataclass(frozen=True)
class Registry:
    """What a workflow may use.

    nodes: specifications by id. types: port types by name, for ``type:`` of a parameter.
    failed: namespaces whose plugin did not load, with the reason.
    versions: versions of plugin distributions, for ``requires``. absent: distributions that are installed but whose
    plugin failed or is disabled, with the reason. folders: where the plugin of a namespace keeps its files, for
    workflows that are named ``NAMESPACE:FILE``; none for a plugin that is no package.
    """

    nodes: Mapping[str, NodeSpec]
    types: Mapping[str, type] = field(default_factory=lambda: {"Tensor": Tensor})
    failed: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
