"""A kind of block of its own: a loop that ends as soon as a value is small enough, ``until: {value: LINK, below: …}``.

``UNTIL`` is its entry of ``KINDS``; the engine knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from guidegraph.graph.execution.loop import fetch_item, list_items, run_phases, set_item, stack
from guidegraph.graph.execution.loop_context import LoopContext
from guidegraph.graph.ir import Loop, Op
from guidegraph.graph.kinds import Kind
from guidegraph.graph.language.parse import read_loop
from guidegraph.graph.language.syntax import ParsedLoop
from guidegraph.graph.language.yaml_tree import Entries, Scalar, TreeReader, get_tree
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import Step
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.loops import LoopParts, resolve_loop
from guidegraph.graph.resolution.scope import ResolvedNode, Scope
from guidegraph.graph.sources import Carry, Source

UNTIL = Kind(
    "until",
    ("until",),
    is_loop=True,
    read=f"{__name__}:read_until",
    resolve=f"{__name__}:resolve_until",
    run=f"{__name__}:run_until",
    export_problem=("repeats until a value is small, and a bundle cannot", "export a loop with a fixed number"),
)


@dataclass
class ParsedUntil(ParsedLoop):
    value: Scalar | None = None
    below: float = 0.0

    kind: ClassVar[str] = "until"

    def option_links(self) -> Iterator[Scalar]:
        if self.value is not None:
            yield self.value


def read_until(reader: TreeReader, key: Scalar, entries: Entries, path: str, depth: int) -> ParsedUntil | None:
    loop = read_loop(reader, key, entries, path, depth, ParsedUntil)
    until = reader.read_mapping(entries["until"][1], f"{path}.until", "{value: LINK, below: NUMBER}") or {}
    value, below = get_tree(until, "value"), get_tree(until, "below")
    if loop is None:
        return None
    if isinstance(value, Scalar) and isinstance(below, Scalar) and isinstance(below.value, float):
        loop.value, loop.below = value, below.value
    else:
        message = "expected {value: LINK, below: NUMBER}"
        reader.report(entries["until"][0].mark, "bad-value", message, f"{path}.until")
        loop.unread |= {"until"}
    return loop


@dataclass(frozen=True)
class Until(Loop):
    value: Source
    below: float

    kind: ClassVar[str] = "until"
    can_stop: ClassVar[bool] = False
    excluded_passes: ClassVar[frozenset[str]] = frozenset({"precompute"})

    def extra_results(self) -> Mapping[str, Source]:
        return {"until": self.value}

    def digest_parts(self) -> Iterator[tuple[str, Source | str]]:
        yield "until", self.value
        yield "below", str(self.below)

    def map_sources(self, change: Callable[[Source], Source], change_op: Callable[[Op], Op]) -> Self:
        return replace(super().map_sources(change, change_op), value=change(self.value))


def resolve_until(
    resolver: BlockResolver, loop: ParsedUntil, scope: Scope, key: str, block: BlockContext
) -> tuple[dict[str, Op], ResolvedNode]:
    def finish(inner: Scope, _body: Mapping[str, Op]) -> Callable[[LoopParts], Loop | None]:
        typed = resolver.find_source(loop.value, inner, f"{loop.path}.until.value") if loop.value else None
        return lambda parts: Until(*parts, typed.source, loop.below) if typed else None

    return resolve_loop(resolver, loop, scope, key, block, finish)


def run_until(step: Step, outside: dict[Source, Any], context: LoopContext, plan: Plan) -> dict[str, Any]:
    body = step.body
    assert body is not None
    loop = body.loop
    assert isinstance(loop, Until)
    items = list_items(step, outside[loop.over])
    context.count_trips(step, len(items))
    values = {**outside, **{Carry(loop.key, name): outside[source] for name, source in loop.carry.items()}}
    collected: dict[str, list[Any]] = {name: [] for name in loop.collect}
    context.iterations.append(0)
    for i in range(len(items)):
        context.cancel.check()
        context.iterations[-1] = i
        set_item(values, body.item_sources, loop, fetch_item(step, items, i), i)
        results = run_phases(body.variant({}), values, context, plan)
        values |= {Carry(loop.key, name): results[source] for name, source in loop.next.items()}
        for name, source in loop.collect.items():
            collected[name].append(results[source])
        if results[loop.value] < loop.below:
            break
    context.iterations.pop()
    carried = {name: values[Carry(loop.key, name)] for name in loop.carry}
    return carried | {name: stack(history, loop.outputs[name]) for name, history in collected.items()}
