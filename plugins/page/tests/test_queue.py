"""The thread of the page's runs, its memory, and its end."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.loop_state import LoopState
from guidegraph_page import jobs
from guidegraph_page.folder import WorkflowFolder
from plugins.page.tests.conftest import Site, load_manager
from plugins.page.tests.test_jobs import wait_for


def test_whatever_a_run_raises_the_next_one_is_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise SystemExit("no more")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "FrameMaker", fail)
        job = site.run_to_end()
    assert (job["status"], job["error"]) == ("failed", "SystemExit: no more")
    assert site.run_to_end()["status"] == "done"


def test_runs_that_were_stopped_and_went_on_hold_no_state(site: Site) -> None:
    params = {"seconds": "0.02", "count": "400"}
    number = site.post("api/runs", name="draw.yaml", params=params).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[number].describe(0)["nodes"].get("nodes.sum", {}).get("done"))
    site.post(f"api/runs/{number}/stop")
    site.page.jobs.wait(number, timeout=60)
    stopped = site.page.jobs.jobs[number].describe(0)
    resumed = site.post("api/runs", name="draw.yaml", params={**params, "seconds": "0"}, resume=stopped["folder"])
    site.page.jobs.wait(resumed.json()["number"], timeout=60)
    assert [job.status for job in site.page.jobs.list_jobs()] == ["stopped", "done"]
    assert stopped["stopped"]["total"] == 400
    gc.collect()
    assert [held for held in gc.get_objects() if type(held) is LoopState] == []


def test_the_queue_says_whether_the_current_run_has_ended(site: Site) -> None:
    number = site.post("api/runs", name="draw.yaml", params={"seconds": "1", "count": "1"}).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[number].describe(0)["nodes"].get("nodes.sum"))
    assert not site.page.jobs.stop(seconds=0)
    assert site.page.jobs.stop(seconds=60)
    assert site.page.jobs.jobs[number].status == "cancelled"


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_page_whose_run_does_not_end_makes_the_last_calls(
    site: Site, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    import uvicorn

    from guidegraph_page import serve

    endings: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: None)
    monkeypatch.setattr(jobs.JobQueue, "stop", lambda *_: has_ended)
    monkeypatch.setattr(serve, "end_at_once", lambda: endings.append("at once"))
    folder = WorkflowFolder.open(site.folder)
    serve.serve(folder, load_manager(), RunConfig(), 0, False, lambda _: None, endings.append)
    assert endings[1:] == (
        [] if has_ended else ["the current run is in a long call: the process ends amid it", "at once"]
    )


def test_a_grid_begins_without_the_values_of_earlier_runs(site: Site) -> None:
    site.run_to_end()
    assert site.page.jobs.cache.size > 0
    number = site.post("api/grids", name="draw.yaml", params={}, axes={"seed": "0:1"}).json()["number"]
    site.page.jobs.wait(number, timeout=120)
    assert site.page.jobs.cache.size == 0


def test_the_cache_of_runs_on_a_gpu_is_limited_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn")
    import torch

    from guidegraph_page import serve

    free = {torch.device("cuda"): 8 << 30, torch.device("cuda:1"): 2 << 30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 80 << 30))
    monkeypatch.setattr(serve, "available_memory", lambda: 100 << 30)
    assert [serve.measure_cache_limit(device) >> 30 for device in ("cuda", "cuda:1", "cpu")] == [4, 1, 50]
    monkeypatch.setattr(serve, "available_memory", lambda: None)
    assert serve.measure_cache_limit("cpu") == serve.CACHE_BYTES
