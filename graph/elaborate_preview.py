"""The preview of a training loop: a node or a workflow that is run now and then with what has been trained so far."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guidegraph.graph.errors import choices
from guidegraph.graph.ir import GraphOutput, Preview, Source
from guidegraph.graph.parsed import ParsedLoop, ParsedPreview
from guidegraph.graph.scope import Scope
from guidegraph.graph.training_options import PREVIEW_EVERY
from guidegraph.graph.yamltree import Scalar

if TYPE_CHECKING:
    from guidegraph.graph.elaborate import Elaborator, Place


def elaborate_preview(e: Elaborator, loop: ParsedLoop, inner: Scope, key: str, place: Place) -> Preview | None:
    """The preview as operations of its own, or None where there is none or it is wrong.

    It may link to the loop's carries, its index, parameters and nodes outside, but to nothing of an iteration.
    """
    if loop.preview is None:
        return None
    assert inner.parent is not None
    scope = Scope(inner.params, inner.broken_params, parent=inner.parent, loop=key)
    scope.unread, scope.carry = inner.unread, inner.carry
    node = loop.preview.node
    for link in node.links():
        head = link.text.partition(".")[0]
        if head in inner.names or (inner.item and link.text.startswith(f"loop.{inner.item}")):
            message = (
                f"a preview is no part of an iteration and cannot read '{link.text:.60}'; "
                f"{choices(link.text[:60], [*(f'carry.{name}' for name in inner.carry), 'loop.index'], 'links')}"
            )
            e.add(link.mark, "unknown-link", message, node.path)
            return None
    every = _every(e, loop.preview, scope, place)
    ops, entry = e.operation(node, scope, f"{key}.preview", replace(place, loops=place.loops + 1))
    if entry.broken or every is None:
        return None
    outputs = {name: GraphOutput(found.source, found.type, node.mark) for name, found in entry.outputs.items()}
    return Preview(every, ops, outputs)


def _every(e: Elaborator, preview: ParsedPreview, scope: Scope, place: Place) -> Source | None:
    """After how many steps a preview is run: a number, or a parameter."""
    tree, where = preview.every, f"{preview.node.path}.every"
    if isinstance(tree, Scalar) and tree.plain and tree.text.startswith("params."):
        found = e.link(tree, scope, where)
        fitting = e.fitting(found, PREVIEW_EVERY, tree, scope, where) if found else None
        return fitting[0] if fitting else None
    return e.literal(PREVIEW_EVERY, tree, place.base, scope, where)
