"""The logs and bars of a run."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from guidegraph.graph import events
from guidegraph.plugins.manager import GuardedObserver
from guidegraph.runs.observers import Bars, JsonLog, PlainLog, encode_event

RUN: list[events.Event] = [
    events.RunStarted("draw", 2),
    events.NodeStarted("nodes.noise", "noise.gaussian"),
    events.NodeFinished("nodes.noise", "noise.gaussian", 0.5, "computed", "d1"),
    events.NodeStarted("nodes.fit", "loop"),
    events.LoopProgress("nodes.fit.body.inner", 2, 2, {}),
    events.LoopProgress("nodes.fit", 1, 2, {"g": 0.25}),
    events.LoopProgress("nodes.fit", 2, 2, {"g": float("nan")}),
    events.NodeFinished("nodes.fit", "loop", 1.5, "disk", "d2"),
    events.OutputReady("image"),
    events.RunFinished("done", 2.0),
]


def test_json_log_has_one_object_per_line() -> None:
    lines: list[str] = []
    log = JsonLog(lines.append, lambda name: [f"{name}.png"])
    for event in RUN:
        log(event)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["event"] for row in rows] == [
        "run_started",
        "node_started",
        "node_finished",
        "node_started",
        "loop_progress",
        "loop_progress",
        "loop_progress",
        "node_finished",
        "output_ready",
        "run_finished",
    ]
    finished = {"path": "nodes.noise", "node": "noise.gaussian", "seconds": 0.5, "origin": "computed", "digest": "d1"}
    assert rows[2] == {"event": "node_finished", **finished}
    assert rows[5]["values"] == {"g": 0.25}
    assert rows[6]["values"] == {"g": "nan"}
    assert rows[8]["files"] == ["image.png"]


def test_every_kind_of_event_has_a_name() -> None:
    assert encode_event(events.NodeFailed("nodes.a", "toy.a", "why")) == {
        "event": "node_failed",
        "path": "nodes.a",
        "node": "toy.a",
        "error": "why",
    }


def test_plain_log_names_nodes_and_the_sources_of_values() -> None:
    lines: list[str] = []
    log = PlainLog(lines.append, every=0)
    for event in RUN:
        log(event)
    assert "nodes.noise (noise.gaussian): 0.50 s" in lines
    assert "nodes.fit: 1/2  g=0.25" in lines
    assert "nodes.fit (loop): from the disk cache" in lines


MOVE = events.ModelMoved("nodes.model", "text", "ReleasedText", "cuda", 246_000_000, 0.125)


def test_the_logs_show_model_moves() -> None:
    lines: list[str] = []
    JsonLog(lines.append, lambda name: [])(MOVE)
    assert json.loads(lines[0]) == {
        "event": "model_moved",
        "path": "nodes.model",
        "output": "text",
        "model": "ReleasedText",
        "device": "cuda",
        "bytes": 246_000_000,
        "seconds": 0.125,
    }
    PlainLog(lines.append)(MOVE)
    assert lines[1] == "nodes.model.text (ReleasedText): 246 MB to cuda, 0.12 s"


@pytest.mark.parametrize(
    ("requested", "line"),
    [
        ("auto", "nodes.fit: training in bf16 (auto), from step 20"),
        ("bf16", "nodes.fit: training in bf16, from step 20"),
    ],
)
def test_the_logs_show_the_precision_of_a_training(requested: str, line: str) -> None:
    event = events.TrainingStarted("nodes.fit", "bf16", requested, 20)
    lines: list[str] = []
    PlainLog(lines.append, nodes=False)(event)
    assert lines == [line]
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=120)) as bars:
        bars(event)
    assert line in screen.getvalue()


def test_plain_log_limits_lines_per_loop() -> None:
    lines: list[str] = []
    log = PlainLog(lines.append, every=1000)
    for i in range(100):
        log(events.LoopProgress("nodes.fit", i, 100, {}))
    assert lines == []


def test_bars_show_nodes_loops_and_losses() -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=120)) as bars:
        for event in RUN[:6]:
            bars(event)
        bars._progress.refresh()
        screen_text = screen.getvalue()
        for event in RUN[6:]:
            bars(event)
        assert len(bars._progress.tasks) == 1
    for text in ("draw", "1/2", "  fit", "    inner", "2/2", "g=0.25"):
        assert text in screen_text


def test_a_failing_observer_is_left_out() -> None:
    seen: list[events.Event] = []
    warnings: list[str] = []

    def observer(event: events.Event) -> None:
        seen.append(event)
        raise KeyError("lost")

    guarded = GuardedObserver(observer, warnings.append)
    for event in RUN:
        guarded(event)
    assert len(seen) == 1
    assert len(warnings) == 1
    assert "KeyError" in warnings[0]
