"""All that the goldens need of guidegraph's inside, in one file: after a move of modules only these imports change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from guidegraph import Workflow
from guidegraph.graph.ir import Loop, Op, walk
from guidegraph.graph.planning import digest
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.sources import Param, Source
from guidegraph.graph.training.checkpoint import read_state, resume_key
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.types import structured_types
from guidegraph.graph.values.serialise import read_value
from guidegraph_runtime.running.single_file import inputs_of
from tests.paths import ROOT

__all__ = ["fix_sources", "inputs_of", "plan_digests", "read_state", "read_value", "structured_types"]

SPEC_DIGEST, PATH_DIGEST = "spec_digest", "path_digest"
"""Functions of ``digest``: the only one that hashes a node's sources and versions, and the one that hashes files."""


@contextmanager
def fix_sources() -> Iterator[None]:
    """Digests that depend on the graph, on settings and on shipped files alone.

    A node counts by its id, version and device, not by its sources and versions of packages. A file that is shipped
    counts by its content, any other by its name, whether it exists or not.
    """
    content = digest.path_digest

    def node_digest(spec: Any, device: str) -> str:
        return digest.digest_strings("node", spec.id, spec.version, device)

    def path_digest(path: Path) -> str:
        shipped = path.resolve().is_relative_to(ROOT / "workflows") and path.exists()
        return content(path) if shipped else digest.digest_strings("path", path.name)

    with patch.object(digest, SPEC_DIGEST, node_digest), patch.object(digest, PATH_DIGEST, path_digest):
        yield


class _OpenDigests(Digests):
    """Structural digests of a graph whose parameters have no values: each counts by its name."""

    def source(self, source: Source) -> str:
        return f"parameter {source.name}" if isinstance(source, Param) else super().source(source)


def plan_digests(workflow: Workflow) -> dict[str, Any]:
    """The digests of all steps of a workflow, by key; call it with ``fix_sources``.

    structural: of the validated graph. Where every required parameter is a path, which then is ``golden.bin``, also:
    cached: of the plan, as a cache has them, with ``!`` for a digest that is new in each run; order: the steps after
    all passes, each followed by those of its body; resume: the keys of training checkpoints.
    """
    graph = workflow.graph
    structural = _OpenDigests("cpu float32", structural=True)
    structural.add(graph.ops)
    digests: dict[str, Any] = {"structural": _shorten(structural)}
    required = {name: str(parameter.port.type) for name, parameter in graph.params.items() if parameter.required}
    if set(required.values()) <= {"Path"}:
        plan = workflow.plan(dict.fromkeys(required, "golden.bin"))
        digests["cached"] = _shorten(plan.digests)
        digests["order"] = list(_keys(plan.ops))
        fits = [op for op in walk(plan.bound) if isinstance(op, Fit)]
        digests["resume"] = _shorten({op.key: resume_key(plan, op) for op in fits})
    return digests


def _shorten(digests: Mapping[str, str]) -> dict[str, str]:
    """The first 16 digits of each digest."""
    return {key: "!" if value.startswith(digest.FRESH) else value[:16] for key, value in digests.items()}


def _keys(ops: Mapping[str, Op]) -> Iterator[str]:
    for key, op in ops.items():
        yield key
        if isinstance(op, Loop):
            yield from _keys(op.body)
