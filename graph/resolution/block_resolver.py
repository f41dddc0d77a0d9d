"""The context in which a block is resolved, and the base class of the resolver that resolves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from guidegraph.graph.errors import Problem
from guidegraph.graph.ir import Op, Parameter
from guidegraph.graph.language.syntax import ParsedOp, ParsedWorkflow
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.ports import PortResolver, TypeRecord
from guidegraph.graph.resolution.scope import ResolvedNode, Scope
from guidegraph.graph.types import PortType


@dataclass(frozen=True)
class BlockContext:
    """The context of a block.

    prefix: of its operations' keys. base: the folder of its file; display_folder: that folder as messages show it.
    files: the workflows being resolved, outermost first. loop_depth: the number of loops around it, over all files.
    """

    prefix: str
    base: Path
    display_folder: str
    files: tuple[Path, ...]
    loop_depth: int = 0


class BlockResolver(PortResolver, ABC):
    """Resolves blocks and the operations in them. Loops, previews and sub-workflows resolve their nodes with it.

    parse_file: reads a workflow, given its path and its path for messages. resolve_params: resolves its parameters.
    missing_plugins: required plugins that are not installed; grows as files are read.
    """

    def __init__(
        self,
        registry: Registry,
        problems: list[Problem],
        parse_file: Callable[[Path, str], ParsedWorkflow | None],
        resolve_params: Callable[[ParsedWorkflow], dict[str, Parameter]],
        missing_plugins: Collection[str] = (),
        types: TypeRecord | None = None,
    ):
        super().__init__(registry, problems, types)
        self.parse_file = parse_file
        self.resolve_params = resolve_params
        self.missing_plugins = missing_plugins
        self.carry_types: dict[str, dict[str, PortType]] = {}

    @abstractmethod
    def resolve_block(self, nodes: Mapping[str, ParsedOp], scope: Scope, block: BlockContext) -> dict[str, Op]:
        """Resolve a block: its operations in topological order. Adds its nodes to ``scope``."""

    @abstractmethod
    def resolve_operation(
        self, op: ParsedOp, scope: Scope, key: str, block: BlockContext
    ) -> tuple[dict[str, Op], ResolvedNode]:
        """Resolve a node with the key ``key``: its operations, and its outputs for links."""
