"""The news of the runs: a page is told each change once, the newest of a fast run, and the last state of every run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guidegraph.graph import events
from plugins.page.tests.conftest import Site
from tests.fake_clock import replace_clock

STEPS = 500
STEP = 0.02
"""Seconds of a step by the fake clock."""


def merge(texts: list[str]) -> dict[int, dict[str, Any]]:
    """The jobs as a page knows them after all news."""
    jobs: dict[int, dict[str, Any]] = {}
    for row in [row for text in texts for row in json.loads(text)]:
        nodes = jobs.get(row["number"], {}).get("nodes", {})
        jobs[row["number"]] = {**row, "nodes": {**nodes, **row["nodes"]}}
    return jobs


def test_a_fast_run_is_told_a_few_times_a_second_with_its_last_state(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidegraph_page.jobs import JobProgress
    from guidegraph_page.server import PROGRESS_PERIOD, JobNews

    texts: list[str] = []
    now, news = 0.0, JobNews(site.page.jobs)
    record = JobProgress.__call__

    def record_and_read(progress: JobProgress, event: events.Event) -> None:
        nonlocal now
        record(progress, event)
        if isinstance(event, events.LoopProgress):
            now += STEP
            texts.append(news.read())

    replace_clock(monkeypatch, lambda: now, "guidegraph_page.server")
    monkeypatch.setattr(JobProgress, "__call__", record_and_read)
    site.run_to_end(count=str(STEPS))
    running = [text for text in texts if text]
    assert len(texts) == STEPS
    assert STEPS * STEP / PROGRESS_PERIOD * 0.9 < len(running) <= STEPS * STEP / PROGRESS_PERIOD + 1
    assert sum(map(len, running)) < 600 * len(running)
    steps = [json.loads(text)[0]["nodes"]["nodes.sum"]["done"] for text in running]
    assert steps == sorted(set(steps))
    last = news.read()
    (job,) = merge([*running, last]).values()
    assert (job["status"], job["outputs"]["total"]) == ("done", ["total.json"])
    assert (job["nodes"]["nodes.sum"]["done"], job["nodes"]["nodes.sum"]["state"]) == (STEPS, "done")
    assert job["nodes"]["nodes.sum.body.next"]["calls"] == STEPS
    assert news.read() == ""


def test_a_run_that_begins_or_ends_is_told_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page.server import JobNews

    replace_clock(monkeypatch, lambda: 0.0, "guidegraph_page.server")
    news = JobNews(site.page.jobs)
    for number in (1, 2):
        site.run_to_end(seed=str(number))
        (row,) = json.loads(news.read())
        assert (row["number"], row["status"], row["outputs"]["image"]) == (number, "done", ["image.png"])


def test_a_new_page_is_told_of_all_runs_and_another_of_those_that_have_changed(site: Site) -> None:
    from guidegraph_page.server import JobNews

    news = JobNews(site.page.jobs)
    site.run_to_end(seed="5")
    (first,) = json.loads(news.read())
    assert (first["number"], first["status"], len(first["nodes"])) == (1, "done", 4)
    assert news.read() == ""
    site.run_to_end(seed="6")
    assert [row["number"] for row in json.loads(news.read())] == [2]
    assert [row["number"] for row in json.loads(JobNews(site.page.jobs).read())] == [1, 2]


def test_only_nodes_that_have_changed_are_told() -> None:
    from guidegraph_page.jobs import JobProgress

    progress = JobProgress()
    progress(events.NodeStarted("nodes.a", "toy.number"))
    progress(events.NodeStarted("nodes.b", "toy.number"))
    version, nodes = progress.changes(0)
    assert [*nodes] == ["nodes.a", "nodes.b"]
    progress(events.NodeFinished("nodes.b", "toy.number", 0.5, "computed", "d"))
    _, changed = progress.changes(version)
    assert [*changed] == ["nodes.b"]
    assert (changed["nodes.b"]["state"], changed["nodes.b"]["seconds"]) == ("done", 0.5)
