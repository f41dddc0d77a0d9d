"""Experiments: ``guidegraph sweep`` runs a workflow over a grid of parameters, ``guidegraph report`` shows results."""

from __future__ import annotations

from typing import Any

from guidegraph import hookimpl


@hookimpl
def guidegraph_commands(app: Any) -> None:
    from guidegraph.commands.shared.options import AcceleratedCommand
    from guidegraph.commands.shared.root import examples
    from guidegraph_lab.report.command import report
    from guidegraph_lab.sweep.command import sweep

    sweeps = examples(
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64",
        "sweep draw.yaml --grid steps=10,30 --from prompts.csv --set scale=3 --out runs/steps",
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64 --ray local --workers 4",
    )
    app.command(cls=AcceleratedCommand, epilog=sweeps)(sweep)
    reports = examples("report runs/20260131-120000-draw", "report runs/sweep --x steps --by sampler")
    app.command(epilog=reports)(report)
