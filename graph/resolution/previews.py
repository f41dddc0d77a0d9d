"""Resolution of previews: nodes or workflows that a training loop runs regularly on its current models."""

from __future__ import annotations

from dataclasses import replace

from guidegraph.graph.errors import suggest
from guidegraph.graph.ir import GraphOutput
from guidegraph.graph.language.syntax import ParsedLoop, ParsedPreview
from guidegraph.graph.language.yaml_tree import Scalar
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.scope import Scope
from guidegraph.graph.sources import Source
from guidegraph.graph.training.fit import Preview
from guidegraph.graph.training.options import PREVIEW_EVERY


def resolve_preview(
    resolver: BlockResolver, loop: ParsedLoop, inner: Scope, key: str, block: BlockContext
) -> Preview | None:
    """Resolve a loop's preview; None if there is none or it is invalid.

    It may link to the loop's carries and index, to parameters and to nodes outside, but not to values of one iteration.
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
                f"a preview is not part of an iteration and cannot read '{link.text:.60}'; "
                f"{suggest(link.text[:60], [*(f'carry.{name}' for name in inner.carry), 'loop.index'], 'links')}"
            )
            resolver.report(link.mark, "unknown-link", message, node.path)
            return None
    every = _resolve_every(resolver, loop.preview, scope, block)
    ops, entry = resolver.resolve_operation(
        node, scope, f"{key}.preview", replace(block, loop_depth=block.loop_depth + 1)
    )
    if entry.broken or every is None:
        return None
    outputs = {name: GraphOutput(output.source, output.type, node.mark) for name, output in entry.outputs.items()}
    return Preview(every, ops, outputs)


def _resolve_every(resolver: BlockResolver, preview: ParsedPreview, scope: Scope, block: BlockContext) -> Source | None:
    """The number of steps between previews: a literal or a parameter."""
    tree, path = preview.every, f"{preview.node.path}.every"
    if isinstance(tree, Scalar) and tree.plain and tree.text.startswith("params."):
        typed = resolver.find_source(tree, scope, path)
        connected = resolver.connect_source(typed, PREVIEW_EVERY, tree, scope, path) if typed else None
        return connected[0] if connected else None
    return resolver.resolve_literal(PREVIEW_EVERY, tree, block.base, scope, path)
