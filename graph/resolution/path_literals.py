"""Constants of used workflows that name files for a port which they feed in a roundabout way."""

from __future__ import annotations

from collections.abc import Mapping

from guidegraph.graph.ir import Op
from guidegraph.graph.language.path_values import Uses, convert_texts, names_paths
from guidegraph.graph.planning.passes import rewrite_sources
from guidegraph.graph.resolution.ports import PortResolver
from guidegraph.graph.sources import Literal, Source


def convert_path_literals(ops: Mapping[str, Op], uses: Uses, resolver: PortResolver) -> dict[str, Op]:
    """The operations with paths for the texts of constants that feed paths behind a choice, a loop's item or a carry.

    Relative paths are relative to the file that has the constant. A text that is not a path is reported.
    """
    converted: dict[Source, Source] = {}
    for source, ports in uses.items():
        naming = [use.kind for use in ports if names_paths(use.kind)]
        if not naming or not isinstance(source, Literal) or source not in resolver.origins:
            continue
        origin = resolver.origins[source]
        if resolver.types is not None:
            resolver.types.ports[origin.mark] = naming[0]
        try:
            converted[source] = Literal(convert_texts(source.value, naming, origin.base))
        except ValueError as error:
            resolver.report(origin.mark, "bad-value", f"it is a path for {ports[0].location}: {error}", origin.path)
    if not converted:
        return dict(ops)
    return {key: rewrite_sources(op, lambda source: converted.get(source, source)) for key, op in ops.items()}
