"""What the runtime does before a workflow that is one graph, and the noise that it draws for the inside of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from guidegraph.graph.export.errors import ExportError
from guidegraph_runtime.host import SHAPES_READ
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest import Operation

BUNDLE = "export a bundle instead, which can do it: leave out --single-file"


@dataclass(frozen=True)
class Draw:
    """Noise that is like a sample inside of the graph, or another for each iteration of a loop, or both."""

    operation: Operation
    loop: Loop | None

    @property
    def name(self) -> str:
        return self.operation.outputs[0]


@dataclass
class Before:
    """operations: what runs before the graph, in order. draws: noise whose shape, or number, the graph knows."""

    operations: list[Operation] = field(default_factory=list)
    noise_inputs: dict[str, Draw] = field(default_factory=dict)


def before_graph(plan: Sequence[Operation], available: set[str]) -> Before:
    """The host operations of a plan, of its loops' bodies too. known: the names of what is there from the start.

    Raises ``ExportError`` for one that needs what the graph computes.
    """
    prelude = Before()
    available = set(available)
    for operation, loops in _walk_host_operations(plan, ()):
        if available.issuperset(operation.inputs.values()):
            prelude.operations.append(operation)
            available |= set(operation.outputs)
            continue
        index = operation.inputs.get("index")
        loop = next((candidate for candidate in loops if index in (candidate.index, candidate.item)), None)
        unknown = {port: name for port, name in operation.inputs.items() if name not in available}
        shapes = SHAPES_READ.get(operation.op, ())
        if not shapes or unknown.keys() - {*shapes, "index"} or ("index" in unknown and loop is None):
            raise ExportError(
                f"nodes.{operation.node} ({operation.op}) runs on the host and takes '{min(unknown.values())}', which "
                "the graph computes",
                BUNDLE,
            )
        draw = Draw(operation, loop)
        prelude.noise_inputs[draw.name] = draw
    return prelude


def _walk_host_operations(
    plan: Sequence[Operation], loops: tuple[Loop, ...]
) -> Iterator[tuple[Operation, tuple[Loop, ...]]]:
    for operation in plan:
        if operation.op == "loop":
            yield from _walk_host_operations(operation.body or (), (*loops, Loop.of(operation)))
        elif operation.op != "part":
            yield operation, loops


def flat(plan: Sequence[Operation]) -> Iterator[Operation]:
    """All operations of a plan, loops before their bodies."""
    for operation in plan:
        yield operation
        yield from flat(operation.body or ())


Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Wanted:
    """What a part takes: the part, its name for the value, the value's dtype and axes."""

    part: Operation
    port: str
    dtype: str
    dims: Dims


def readers(plan: Sequence[Operation], parts: Mapping[str, Mapping[str, tuple[str, Dims]]]) -> dict[str, Wanted]:
    """For each value the part that reads it first; for what starts a carried value, that which reads the latter.

    parts: dtype and dims of the inputs of each part that has a use for them.
    """
    readers_by_value: dict[str, Wanted] = {}
    for operation in flat(plan):
        if operation.op == "part":
            for port, name in operation.inputs.items():
                if port in parts[operation.node]:
                    readers_by_value.setdefault(name, Wanted(operation, port, *parts[operation.node][port]))
    for operation in reversed([*flat(plan)]):
        if operation.op == "loop":
            for carry, start in Loop.of(operation).start.items():
                if carry in readers_by_value:
                    readers_by_value.setdefault(start, readers_by_value[carry])
    return readers_by_value
