"""The validated graph, made from a workflow by ``build`` and compiled to a plan.

Sub-workflows are inlined, every link is resolved to a ``Source``, every literal is validated, and
each block (the top level, or a loop's body) lists its operations in topological order. Keys are
unique over the whole graph: ``sample`` for a node, ``sample.body.cond`` for a node
in a loop's body, ``guided/cond`` for a node of the sub-workflow that node ``guided`` uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.types import PortType


@dataclass(frozen=True)
class Output:
    """An output of another operation; ``op`` is its key."""

    op: str
    name: str


@dataclass(frozen=True)
class Param:
    """The value of a workflow parameter, known once the run is bound."""

    name: str


@dataclass(frozen=True)
class Carry:
    """The current value of a loop's carry, inside its body; ``loop`` is the loop's key."""

    loop: str
    name: str


@dataclass(frozen=True)
class Item:
    """The loop's current item, or one field of it."""

    loop: str
    field: str | None = None


@dataclass(frozen=True)
class Index:
    """The iteration number, from 0."""

    loop: str


@dataclass(frozen=True, eq=False)
class Literal:
    """A validated constant."""

    value: Any


Source = Output | Param | Carry | Item | Index | Literal
Sources = Source | tuple[Source, ...]


@dataclass(frozen=True)
class Parameter:
    """A declared parameter. ``port`` validates its values; a relative default path is relative to ``base``."""

    name: str
    port: Port
    default: Any
    required: bool
    help: str
    mark: Mark
    base: Path


@dataclass(frozen=True)
class Call:
    """One call of a node.

    inputs: sources by port (a tuple for a list of links); ports without a link are absent and take their default.
    settings: the same, by setting.
    checks: ports and settings whose link narrows the type, with the type to check at run time.
    """

    key: str
    spec: NodeSpec
    inputs: Mapping[str, Sources]
    settings: Mapping[str, Sources]
    mark: Mark
    checks: tuple[tuple[str, PortType], ...] = ()
    marks: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def outputs(self) -> Mapping[str, PortType]:
        return self.spec.outputs

    def sources(self) -> Iterator[Source]:
        """All sources that this call reads."""
        for value in (*self.inputs.values(), *self.settings.values()):
            if isinstance(value, tuple):
                yield from value
            else:
                yield value

    def parameters(self) -> Iterator[tuple[str, Port]]:
        """Each parameter that this call reads, with its port or setting; for one in a list, a port for one element."""
        for name, value in (*self.inputs.items(), *self.settings.items()):
            for source in value if isinstance(value, tuple) else (value,):
                if isinstance(source, Param) and (port := self.spec.port(name)) is not None:
                    sequence = port.type.sequence if isinstance(value, tuple) else None
                    yield source.name, Port(name, None, sequence.element) if sequence else port


WHEN = "when"
OTHERWISE = "otherwise"


@dataclass(frozen=True)
class Choice(Call):
    """A call that returns one of its branches, which are its ports: the one that the setting ``when`` names.

    Only that branch is computed. ``OTHERWISE``, if present, is used for any other value.
    """

    @property
    def when(self) -> Source:
        source = self.settings[WHEN]
        assert not isinstance(source, tuple)
        return source

    def branch(self, name: str) -> Source:
        """The source of a branch."""
        source = self.inputs[name]
        assert not isinstance(source, tuple)
        return source


@dataclass(frozen=True)
class OptimisedModel:
    """One model trained by a training loop (an entry of ``train``).

    ``linked``: sources of the numeric fields that are set by parameters; their values replace the fields in the run.
    """

    model: str
    loss: Source
    optimizer: str
    lr: float
    ema: float | None
    start: int
    options: Mapping[str, Any]
    linked: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """The preview of a training loop: operations on its carries, run once per ``every`` steps, and their outputs.

    ``every`` is a literal or a parameter.
    """

    every: Source
    ops: Mapping[str, Op]
    outputs: Mapping[str, GraphOutput]

    def sources(self, loop: str) -> Iterator[Source]:
        """All sources that it reads from outside the loop with this key."""
        yield self.every
        inner = [source for op in self.ops.values() for source in op.sources()]
        for source in (*inner, *(output.source for output in self.outputs.values())):
            if isinstance(source, (Carry, Item, Index)) and source.loop == loop:
                continue
            if isinstance(source, Output) and source.op in self.ops:
                continue
            yield source


@dataclass(frozen=True)
class Training:
    """The training options of a loop: models, number of steps, precision, checkpoint and preview.

    ``steps`` and ``checkpoint`` (a folder) are literals or parameters; ``every``: steps between checkpoints.
    """

    models: tuple[OptimisedModel, ...]
    steps: Source | None
    precision: str
    checkpoint: Source | None
    every: int
    options: Mapping[str, Any] = field(default_factory=dict)
    preview: Preview | None = None


@dataclass(frozen=True)
class Loop:
    """A loop. Its body may read any source outside it; those sources are inputs of the loop."""

    key: str
    over: Source
    item: str
    carry: Mapping[str, Source]
    body: Mapping[str, Call | Loop]
    next: Mapping[str, Source]
    collect: Mapping[str, Source]
    outputs: Mapping[str, PortType]
    mark: Mark
    training: Training | None = None

    def roots(self) -> tuple[Source, ...]:
        """The sources each iteration must compute: the next carries, the collected values and the losses."""
        losses = (m.loss for m in self.training.models) if self.training else ()
        return (*self.next.values(), *self.collect.values(), *losses)

    def inner_sources(self) -> Iterator[Source]:
        """All sources that the body, ``next``, ``collect`` and the losses read, inside or outside the loop."""
        for op in self.body.values():
            yield from op.sources()
        yield from self.roots()

    def sources(self) -> Iterator[Source]:
        """All sources that the loop reads from outside: ``over``, the carries' initial values and the closure."""
        yield self.over
        yield from self.carry.values()
        if self.training:
            yield from (s for s in (self.training.steps, self.training.checkpoint) if s is not None)
            yield from (source for model in self.training.models for source in model.linked.values())
            if self.training.preview:
                yield from self.training.preview.sources(self.key)
        for source in self.inner_sources():
            if isinstance(source, (Carry, Item, Index)) and source.loop == self.key:
                continue
            if isinstance(source, Output) and source.op in self.body:
                continue
            yield source


Op = Call | Loop


@dataclass(frozen=True)
class GraphOutput:
    """A declared output of the workflow."""

    source: Source
    type: PortType
    mark: Mark


@dataclass(frozen=True)
class Graph:
    """A validated workflow. ``sources`` maps each file that was read to its text."""

    file: Path
    params: Mapping[str, Parameter]
    ops: Mapping[str, Op]
    outputs: Mapping[str, GraphOutput]
    sources: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.file.stem


def walk(ops: Mapping[str, Op], *, previews: bool = True) -> Iterator[Op]:
    """Every operation, each loop before its body; ``previews``: those of previews too."""
    stack: list[Iterator[Op]] = [iter(ops.values())]
    while stack:
        op = next(stack[-1], None)
        if op is None:
            stack.pop()
            continue
        yield op
        if isinstance(op, Loop):
            preview = op.training.preview if op.training and previews else None
            stack.append(chain(op.body.values(), preview.ops.values() if preview else ()))
