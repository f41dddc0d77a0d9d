"""The validated graph, made from a workflow by ``build`` and compiled to a plan.

Sub-workflows are inlined, every link is resolved to a ``Source``, every literal is validated, and
each block (the top level, or a loop's body) lists its operations in topological order. Keys are
unique over the whole graph: ``sample`` for a node, ``sample.body.cond`` for a node
in a loop's body, ``guided/cond`` for a node of the sub-workflow that node ``guided`` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self
from typing import Literal as Is

from guidegraph.graph.errors import Mark
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.port import Port
from guidegraph.graph.sources import (
    Carry,
    Index,
    Item,
    Literal,
    Many,
    Output,
    Param,
    Source,
    Sources,
    list_parameters,
    list_sources,
    map_links,
    map_sources,
)
from guidegraph.graph.trust.file_checks import may_hold_path
from guidegraph.graph.types import PortType, make_fit
from guidegraph.graph.values.output_check import OutputCheck
from guidegraph.graph.values.ownership import is_mutable
from guidegraph_runtime.declare.choice_words import WHEN

if TYPE_CHECKING:
    from guidegraph.graph.stopping.loop_state import LoopState


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


_NO_CONSTANTS: dict[str, Any] = {}
"""Shared by all calls without literal settings."""


class CallLayout(NamedTuple):
    """How a call passes its arguments, which is the same in every plan.

    leading: the sources of the leading ports, which are passed by position. by_name: the other sources, passed by the
    name of their port or setting. validated: the settings among those. narrowed: the ports and settings to check,
    each with its check and its position among the leading ones, or None. constants: literal settings. mutable: those
    that are copied for each call. checks: a type check for each output; ``None`` if any value fits.
    flat: there are no named sources and no lists of links. plain: also, no argument has to be checked or copied, and no
    literal setting may hold a path.
    """

    leading: tuple[Sources, ...]
    by_name: tuple[tuple[str, Sources], ...]
    validated: tuple[str, ...]
    narrowed: tuple[tuple[str, Callable[[Any], bool], int | None], ...]
    constants: dict[str, Any]
    mutable: tuple[str, ...]
    checks: tuple[OutputCheck | None, ...]
    flat: bool
    plain: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a node. Slots keep a graph of many calls small: its speed is bounded by memory.

    inputs: sources by port; ports without a link are absent and take their default.
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
    _dependencies: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _layout: CallLayout | None = field(default=None, init=False, repr=False, compare=False)

    has_blocks: ClassVar[Is[False]] = False
    """Whether there are operations inside it, as in a loop."""
    has_branches: ClassVar[bool] = False
    """Whether it reads sources of which at most one is computed."""

    @property
    def outputs(self) -> Mapping[str, PortType]:
        return self.spec.outputs

    def arguments(self) -> Iterator[tuple[str, Sources]]:
        """All ports with links and all settings by name, each with its sources."""
        return chain(self.inputs.items(), self.settings.items())

    def argument(self, name: str) -> Sources | None:
        """The sources of a port or setting; ``None`` if it has none."""
        return self.settings[name] if name in self.settings else self.inputs.get(name)

    def links(self) -> list[tuple[str, Source]]:
        """All sources that this call reads, each with its port or setting."""
        links: list[tuple[str, Source]] = []
        for name, sources in chain(self.inputs.items(), self.settings.items()):
            links += zip(repeat(name), sources.sources) if isinstance(sources, Many) else [(name, sources)]
        return links

    def sources(self) -> list[Source]:
        """All sources that this call reads."""
        single: list[Source] = []
        for source in (*self.inputs.values(), *self.settings.values()):
            single += source.sources if isinstance(source, Many) else [source]
        return single

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The keys of the operations whose outputs this call reads."""
        dependencies = self._dependencies
        if dependencies is None:
            dependencies = _list_producers(self.sources())
            object.__setattr__(self, "_dependencies", dependencies)
        return dependencies

    @property
    def layout(self) -> CallLayout:
        """How the arguments are passed. Leading ports are passed by position, which saves building a dict."""
        layout = self._layout
        if layout is None:
            layout = self._make_layout()
            object.__setattr__(self, "_layout", layout)
        return layout

    @property
    def node_id(self) -> str:
        """The id of the node that it calls."""
        return self.spec.id

    @property
    def is_pure(self) -> bool:
        """Whether it only computes its outputs."""
        return self.spec.pure

    def mark_of(self, argument: str) -> Mark:
        """The position of a port or setting in the workflow's file; the call's own if it has none."""
        return self.marks.get(argument, self.mark)

    def blocks(self) -> tuple[Block, ...]:
        """The blocks inside the operation: none."""
        return ()

    def map_body(self, change: Callable[[Mapping[str, Op]], Mapping[str, Op]]) -> Self:
        """The operation with its body changed: it has none."""
        return self

    def map_sources(self, change: Callable[[Source], Source], change_op: Callable[[Op], Op]) -> Self:
        """The call with each of its sources replaced by ``change(source)``."""
        changed = [
            {name: map_sources(change, sources) for name, sources in links.items()}
            for links in (self.inputs, self.settings)
        ]
        return replace(self, inputs=changed[0], settings=changed[1])

    def branches(self) -> Mapping[str, Source]:
        """Sources of which at most one is computed, by the name of the branch: none."""
        return {}

    def certain_sources(self) -> Iterable[Source]:
        """The sources that the operation needs whatever their values are."""
        return self.sources()

    def _make_layout(self) -> CallLayout:
        names = [*self.spec.inputs]
        count = next((i for i, name in enumerate(names) if name not in self.inputs), len(names))
        leading = tuple([self.inputs[name] for name in names[:count]])
        by_name = [(name, self.inputs[name]) for name in names[count:] if name in self.inputs]
        linked = [(name, source) for name, source in self.settings.items() if not isinstance(source, Literal)]
        constants = {name: source.value for name, source in self.settings.items() if isinstance(source, Literal)}
        constants = constants or _NO_CONSTANTS
        positions = {name: i for i, name in enumerate(names[:count])} if self.checks else {}
        mutable = tuple([name for name, value in constants.items() if is_mutable(value)])
        flat = not by_name and not linked and not any(isinstance(sources, Many) for sources in leading)
        return CallLayout(
            leading,
            (*by_name, *linked),
            tuple([name for name, _ in linked]),
            tuple([(name, make_fit(kind), positions.get(name)) for name, kind in self.checks]),
            constants,
            mutable,
            self.spec.output_checks,
            flat,
            flat and not self.checks and not mutable and not any(map(may_hold_path, constants.values())),
        )

    def linked_ports(self) -> list[tuple[Source, Port]]:
        """All sources that it reads, each with its port or setting; for one in a list, a port for one element."""
        linked: list[tuple[Source, Port]] = []
        for name, sources in chain(self.inputs.items(), self.settings.items()):
            if (port := self.spec.ports.get(name)) is None:
                continue
            if isinstance(sources, Many):
                sequence = port.type.sequence
                element = Port(name, None, sequence.element) if sequence else port
                linked += zip(sources.sources, repeat(element))
            else:
                linked.append((sources, port))
        return linked

    def parameters(self) -> list[tuple[str, Port]]:
        """Each parameter that this call reads, with its port or setting as in ``linked_ports``."""
        return [(source.name, port) for source, port in self.linked_ports() if isinstance(source, Param)]


@dataclass(frozen=True, slots=True)
class Choice(Call):
    """A call that returns one of its branches, which are its ports: the one that the setting ``when`` names.

    Only that branch is computed. ``OTHERWISE``, if present, is used for any other value.
    """

    has_branches: ClassVar[bool] = True

    @property
    def when(self) -> Source:
        (source,) = list_sources(self.settings[WHEN])
        return source

    def branches(self) -> Mapping[str, Source]:
        """The sources of its branches by name, of which one is computed."""
        return {name: source for name, sources in self.inputs.items() for source in list_sources(sources)}

    def certain_sources(self) -> Iterable[Source]:
        """The sources that the choice needs whatever their values are: ``when``."""
        return (self.when,)


class Block(NamedTuple):
    """Operations that run together, and the sources that they must compute."""

    ops: Mapping[str, Op]
    roots: tuple[Source, ...]

    def sources(self) -> list[Source]:
        """All sources that the operations and the roots read."""
        sources: list[Source] = []
        for op in self.ops.values():
            sources += op.sources()
        return [*sources, *self.roots]

    def outer_sources(self, loop: str) -> list[Source]:
        """Those sources that are outside the loop with this key, whose block this is."""
        return [
            source
            for source in self.sources()
            if not (isinstance(source, (Carry, Item, Index)) and source.loop == loop)
            and not (isinstance(source, Output) and source.op in self.ops)
        ]


@dataclass(frozen=True)
class Loop:
    """A loop. Its body may read any source outside it; those sources are inputs of the loop.

    A subclass is a kind of loop: the methods after ``block`` say how it differs from a plain one.
    stop_at: the run ends after so many iterations. resumed: the state to go on from; ``carry`` has its values, and
    ``starts`` the sources of carries that are compared with the state before the first iteration.
    """

    key: str
    over: Source
    item: str
    carry: Mapping[str, Source]
    body: Mapping[str, Call | Loop]
    next: Mapping[str, Source]
    collect: Mapping[str, Source]
    outputs: Mapping[str, PortType]
    mark: Mark
    stop_at: int | None = field(default=None, kw_only=True)
    resumed: LoopState | None = field(default=None, kw_only=True)
    starts: Mapping[str, Source] = field(default_factory=dict, kw_only=True)

    kind: ClassVar[str] = "loop"
    """Its entry of ``guidegraph.graph.kinds``, which names the function that runs it."""
    excluded_passes: ClassVar[frozenset[str]] = frozenset()
    """Passes that are not applied to its body."""
    can_stop: ClassVar[bool] = True
    """Whether a run can end after some of its iterations, and another go on from there."""
    node_id: ClassVar[str] = "loop"
    has_blocks: ClassVar[Is[True]] = True
    has_branches: ClassVar[bool] = False

    def roots(self) -> tuple[Source, ...]:
        """The sources each iteration must compute: the next carries, the collected values and the extra results."""
        return (*self.next.values(), *self.collect.values(), *self.extra_results().values())

    def sources(self) -> list[Source]:
        """All sources that the loop reads from outside: ``over``, the carries' starts and the closure."""
        own = (self.over, *self.carry.values(), *self.starts.values(), *self.option_sources())
        return [*own, *self.block.outer_sources(self.key)]

    @cached_property
    def dependencies(self) -> tuple[str, ...]:
        """The keys of the operations outside whose outputs the loop reads."""
        return _list_producers(self.sources())

    @cached_property
    def is_pure(self) -> bool:
        """Whether it only computes its outputs. A checkpoint serves to resume, and is not a result."""
        return all(op.is_pure for op in self.body.values())

    def mark_of(self, argument: str) -> Mark:
        """The position of the loop in the workflow's file, for all that it reads."""
        return self.mark

    def branches(self) -> Mapping[str, Source]:
        """Sources of which at most one is computed: none, apart from those of choices in its body."""
        return {}

    def certain_sources(self) -> Iterable[Source]:
        """The sources that the loop needs whatever their values are."""
        return self.sources()

    @cached_property
    def block(self) -> Block:
        return Block(self.body, self.roots())

    @property
    def steps(self) -> Source | None:
        """The number of iterations; None if it is the number of items of ``over``."""
        return None

    def extra_results(self) -> Mapping[str, Source]:
        """Sources that an iteration computes beside the next carries and the collected values, by description."""
        return {}

    def preview_outputs(self) -> Mapping[str, GraphOutput]:
        """The outputs of its preview by name: none."""
        return {}

    def folders(self) -> Mapping[str, tuple[Source, Port]]:
        """The folders that the loop writes, with the ports that check them, by the option that names them."""
        return {}

    def option_sources(self) -> Iterator[Source]:
        """All sources that it reads from outside beside ``over``, the initial values and the body's."""
        return iter(())

    def option_ports(self) -> Iterator[tuple[str, Source, Port]]:
        """The options that a parameter may set: a description for messages, the source, and the port that checks it."""
        return iter(())

    def digest_parts(self) -> Iterator[tuple[str, Source | str]]:
        """The options on which its results depend, by unique names; a text stands for itself."""
        if self.stop_at is not None:
            yield "stop at", str(self.stop_at)
        if self.resumed is not None:
            yield "resumed", self.resumed.digest

    def blocks(self) -> tuple[Block, ...]:
        """The body, and any other operations inside the loop."""
        return (self.block,)

    def with_blocks(self, *ops: Mapping[str, Op]) -> Self:
        """The loop with other operations in its blocks, in the order of ``blocks``."""
        return replace(self, body=ops[0])

    def map_body(self, change: Callable[[Mapping[str, Op]], Mapping[str, Op]]) -> Self:
        """The loop with the operations of its body replaced by ``change(body)``."""
        return replace(self, body=change(self.body))

    def map_sources(self, change: Callable[[Source], Source], change_op: Callable[[Op], Op]) -> Self:
        """The loop with its own sources and the operations of its blocks changed by these functions."""
        return replace(
            self,
            over=change(self.over),
            carry=map_links(self.carry, change),
            starts=map_links(self.starts, change),
            body={key: change_op(op) for key, op in self.body.items()},
            next=map_links(self.next, change),
            collect=map_links(self.collect, change),
        )


def _list_producers(sources: Iterable[Source]) -> tuple[str, ...]:
    return tuple([source.op for source in sources if isinstance(source, Output)])


Op = Call | Loop


@dataclass(frozen=True)
class GraphOutput:
    """A declared output of the workflow."""

    source: Source
    type: PortType
    mark: Mark


class GraphTraits(NamedTuple):
    """Traits that at least one operation of a graph has. Planning leaves out at once the work that none of them needs.

    checks: a node checks its wiring. files: a node names files, or a loop may write some. skips: a node leaves out
    ports or itself. effects: a node is not pure. shapes: shapes have to fit together, or calls may be joined.
    requirements: a node may need something that this machine lacks. io: a node may run on a thread.
    """

    loops: bool
    choices: bool
    checks: bool
    files: bool
    skips: bool
    effects: bool
    shapes: bool
    requirements: bool
    io: bool


@dataclass(frozen=True)
class Graph:
    """A validated workflow. ``sources`` maps each file that was read to its text."""

    file: Path
    params: Mapping[str, Parameter]
    ops: Mapping[str, Op]
    outputs: Mapping[str, GraphOutput]
    sources: Mapping[str, str]

    @cached_property
    def name(self) -> str:
        return self.file.stem

    @cached_property
    def parameter_readers(self) -> tuple[Op, ...]:
        """The operations to which the value of a parameter may come, in bodies too: directly, or through a choice."""
        ops = walk(self.ops)
        if self.traits.choices:  # a branch that is a parameter feeds whatever reads the choice
            return tuple(ops)
        return tuple([op for op in ops if list_parameters(op.sources())])

    @cached_property
    def loops(self) -> Mapping[str, Loop]:
        """The loops of the top level by key."""
        return find_loops(self.ops.values())

    @cached_property
    def traits(self) -> GraphTraits:
        """The traits of its operations, in bodies too. A plan of the graph has no operations of other kinds."""
        ops = walk(self.ops)
        kinds = {*map(type, ops)}
        specs = list({id(call.spec): call.spec for call in list_calls(ops)}.values())
        loops = any(issubclass(kind, Loop) for kind in kinds)
        return GraphTraits(
            loops=loops,
            choices=Choice in kinds,
            checks=any(spec.check is not None for spec in specs),
            files=loops or any(spec.path_ports for spec in specs),
            skips=any(spec.identity is not None or spec.needs is not None for spec in specs),
            effects=any(not spec.pure for spec in specs),
            shapes=loops or any(spec.shape is not None or spec.batchable for spec in specs),
            requirements=any(spec.has_requirements for spec in specs),
            io=any(spec.io for spec in specs),
        )


def walk(ops: Mapping[str, Op], *, previews: bool = True) -> list[Op]:
    """Every operation, each loop before its body; ``previews``: those of previews too."""
    walked: list[Op] = []
    waiting = [*ops.values()][::-1]
    while waiting:
        op = waiting.pop()
        walked.append(op)
        if op.has_blocks:
            for block in reversed(op.blocks() if previews else op.blocks()[:1]):
                waiting += [*block.ops.values()][::-1]
    return walked


def walk_calls(ops: Mapping[str, Op], *, previews: bool = True) -> list[Call]:
    """All calls of nodes, in the order of ``walk``."""
    return list_calls(walk(ops, previews=previews))


def list_calls(ops: Iterable[Op]) -> list[Call]:
    """The calls of nodes among operations, choices included."""
    return [op for op in ops if isinstance(op, Call)]


def list_choices(ops: Iterable[Op]) -> list[Choice]:
    """The choices among operations."""
    return [op for op in ops if isinstance(op, Choice)]


def find_loops(ops: Iterable[Op]) -> dict[str, Loop]:
    """The loops among operations by key."""
    return {op.key: op for op in ops if isinstance(op, Loop)}
