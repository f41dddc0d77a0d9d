"""A worker process makes the cells of a sweep from an order that is sent to it, and its errors become outcomes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.recipe import portable_params
from guidegraph.runs.run import collect_versions
from guidegraph.session import Session
from guidegraph_lab.sweep import ray_worker
from guidegraph_lab.sweep.cells import Cell, cell_key
from guidegraph_lab.sweep.worker import Outcome, Worker
from plugins.lab.tests.sweep.test_sweep import DRAW
from tests.commands.command import TOYS


class Unpicklable(Exception):
    """It holds a function, which cannot be pickled, and has no text."""

    def __init__(self) -> None:
        self.function = lambda: None

    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_cannot_be_pickled_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(order: ray_worker.SweepOrder) -> None:
        raise Unpicklable

    monkeypatch.setattr(ray_worker, "_Process", fail)
    order = ray_worker.SweepOrder(Path("w.yaml"), {}, RunConfig(), PluginSelection(), {}, None)
    result = ray_worker.run_cell(order, "key", {})
    assert result.outcome.status == "failed"
    assert result.outcome.message.startswith("on this worker: Unpicklable: (its text cannot be shown")
    assert result.files == {}


def test_an_order_that_was_sent_gives_the_files_of_a_local_run(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(DRAW)
    manager = PluginManager((TOYS,), entry_points=False)
    graph = build(tmp_path / "w.yaml", manager.registry)
    config = RunConfig(dtype="float64", only=["image"])
    values = bind(graph, {"seed": 3})
    key = cell_key(graph, values, config)
    (tmp_path / "local").mkdir()
    worker = Worker(Session(graph, config, manager.registry), manager, print)
    assert worker.run(Cell(key, {}, values), CancelToken(), tmp_path / "local").status == "done"

    selection = PluginSelection((TOYS,), installed=False)
    versions = collect_versions(manager.registry)
    order = ray_worker.SweepOrder(graph.file, dict(graph.sources), config, selection, versions, 1)
    (tmp_path / "w.yaml").unlink()
    result = ray_worker.run_cell(pickle.loads(pickle.dumps(order)), key, portable_params(values))
    assert result.outcome.status == "done", result.outcome.message
    (tmp_path / "sent").mkdir()
    assert pickle.loads(pickle.dumps(result)).write(tmp_path / "sent") == result.outcome
    assert (tmp_path / "sent" / "image.png").read_bytes() == (tmp_path / "local" / "image.png").read_bytes()
    record = json.loads((tmp_path / "sent" / "run.json").read_text())
    assert (record["dtype"], record["only"]) == ("float64", ["image"])


def test_the_files_of_a_cell_are_on_the_disk_before_it_counts_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[Path, bytes]] = []
    monkeypatch.setattr(ray_worker, "write_bytes", lambda *arguments: written.append(arguments))
    ray_worker.CellResult(Outcome("done", 1.0), {"sub/a.png": b"a", "run.json": b"{}"}).write(tmp_path)
    assert written == [(tmp_path / "sub/a.png", b"a"), (tmp_path / "run.json", b"{}")]
    assert [*tmp_path.iterdir()] == []


def test_a_worker_with_other_settings_refuses_the_cell(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(DRAW)
    order = ray_worker.SweepOrder(
        tmp_path / "w.yaml", {str(tmp_path / "w.yaml"): DRAW}, RunConfig(), PluginSelection((TOYS,), False), {}, 1
    )
    result = ray_worker.run_cell(order, "another key", {"seed": 3})
    assert result.outcome.status == "failed"
    assert result.outcome.message.startswith("this worker's machine is not like the one that the sweep was started on")
