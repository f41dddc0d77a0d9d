"""The errors of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.manager import PluginManager
from guidegraph.session import Session
from guidegraph_lab.sweep import run
from guidegraph_lab.sweep.grid import make_grid
from guidegraph_lab.sweep.grid_options import parse_grid
from plugins.lab.tests.sweep.test_sweep import DRAW
from tests.commands.command import TOYS


def test_a_table_that_cannot_be_written_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_write(*_: Any) -> None:
        raise PermissionError("the table is open in another program")

    def fail(*_: Any) -> None:
        raise ConnectionError("the cluster has gone")

    monkeypatch.setattr(run, "write_tables", fail_to_write)
    (tmp_path / "w.yaml").write_text(DRAW)
    manager = PluginManager((TOYS,), entry_points=False)
    graph = build(tmp_path / "w.yaml", manager.registry)
    seeds = parse_grid("seed=1,2", [])
    assert seeds is not None
    session = Session(graph, RunConfig(), manager.registry)
    sweep = run.Sweep(session, make_grid(graph, {}, [seeds], []), {}, PluginSelection((TOYS,), False), None)

    def run_with(finished: run.Report) -> None:
        run.run_sweep(sweep, tmp_path / "out", manager, CancelToken(), lambda *_: None, finished, print)

    with pytest.raises(ConnectionError):
        run_with(fail)
    with pytest.raises(PermissionError):
        run_with(lambda *_: None)
