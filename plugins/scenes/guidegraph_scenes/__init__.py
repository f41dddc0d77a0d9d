"""Data sets of scenes with captions, maps and boxes; SceneEval, and nodes of the detector that judges pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import hookimpl
from guidegraph.plugins.builtin import read_nodes

MODULES = (
    "datasets",
    "detector",
    "latents",
    "scene_eval",
    "scene_eval_everyday",
    "scenes128.dataset",
    "scenes128.layout_sample",
)
"""The modules with nodes."""


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return read_nodes(f"{__name__}.{module}" for module in MODULES)
