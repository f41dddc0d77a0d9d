"""Cells by content: a cell's key is the digest of all that its outputs depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.frozen_models import copy_frozen
from guidegraph.graph.ir import Call, Graph
from guidegraph.graph.planning.digest import Digests, digest_pairs, digest_strings
from guidegraph.graph.planning.passes import bind_params, make_choices
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal, Many, Param, Sources
from guidegraph.runs.recipe import portable_value


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. ``swept`` are the parameters that the sweep varies, ``values`` all of them."""

    key: str
    swept: Mapping[str, Any]
    values: dict[str, Any]


def cell_key(graph: Graph, run_values: Mapping[str, Any], config: RunConfig) -> str:
    """The digest of a run before it starts: the same for the same outputs, on any machine.

    It covers the parameters, device and dtype, and each operation with the versions and sources of its node, and the
    contents of the files that its settings name. An impure node counts by its settings; anything
    that it reads on its own is ignored. A path that a node writes counts by its name, as do all paths of a node that
    only has an effect.
    """
    only = config.only
    values = {name: Literal(copy_frozen(value)) for name, value in run_values.items()}
    names = list(graph.outputs if only is None else only)
    bound = {key: bind_params(op, values) for key, op in graph.ops.items()}
    resolved_ops = make_choices(bound, [graph.outputs[name].source for name in names])
    ops = resolved_ops.ops
    digests = Digests(config.device_key, structural=True)
    digests.add(ops)
    sources = {name: resolved_ops.source(graph.outputs[name].source) for name in names}
    needed = find_dependencies(ops, sources.values())
    parts = [("only", json.dumps(only if only is None else names)), ("passes", json.dumps(sorted(config.passes)))]
    for name, source in sources.items():
        parts.append((f"output {name}", digests.source(values[source.name] if isinstance(source, Param) else source)))
    for key, op in ops.items():
        if only is None and key not in needed and not op.is_pure:
            effect = digests[key] if op.has_blocks else _effect_digest(op, digests)
            parts.append((f"effect {key}", effect))
    parts += [(f"param {name}", json.dumps(portable_value(value))) for name, value in sorted(run_values.items())]
    return digest_pairs(parts)


def _effect_digest(call: Call, digests: Digests) -> str:
    def digest(sources: Sources) -> str:
        if isinstance(sources, Many):
            return digest_strings("list", *map(digest, sources.sources))
        return json.dumps(portable_value(sources.value)) if isinstance(sources, Literal) else digests.source(sources)

    arguments = [(name, digest(sources)) for name, sources in call.arguments()]
    return digest_pairs([("node", f"{call.spec.id} {call.spec.version}"), *arguments])
