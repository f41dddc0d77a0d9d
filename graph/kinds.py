"""The kinds of block that a workflow may hold beside plain nodes: how each is written, resolved and run.

A kind has functions of its own for each stage. They are named here, and imported by the first workflow that needs them,
so that a run without a training imports nothing of trainings. A new kind is one entry of ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of block. The functions are given as MODULE:NAME.

    name: the ``kind`` of its parsed form and of its operation. keys: its own keys; a node that has one is of this kind.
    is_loop: it is a loop with further keys, so a node also has to be a loop.
    read: (reader, key, entries, path, depth) to its parsed form, or None if it cannot be read, which is reported.
    resolve: (resolver, parsed, scope, key, block) to its operations, and its outputs for links.
    run: (step, outside, context, plan) to its outputs by name; None if its operation is a call.
    export_problem: why a bundle cannot hold one, and what to do instead; None if it can.
    """

    name: str
    keys: tuple[str, ...]
    is_loop: bool
    read: str
    resolve: str
    run: str | None
    export_problem: tuple[str, str] | None


KINDS = [
    Kind(
        "choice",
        ("choose",),
        is_loop=False,
        read="guidegraph.graph.language.parse:read_choice",
        resolve="guidegraph.graph.resolution.choices:resolve_choice",
        run=None,
        export_problem=None,
    ),
    Kind(
        "training",
        ("train", "steps", "precision", "checkpoint", "seed", "preview"),
        is_loop=True,
        read="guidegraph.graph.language.parse:read_training",
        resolve="guidegraph.graph.resolution.training_options:resolve_training_loop",
        run="guidegraph.graph.training.run_training:run_training",
        export_problem=("trains, and a bundle does not", "export a workflow that loads what it trained"),
    ),
    Kind(
        "loop",
        ("loop", "carry", "body", "next", "collect"),
        is_loop=True,
        read="guidegraph.graph.language.parse:read_loop",
        resolve="guidegraph.graph.resolution.loops:resolve_loop",
        run="guidegraph.graph.execution.loop:iterate",
        export_problem=None,
    ),
]
"""All kinds. A node is of the first that fits, so the plain loop comes last."""


def match_kind(keys: Collection[str]) -> Kind | None:
    """The kind of a node with these keys; None for a plain node."""
    is_loop = "loop" in keys or ("use" not in keys and ("carry" in keys or "body" in keys))
    return next((kind for kind in KINDS if (is_loop or not kind.is_loop) and not {*kind.keys}.isdisjoint(keys)), None)


def list_loop_keys() -> tuple[str, ...]:
    """The keys of all kinds of loop, those of the plain one first."""
    return tuple(key for kind in reversed(KINDS) if kind.is_loop for key in kind.keys)


def find_kind(name: str) -> Kind:
    """The kind with this name. Raises ``LookupError`` if there is none."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise LookupError(f"no kind of block '{name}'; known: {', '.join(kind.name for kind in KINDS)}")


@cache
def load_function(name: str) -> Any:
    """The function that MODULE:NAME names."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
