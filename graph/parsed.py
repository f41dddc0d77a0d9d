"""A workflow as it is written: names and places, nothing resolved yet.

What is wrong and reported stays in the tree as a gap (``None``, ``ParsedBroken``, ``partial``, ``unread``), so
that nothing that refers to it is complained about as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from guidegraph.graph.errors import Mark
from guidegraph.graph.yamltree import Scalar, Sequence, Tree

Links: TypeAlias = Scalar | Sequence
"""A link, or a list of them (``links_of``)."""

NamedLinks: TypeAlias = dict[str, tuple[Mark, Scalar | None]]


def links_of(links: Links | None) -> list[Scalar]:
    if isinstance(links, Sequence):
        return [item for item in links.items if isinstance(item, Scalar)]
    return [] if links is None else [links]


@dataclass
class ParsedNode:
    """A node as written: links by port, literals by port, each with its key's place.

    partial: some of it could not be read, so that a port that seems to be missing may be there.
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
            yield from links_of(links)


@dataclass
class ParsedBroken:
    """A node of which nothing can be said."""

    name: str
    path: str
    mark: Mark

    def links(self) -> Iterator[Scalar]:
        return iter(())


@dataclass
class ParsedTrain:
    """One entry of ``train``."""

    model: Scalar
    loss: Scalar
    options: dict[str, tuple[Mark, Mark, Any]]


@dataclass
class ParsedPreview:
    """What a training loop runs every so many steps: a node, and ``every`` as it is written."""

    node: ParsedNode
    every: Tree


@dataclass
class ParsedLoop:
    """A loop as written. ``over`` is None where it could not be read; ``unread`` has such keys of the loop."""

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
    train: list[ParsedTrain]
    unread: frozenset[str]
    steps: Scalar | None = None
    precision: Scalar | None = None
    seed: Scalar | None = None
    checkpoint: dict[str, tuple[Mark, Tree]] = field(default_factory=dict)
    preview: ParsedPreview | None = None

    def links(self) -> Iterator[Scalar]:
        """All links of the loop and its bodies."""
        if self.over is not None:
            yield self.over
        for group in (self.carry, self.next, self.collect):
            yield from (link for _, link in group.values() if link is not None)
        yield from (t.loss for t in self.train)
        if self.steps is not None:
            yield self.steps
        if self.preview is not None:
            yield from self.preview.node.links()
        for inner in self.body.values():
            yield from inner.links()

    def inner_names(self) -> Iterator[str]:
        """The names of all nodes in the body, those of loops inside it included."""
        for name, op in self.body.items():
            yield name
            if isinstance(op, ParsedLoop):
                yield from op.inner_names()


@dataclass
class ParsedChoice:
    """A choice as written. ``when`` is None where it could not be read; ``unread`` has such keys of the choice.

    branches: a link by the value that takes it, each with its key.
    """

    name: str
    path: str
    mark: Mark
    when: Scalar | None
    branches: dict[str, tuple[Scalar, Scalar | None]]
    otherwise: Scalar | None
    unread: frozenset[str]

    def links(self) -> Iterator[Scalar]:
        for link in (self.when, self.otherwise, *(link for _, link in self.branches.values())):
            if link is not None:
                yield link


ParsedOp: TypeAlias = ParsedNode | ParsedLoop | ParsedChoice | ParsedBroken


@dataclass
class ParsedParam:
    name: str
    mark: Mark
    type: Scalar | None
    default: Tree | None
    help: str


@dataclass
class ParsedWorkflow:
    """``file`` is the path as errors show it. A parameter that is wrong is None."""

    path: Path
    file: str
    text: str
    params: dict[str, ParsedParam | None]
    nodes: dict[str, ParsedOp]
    outputs: NamedLinks
    requires: dict[str, tuple[Mark, Scalar]]
    unread: frozenset[str]

    def default_mark(self, name: str) -> Mark:
        """Where a parameter's default stands."""
        param = self.params[name]
        assert param is not None
        return param.default.mark if param.default is not None else param.mark
