"""Experiments: ``guidegraph sweep`` runs a workflow over a grid of parameters, ``guidegraph report`` shows results."""

from __future__ import annotations

from typing import Any

from guidegraph import hookimpl


@hookimpl
def guidegraph_commands(app: Any) -> None:
    from guidegraph_lab.report.command import add_report
    from guidegraph_lab.sweep.command import add_sweep

    add_sweep(app)
    add_report(app)
