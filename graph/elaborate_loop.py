"""A loop: its carries' types are the joins of start and ``next``, found by elaborating the body until they stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guidegraph.graph.elaborate_preview import elaborate_preview
from guidegraph.graph.errors import Mark, Problem, choices, closest
from guidegraph.graph.ir import Carry, Literal, Loop, Op, Optimised, Output, Param, Source, Training
from guidegraph.graph.link_rule import have_common, join, linkable
from guidegraph.graph.loop_types import collected, entry_of, iterable, may_iterate, unstacked, without_axes
from guidegraph.graph.parse import MAX_NESTING
from guidegraph.graph.parsed import NamedLinks, ParsedLoop
from guidegraph.graph.scope import INT, Entry, Scope, Typed
from guidegraph.graph.training_options import (
    CHECKPOINT,
    iterations,
    linkable_options,
    optimiser_options,
    training_options,
)
from guidegraph.graph.types import ANY, PortType, Tensor
from guidegraph.graph.yamltree import Scalar, short

if TYPE_CHECKING:
    from guidegraph.graph.elaborate import Elaborator, Place

Found = dict[str, Typed | None]


def elaborate_loop(
    e: Elaborator, loop: ParsedLoop, scope: Scope, key: str, place: Place
) -> tuple[dict[str, Op], Entry]:
    """The loop as one operation; its outputs are the carries and what it collects."""
    if place.loops >= MAX_NESTING:
        e.add(
            loop.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep, those of used workflows included", loop.path
        )
        return {}, Entry(broken=True)
    over = _over(e, loop, scope)
    _names(e, loop, scope)
    _next_names(e, loop)
    starts = _links(e, loop.carry, scope, f"{loop.path}.carry")
    inner, body, nexts = _settled(e, loop, scope, key, place, starts, over)
    readable = {"body", "next"} - loop.unread
    collects = _links(e, loop.collect, inner, f"{loop.path}.collect") if "body" in readable else {}
    training = _training(e, loop, scope, inner, place) if loop.train else None
    if training is not None:
        training = replace(training, preview=elaborate_preview(e, loop, inner, key, place))
    kinds = {name: collected(found.type) if found else ANY for name, found in collects.items()}
    known = {name: collected(found.given or found.type) if found else ANY for name, found in collects.items()}
    outputs = {**inner.carry, **{name: without_axes(kind) for name, kind in kinds.items()}}
    partial = bool(loop.unread & {"carry", "collect", "body"})
    typed = {name: Typed(Output(key, name), kind) for name, kind in inner.carry.items()}
    typed |= {n: Typed(Output(key, n), outputs[n], known[n], unstacked(kind)) for n, kind in kinds.items()}
    entry = Entry(typed, partial=partial)
    wrong = loop.unread or loop.item is None or None in (*starts.values(), *nexts.values(), *collects.values())
    if over is None or wrong:
        return {}, entry
    sources = [{n: f[0] for n, f in group.items() if f} for group in (starts, nexts, collects)]
    start, after, collect = sources
    item = loop.item.text if loop.item else ""
    op = Loop(key, over.source, item, start, body, after, collect, outputs, loop.mark, training)
    return {key: op}, entry


def _settled(
    e: Elaborator, loop: ParsedLoop, scope: Scope, key: str, place: Place, starts: Found, over: Typed | None
) -> tuple[Scope, dict[str, Op], Found]:
    """The body, elaborated with carries of types that hold what ``next`` gives."""
    known = e.carried.get(key, {})  # of an earlier pass over a loop around this one: types only ever widen
    first = {n: f.widest if f else ANY for n, f in starts.items()}
    kinds = {n: join(kind, known.get(n, kind)) for n, kind in first.items()}
    inside = replace(place, prefix=f"{key}.body.", loops=place.loops + 1)
    unread = (loop.unread & {"carry"}) | ({"nodes"} if "body" in loop.unread else set())
    trained = {entry.model.text for entry in loop.train}
    wanted = {n: entry for n, entry in loop.next.items() if n in loop.carry and n not in trained}
    kinds |= {n: ANY for n in loop.carry if n not in wanted and n not in trained}
    clashes: dict[str, Problem] = {}
    while True:
        inner = Scope(scope.params, scope.broken_params, parent=scope, loop=key)
        inner.unread = frozenset(unread) | (scope.unread & {"params"})
        inner.item, inner.carry = (loop.item.text if loop.item else None), kinds
        if over is not None:
            inner.item_type = without_axes(entry_of(over.type))
            inner.item_known = entry_of(over.given or over.type)
        noted = len(e.problems)
        body = e.region(loop.body, inner, inside)
        nexts = _links(e, wanted, inner, f"{loop.path}.next")
        joined = _joined(loop, kinds, nexts, clashes)
        if joined == kinds:
            # What clashes may be anything in this pass; whether it does is found again in the next one.
            e.carried[key] = {name: kind for name, kind in kinds.items() if name not in clashes}
            e.problems += clashes.values()
            return inner, body, nexts
        kinds = joined
        del e.problems[noted:]


def _joined(
    loop: ParsedLoop, kinds: Mapping[str, PortType], nexts: Found, clashes: dict[str, Problem]
) -> dict[str, PortType]:
    """The carries' types widened by what ``next`` gives.

    A carry whose ``next`` is wrong may be anything. Once the others stay, so may one whose ``next`` never fits.
    """
    widen = {n: f[1] if f else ANY for n, f in nexts.items() if f is None or have_common(kinds[n], f[1])}
    joined = {n: join(kind, widen.get(n, kind)) for n, kind in kinds.items()}
    if joined == dict(kinds):
        for name, found in nexts.items():
            link = loop.next[name][1]
            if name not in widen and found and link is not None:
                message = f"the carry '{name}' starts as {kinds[name]}, '{link.text}' gives {found[1]}"
                clashes[name] = Problem(link.mark, "type-mismatch", message, f"{loop.path}.next.{name}")
                joined[name] = ANY
    return joined


def _links(e: Elaborator, group: NamedLinks, scope: Scope, where: str) -> Found:
    return {n: e.link(link, scope, f"{where}.{n}") if link is not None else None for n, (_, link) in group.items()}


def _over(e: Elaborator, loop: ParsedLoop, scope: Scope) -> Typed | None:
    where = f"{loop.path}.loop.over"
    found = e.link(loop.over, scope, where) if loop.over is not None else None
    runs = may_iterate if found and isinstance(found.source, Param) else iterable
    if found and loop.over is not None and not runs(found.type):
        message = f"a loop runs over a sequence, a tensor or a number of times, '{loop.over.text}' gives {found.type}"
        e.add(loop.over.mark, "type-mismatch", message, where)
        return None
    return found


def _names(e: Elaborator, loop: ParsedLoop, scope: Scope) -> None:
    """Carries, the entry's name and collected names must not hide each other."""
    for s in scope.chain():
        for name, (mark, _) in loop.carry.items():
            if s.loop and name in s.carry:
                where = f"{loop.path}.carry.{name}"
                e.add(mark, "shadowed-name", f"an enclosing loop carries '{name}' too; rename one", where)
        if s.loop and loop.item is not None and s.item == loop.item.text:
            message = f"an enclosing loop calls its entry '{s.item}' too; rename one"
            e.add(loop.item.mark, "shadowed-name", message, f"{loop.path}.loop.as")
    for name, (mark, _) in loop.collect.items():
        if name in loop.carry:
            message = f"'{name}' is carried and collected; rename one"
            e.add(mark, "shadowed-name", message, f"{loop.path}.collect.{name}")


def _next_names(e: Elaborator, loop: ParsedLoop) -> None:
    """Every carry has a ``next``, but for trained ones; nothing else has."""
    trained = {entry.model.text for entry in loop.train}
    missing = [name for name in loop.carry if name not in loop.next and name not in trained]
    unknown = [name for name in (*loop.next, *trained) if name not in loop.carry]
    meant = {closest(name, missing) for name in unknown}
    if not loop.unread & {"next", "train"} and not len(missing) == len(unknown) == 1:
        for name in missing:
            if name not in meant:
                message = f"the carry '{name}' has no 'next': what it is in the next iteration"
                e.add(loop.next_mark, "missing-next", message, f"{loop.path}.next")
    for name, (mark, _) in loop.next.items() if "carry" not in loop.unread else ():
        where = f"{loop.path}.next.{name}"
        if name not in loop.carry:
            e.add(mark, "unknown-carry", f"'{name}' is not carried; {choices(name, loop.carry, 'carries')}", where)
        elif name in trained:
            e.add(mark, "unknown-carry", f"'{name}' is trained; it has no 'next'", where)


def _training(e: Elaborator, loop: ParsedLoop, scope: Scope, inner: Scope, place: Place) -> Training:
    models: list[Optimised] = []
    seen: set[str] = set()
    for i, entry in enumerate(loop.train):
        where, name = f"{loop.path}.train.{i}", entry.model.text
        if name not in loop.carry and "carry" not in loop.unread:
            message = f"'{name:.60}' is not carried; {choices(name[:60], loop.carry, 'carries')}"
            e.add(entry.model.mark, "unknown-carry", message, f"{where}.model")
        if name in seen:
            e.add(entry.model.mark, "given-twice", f"'{name}' is trained twice; keep one entry", f"{where}.model")
        seen.add(name)
        found = e.link(entry.loss, inner, f"{where}.loss")
        if found and not linkable(found[1], PortType((Tensor,))):
            message = f"a loss is a tensor, '{entry.loss.text}' gives {found[1]}"
            e.add(entry.loss.mark, "type-mismatch", message, f"{where}.loss")
        links = {option: given for option, given in entry.options.items() if _is_link(given[2])}
        for option in links:
            del entry.options[option]
        loss: Source = found[0] if found else Carry("", name)
        fixed = optimiser_options(entry, loss, where, e.add)
        models.append(replace(fixed, linked=_linked(e, fixed, links, scope, where)))
    steps, checkpoint = _steps(e, loop, scope), _checkpoint(e, loop, scope, place)
    return training_options(loop, tuple(models), steps, checkpoint, e.add)


def _is_link(value: object) -> bool:
    return isinstance(value, str) and value.startswith("params.")


def _linked(
    e: Elaborator, model: Optimised, links: Mapping[str, tuple[Mark, Mark, Any]], scope: Scope, where: str
) -> dict[str, Source]:
    """The options of a trained model that are parameters."""
    ports, found = linkable_options(model.optimizer), {}
    for option, (key, mark, text) in links.items():
        here = f"{where}.{short(option)}"
        if option not in ports:
            message = f"'{short(option)}' takes no link, found '{text:.60}'; {choices(option[:60], ports, 'links')}"
            e.add(key, "bad-value", message, here)
            continue
        tree = Scalar(text, True, mark)
        typed = e.link(tree, scope, here)
        fitting = e.fitting(typed, ports[option], tree, scope, here) if typed else None
        if fitting:
            found[option] = fitting[0]
    return found


def _steps(e: Elaborator, loop: ParsedLoop, scope: Scope) -> Source | None:
    """How many steps a training loop takes: a number, or a link to one; None for one pass over its entries."""
    if loop.steps is None:
        return None
    where = f"{loop.path}.steps"
    if not isinstance(loop.steps.value, str) and scope.entry(loop.steps.text) is None:
        return Literal(iterations(loop.steps, where, e.add))
    found = e.link(loop.steps, scope, where)
    if found and not linkable(found[1], INT):
        message = f"'{loop.steps.text}' gives {found[1]}, 'steps' takes int"
        e.add(loop.steps.mark, "type-mismatch", message, where)
    return found[0] if found else None


def _checkpoint(e: Elaborator, loop: ParsedLoop, scope: Scope, place: Place) -> Source | None:
    """Where a training loop is saved: a path, or a link to a parameter that is one."""
    tree = loop.checkpoint["path"][1] if "path" in loop.checkpoint else None
    where = f"{loop.path}.checkpoint.path"
    if isinstance(tree, Scalar) and tree.plain and tree.text.startswith("params."):
        found = e.link(tree, scope, where)
        fitting = e.fitting(found, CHECKPOINT, tree, scope, where) if found else None
        return fitting[0] if fitting else None
    return e.literal(CHECKPOINT, tree, place.base, scope, where)
