"""The syntax tree of a workflow: names and positions, nothing resolved yet.

Invalid values that were reported stay in the tree as gaps (``None``, ``ParsedBroken``, ``partial``, ``unread``), so
that references to them are not reported again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from guidegraph.graph.errors import Mark
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlSequence

Links: TypeAlias = Scalar | YamlSequence
"""A link, or a list of them (``list_links``)."""

NamedLinks: TypeAlias = dict[str, tuple[Mark, Scalar | None]]


def list_links(links: Links | None) -> list[Scalar]:
    """The links as a list."""
    if isinstance(links, YamlSequence):
        return [item for item in links.items if isinstance(item, Scalar)]
    return [] if links is None else [links]


@dataclass(slots=True)
class ParsedNode:
    """A node as written: links by port and literals by port, each with its key's position.

    partial: some of it could not be read, so ports that seem to be missing are not reported.
    """

    name: str
    path: str
    mark: Mark
    use: Scalar
    inputs: dict[str, tuple[Mark, Links | None]] = field(default_factory=dict)
    literals: dict[str, tuple[Mark, Tree | None]] = field(default_factory=dict)
    partial: bool = False

    def links(self) -> Iterator[Scalar]:
        for _, links in self.inputs.values():
            yield from list_links(links)


@dataclass
class ParsedBroken:
    """A node that could not be read."""

    name: str
    path: str
    mark: Mark

    def links(self) -> Iterator[Scalar]:
        return iter(())


@dataclass
class ParsedTrain:
    """One entry of ``train``. options: by name, the positions of key and value, and the value."""

    model: Scalar
    loss: Scalar
    options: dict[str, tuple[Mark, Mark, Any]]


@dataclass
class ParsedPreview:
    """The preview of a training loop as written: its node, and ``every``, the number of steps between previews."""

    node: ParsedNode
    every: Tree


@dataclass
class ParsedLoop:
    """A loop as written. ``over`` is None if it could not be read; ``unread``: all keys that could not be."""

    name: str
    path: str
    mark: Mark
    over: Scalar | None
    item: Scalar | None
    carry: NamedLinks
    body: dict[str, ParsedOp]
    next: NamedLinks
    next_mark: Mark
    collect: NamedLinks
    unread: frozenset[str]

    kind: ClassVar[str] = "loop"

    @property
    def updated(self) -> tuple[str, ...]:
        """The carries whose next value the loop's kind gives; they have no ``next``."""
        return ()

    @property
    def option_nodes(self) -> tuple[ParsedNode, ...]:
        """The nodes in the keys that only its kind has."""
        return ()

    def option_links(self) -> Iterator[Scalar]:
        """The links in the keys that only its kind has."""
        return iter(())

    def links(self) -> Iterator[Scalar]:
        """All links of the loop and its body, nested loops included."""
        if self.over is not None:
            yield self.over
        for group in (self.carry, self.next, self.collect):
            yield from (link for _, link in group.values() if link is not None)
        yield from self.option_links()
        for inner in self.body.values():
            yield from inner.links()

    def inner_names(self) -> Iterator[str]:
        """Names of all nodes in the body, nested loops included."""
        for name, op in self.body.items():
            yield name
            if isinstance(op, ParsedLoop):
                yield from op.inner_names()


@dataclass
class ParsedTraining(ParsedLoop):
    """A loop as written that has keys of a training. Without ``train``, which is reported, it is a plain loop."""

    train: list[ParsedTrain] = field(default_factory=list)
    steps: Scalar | None = None
    precision: Scalar | None = None
    seed: Scalar | None = None
    checkpoint: dict[str, tuple[Mark, Tree]] = field(default_factory=dict)
    preview: ParsedPreview | None = None

    kind: ClassVar[str] = "training"

    @property
    def updated(self) -> tuple[str, ...]:
        return tuple(entry.model.text for entry in self.train)

    @property
    def option_nodes(self) -> tuple[ParsedNode, ...]:
        return () if self.preview is None else (self.preview.node,)

    def option_links(self) -> Iterator[Scalar]:
        yield from (entry.loss for entry in self.train)
        if self.steps is not None:
            yield self.steps
        if self.preview is not None:
            yield from self.preview.node.links()


@dataclass
class ParsedChoice:
    """A choice as written. ``when`` is None if it could not be read; ``unread``: all keys that could not be.

    branches: by the value of ``when``, the branch's key and link.
    """

    name: str
    path: str
    mark: Mark
    when: Scalar | None
    branches: dict[str, tuple[Scalar, Scalar | None]]
    otherwise: Scalar | None
    unread: frozenset[str]

    kind: ClassVar[str] = "choice"

    def links(self) -> Iterator[Scalar]:
        for link in (self.when, self.otherwise, *(link for _, link in self.branches.values())):
            if link is not None:
                yield link


ParsedOp: TypeAlias = ParsedNode | ParsedLoop | ParsedChoice | ParsedBroken


@dataclass
class ParsedParam:
    """A parameter as written."""

    name: str
    mark: Mark
    type: Scalar | None
    default: Tree | None
    help: str


@dataclass
class ParsedWorkflow:
    """A workflow as written. ``file`` is the path for messages. An invalid parameter is None."""

    path: Path
    file: str
    text: str
    params: dict[str, ParsedParam | None]
    nodes: dict[str, ParsedOp]
    outputs: NamedLinks
    requires: dict[str, tuple[Mark, Scalar]]
    unread: frozenset[str]

    def default_mark(self, name: str) -> Mark:
        """The position of a parameter's default."""
        param = self.params[name]
        assert param is not None
        return param.default.mark if param.default is not None else param.mark
