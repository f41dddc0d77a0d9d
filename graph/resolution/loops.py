"""Resolution of loops: a carry's type is the join of its start and ``next``, found by iteration to a fixed point."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from guidegraph.graph.errors import Mark, Problem, closest_match, suggest
from guidegraph.graph.ir import Loop, Op
from guidegraph.graph.language.parse import MAX_NESTING
from guidegraph.graph.language.syntax import NamedLinks, ParsedLoop
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.link_rule import have_common_type, join
from guidegraph.graph.resolution.scope import ResolvedNode, Scope, TypedSource
from guidegraph.graph.sources import Output, Source
from guidegraph.graph.types import ANY, NEVER_ITERATED, PortType, SequenceOf, Tensor, make_tensor_type, union

TypedByName = dict[str, TypedSource | None]


class LoopParts(NamedTuple):
    """The arguments of ``Loop``, which all kinds of loop have, in its order."""

    key: str
    over: Source
    item: str
    carry: Mapping[str, Source]
    body: Mapping[str, Op]
    next: Mapping[str, Source]
    collect: Mapping[str, Source]
    outputs: Mapping[str, PortType]
    mark: Mark


def make_plain_loop(parts: LoopParts) -> Loop:
    """The plain loop."""
    return Loop(*parts)


Finish: TypeAlias = Callable[[Scope, Mapping[str, Op]], Callable[[LoopParts], Loop | None]]
"""Resolves the options of a kind of loop, given the scope and operations of its body, and returns its maker.

The maker returns None if an option is invalid, which was reported.
"""


def resolve_loop(
    resolver: BlockResolver,
    loop: ParsedLoop,
    scope: Scope,
    key: str,
    block: BlockContext,
    finish: Finish = lambda _inner, _body: make_plain_loop,
) -> tuple[dict[str, Op], ResolvedNode]:
    """Resolve a loop to one operation; its outputs are the carries and the collected values.

    finish: resolves the options of a kind of loop.
    """
    if block.loop_depth >= MAX_NESTING:
        resolver.report(
            loop.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep, those of used workflows included", loop.path
        )
        return {}, ResolvedNode(broken=True)
    over = _resolve_over(resolver, loop, scope)
    _check_names(resolver, loop, scope)
    _check_next_names(resolver, loop)
    starts = _find_sources(resolver, loop.carry, scope, f"{loop.path}.carry")
    inner, body, nexts = _resolve_body(resolver, loop, scope, key, block, starts, over)
    valid_keys = {"body", "next"} - loop.unread
    collects = _find_sources(resolver, loop.collect, inner, f"{loop.path}.collect") if "body" in valid_keys else {}
    make = finish(inner, body)
    collected_kinds = {name: collect_type(c.type) if c else ANY for name, c in collects.items()}
    exact_kinds = {name: collect_type(c.actual_type or c.type) if c else ANY for name, c in collects.items()}
    outputs = {**inner.carry, **{name: drop_axes(kind) for name, kind in collected_kinds.items()}}
    clashing = loop.carry.keys() & loop.collect.keys()  # reported; either could be meant
    partial = bool(loop.unread & {"carry", "collect", "body"} or clashing)
    typed = {name: TypedSource(Output(key, name), kind) for name, kind in inner.carry.items()}
    typed |= {
        n: TypedSource(Output(key, n), outputs[n], exact_kinds[n], possible_collect_type(kind))
        for n, kind in collected_kinds.items()
    }
    entry = ResolvedNode({n: source for n, source in typed.items() if n not in clashing}, partial=partial)
    is_invalid = loop.unread or loop.item is None or None in (*starts.values(), *nexts.values(), *collects.values())
    if over is None or is_invalid:
        return {}, entry
    sources = [{n: f.source for n, f in group.items() if f} for group in (starts, nexts, collects)]
    start, after, collect = sources
    item = loop.item.text if loop.item else ""
    op = make(LoopParts(key, over.source, item, start, body, after, collect, outputs, loop.mark))
    return {} if op is None else {key: op}, entry


def _resolve_body(
    resolver: BlockResolver,
    loop: ParsedLoop,
    scope: Scope,
    key: str,
    block: BlockContext,
    starts: TypedByName,
    over: TypedSource | None,
) -> tuple[Scope, dict[str, Op], TypedByName]:
    """Resolve the body, repeatedly, until the carries' types hold the types of ``next``."""
    earlier = resolver.carry_types.get(key, {})  # from an earlier pass over an enclosing loop: types only widen
    first = {n: f.widest_type if f else ANY for n, f in starts.items()}
    kinds = {n: join(kind, earlier.get(n, kind)) for n, kind in first.items()}
    body_block = replace(block, prefix=f"{key}.body.", loop_depth=block.loop_depth + 1)
    unread = (loop.unread & {"carry"}) | ({"nodes"} if "body" in loop.unread else set())
    trained = {*loop.updated}
    next_links = {n: entry for n, entry in loop.next.items() if n in loop.carry and n not in trained}
    kinds |= {n: ANY for n in loop.carry if n not in next_links and n not in trained}
    clashes: dict[str, Problem] = {}
    while True:
        inner = Scope(scope.params, scope.broken_params, parent=scope, loop=key)
        inner.unread = frozenset(unread) | (scope.unread & {"params"})
        inner.item, inner.carry = (loop.item.text if loop.item else None), kinds
        if over is not None:
            inner.item_type = drop_axes(exact_item_type(over.type))
            inner.exact_item_type = exact_item_type(over.actual_type or over.type)
        problem_count = len(resolver.problems)
        body = resolver.resolve_block(loop.body, inner, body_block)
        nexts = _find_sources(resolver, next_links, inner, f"{loop.path}.next")
        joined = _join_carries(loop, kinds, nexts, clashes)
        if joined == kinds:
            # A carry whose types clash is Any in this pass; the next pass tests again whether they clash.
            resolver.carry_types[key] = {name: kind for name, kind in kinds.items() if name not in clashes}
            resolver.problems += clashes.values()
            return inner, body, nexts
        kinds = joined
        del resolver.problems[problem_count:]


def _join_carries(
    loop: ParsedLoop, kinds: Mapping[str, PortType], nexts: TypedByName, clashes: dict[str, Problem]
) -> dict[str, PortType]:
    """The carries' types, widened by the types of ``next``.

    A carry whose ``next`` is invalid becomes Any. Once the others are stable, so does a carry whose ``next`` does not
    fit, which is a clash.
    """
    wider = {n: f.type if f else ANY for n, f in nexts.items() if f is None or have_common_type(kinds[n], f.type)}
    joined = {n: join(kind, wider.get(n, kind)) for n, kind in kinds.items()}
    if joined == dict(kinds):
        for name, typed in nexts.items():
            link = loop.next[name][1]
            if name not in wider and typed and link is not None:
                message = f"the carry '{name}' starts as {kinds[name]}, '{link.text}' gives {typed.type}"
                clashes[name] = Problem(link.mark, "type-mismatch", message, f"{loop.path}.next.{name}")
                joined[name] = ANY
    return joined


def _find_sources(resolver: BlockResolver, group: NamedLinks, scope: Scope, path: str) -> TypedByName:
    return {
        n: resolver.find_source(link, scope, f"{path}.{n}") if link is not None else None
        for n, (_, link) in group.items()
    }


def _resolve_over(resolver: BlockResolver, loop: ParsedLoop, scope: Scope) -> TypedSource | None:
    path = f"{loop.path}.loop.over"
    typed = resolver.find_source(loop.over, scope, path) if loop.over is not None else None
    if typed is None or loop.over is None:
        return None
    is_allowed = may_iterate if typed.is_given else can_iterate
    if not is_allowed(typed.type):
        message = (
            f"a loop runs over a sequence, a tensor or a number of iterations, '{loop.over.text}' gives {typed.type}"
        )
        resolver.report(loop.over.mark, "type-mismatch", message, path)
        return None
    return typed if resolver.check_count(typed.source, loop.over, path) else None


def _check_names(resolver: BlockResolver, loop: ParsedLoop, scope: Scope) -> None:
    """Report carries, item names and collected names that hide each other."""
    for s in scope.chain():
        for name, (mark, _) in loop.carry.items():
            if s.loop and name in s.carry:
                path = f"{loop.path}.carry.{name}"
                resolver.report(mark, "shadowed-name", f"an enclosing loop carries '{name}' too; rename one", path)
        if s.loop and loop.item is not None and s.item == loop.item.text:
            message = f"an enclosing loop calls its item '{s.item}' too; rename one"
            resolver.report(loop.item.mark, "shadowed-name", message, f"{loop.path}.loop.as")
    for name, (mark, _) in loop.collect.items():
        if name in loop.carry:
            message = f"'{name}' is carried and collected; rename one"
            resolver.report(mark, "shadowed-name", message, f"{loop.path}.collect.{name}")


def _check_next_names(resolver: BlockResolver, loop: ParsedLoop) -> None:
    """Report carries without ``next``, unless trained, and ``next`` for anything that is not a carry."""
    trained = {*loop.updated}
    missing = [name for name in loop.carry if name not in loop.next and name not in trained]
    unknown = [name for name in (*loop.next, *trained) if name not in loop.carry]
    meant = {closest_match(name, missing) for name in unknown}
    if not loop.unread & {"next", "train"} and not len(missing) == len(unknown) == 1:
        for name in missing:
            if name not in meant:
                message = f"the carry '{name}' has no 'next', its value in the next iteration"
                resolver.report(loop.next_mark, "missing-next", message, f"{loop.path}.next")
    for name, (mark, _) in loop.next.items() if "carry" not in loop.unread else ():
        path = f"{loop.path}.next.{name}"
        if name not in loop.carry:
            resolver.report(
                mark, "unknown-carry", f"'{name}' is not carried; {suggest(name, loop.carry, 'carries')}", path
            )
        elif name in trained:
            resolver.report(mark, "unknown-carry", f"'{name}' is trained; it has no 'next'", path)


def item_type(over: PortType) -> PortType:
    """The type of an item of a loop over ``over``."""
    return drop_axes(exact_item_type(over))


def exact_item_type(over: PortType) -> PortType:
    """The exact type of an item of a loop over ``over``; for rows of a tensor, with their axes."""
    return union([_exact_item_type(a) for a in over.alternatives])


def _exact_item_type(over: Any) -> PortType:
    if isinstance(over, SequenceOf):
        return over.element
    if Tensor in over.__mro__:
        tensor: Any = over  # for a type checker, Tensor is torch's
        if tensor.axes is None:
            return PortType((Tensor,))
        return PortType((make_tensor_type(tensor.axes[1:] or tensor.axes, tensor.integer),))  # rows of a vector: (1)
    return PortType((int,)) if over is int else ANY


def drop_axes(kind: PortType) -> PortType:
    """The type with unnamed tensor types replaced by `Tensor`."""
    plain = [Tensor if isinstance(a, type) and "derived" in vars(a) else a for a in kind.alternatives]
    return PortType(tuple(dict.fromkeys(plain)), kind.optional)


def can_iterate(kind: PortType) -> bool:
    """Whether a loop can run over every value of a type: sequences, tensors or a number of iterations."""
    return bool(kind.alternatives) and not kind.optional and all(map(_can_iterate, kind.alternatives))


def may_iterate(kind: PortType) -> bool:
    """Whether a loop can run over some value of a type."""
    return any(map(_can_iterate, kind.alternatives))


def _can_iterate(kind: Any) -> bool:
    if isinstance(kind, SequenceOf) or kind in (object, int, list, tuple):
        return True
    if Tensor in kind.__mro__:
        return kind.axes is None or len(kind.axes) > 0
    if issubclass(kind, NEVER_ITERATED):
        return False
    return all(any(name in vars(cls) for cls in kind.__mro__) for name in ("__len__", "__getitem__"))


def collect_type(kind: PortType) -> PortType:
    """The exact type of collected values: tensors and structured values are stacked, others listed."""
    listed = PortType((SequenceOf(kind),))
    if not any(map(_is_stackable, kind.alternatives)):
        return listed
    if kind.optional or not all(map(_is_stackable, kind.alternatives)) or kind.is_any:
        return ANY
    if all(Tensor in a.__mro__ for a in kind.alternatives if isinstance(a, type)):
        tensors: tuple[Any, ...] = kind.alternatives
        stacks = [Tensor if a.axes is None else make_tensor_type(("R", *a.axes), a.integer) for a in tensors]
        return PortType(tuple(dict.fromkeys(stacks)))
    return kind if len(kind.alternatives) == 1 else ANY


def possible_collect_type(kind: PortType) -> PortType | None:
    """Every type that collected values may have: a stack, or a list if their shapes differ.

    None if ``kind`` says so already.
    """
    if kind.sequence is not None or kind.is_any:
        return None
    return PortType((*kind.alternatives, SequenceOf(kind)))


def _is_stackable(kind: type | SequenceOf) -> bool:
    """Whether values of a type are stacked, pytree leaf by leaf, if their shapes agree."""
    return isinstance(kind, type) and (kind is object or Tensor in kind.__mro__ or dataclasses.is_dataclass(kind))
