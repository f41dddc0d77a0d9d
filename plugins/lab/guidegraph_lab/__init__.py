"""Experiments: nodes of data folders, metrics, tables and plots; ``guidegraph sweep`` and ``guidegraph report``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import hookimpl
from guidegraph.plugins.builtin import read_nodes

MODULES = (
    "augmentations",
    "folders.folder",
    "metrics.coding_rate_distortion",
    "metrics.features",
    "metrics.fidelity",
    "metrics.frechet",
    "metrics.kid",
    "metrics.metrics",
    "metrics.plot",
    "metrics.similarity",
    "metrics.spectrum",
    "metrics.table",
    "metrics.throughput",
)
"""The modules with nodes."""


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return read_nodes(f"{__name__}.{module}" for module in MODULES)


@hookimpl
def guidegraph_types() -> list[type]:
    from guidegraph_lab.metrics.frechet import Moments

    return [Moments]


@hookimpl
def guidegraph_commands(app: Any) -> None:
    from guidegraph_lab.report.command import add_report
    from guidegraph_lab.sweep.command import add_sweep

    add_sweep(app)
    add_report(app)
