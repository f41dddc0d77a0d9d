"""Runs of the page: queued, watched, cancelled, and with models kept from run to run."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest
import torch

from guidegraph.plugins.manager import PluginManager
from plugins.page.tests.conftest import DRAW, Site
from tests.commands.command import TOYS

LONG = {"seconds": "0.02", "count": "100000"}


def test_a_run_writes_its_folder_and_reports_each_node(site: Site) -> None:
    job = site.run_to_end(seed="5")
    assert (job["status"], job["error"]) == ("done", "")
    assert job["outputs"] == {"image": ["image.png"], "total": ["total.json"]}
    folder = site.folder / "runs" / job["folder"]
    assert json.loads((folder / "total.json").read_text()) == 5.5
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["parameters"]["seed"]) == ("done", 5)
    assert {path: node["state"] for path, node in job["nodes"].items()} == {
        "nodes.picture": "done",
        "nodes.start": "done",
        "nodes.sum": "done",
        "nodes.sum.body.next": "done",
    }
    assert (job["nodes"]["nodes.sum"]["done"], job["nodes"]["nodes.sum.body.next"]["calls"]) == (4, 4)
    assert site.get(f"runs/{job['folder']}/image.png").content == (folder / "image.png").read_bytes()


def test_a_second_run_takes_what_did_not_change_from_the_cache(site: Site) -> None:
    site.run_to_end(seed="5")
    job = site.run_to_end(seed="6")
    origins = {path: node.get("origin") for path, node in job["nodes"].items()}
    assert origins == {"nodes.picture": "computed", "nodes.sum": "memory"}


def test_wrong_parameters_start_nothing(site: Site) -> None:
    response = site.post("api/runs", name="draw.yaml", params={"seed": "a cat", "colour": "red"})
    assert response.status_code == 422
    assert {problem["path"] for problem in response.json()["problems"]} == {"params.seed", "params.colour"}
    assert not (site.folder / "runs").exists()


def test_a_workflow_with_errors_starts_nothing(site: Site) -> None:
    response = site.post("api/runs", name="more/broken.yaml", params={})
    assert response.status_code == 422
    assert response.json()["problems"][0]["code"] == "unknown-node"


def test_a_node_that_fails_is_named(site: Site) -> None:
    text = DRAW.replace(
        "start:   {use: toy.number, with: {value: 1.5}}", "start:   {use: toy.divide, with: {a: 1, b: 0}}"
    )
    (site.folder / "draw.yaml").write_text(text)
    job = site.run_to_end()
    assert (job["status"], job["path"]) == ("failed", "nodes.start")
    assert "ZeroDivisionError" in job["error"]
    assert site.run_to_end.__self__.page.jobs.jobs[1].status == "failed"  # type: ignore[attr-defined]


def test_a_node_that_fails_after_some_iterations_stays_marked_as_failed(site: Site) -> None:
    use_plugin(site, "failing", "assert x < 2.5, 'no further'")
    job = site.run_to_end()
    assert (job["status"], job["path"]) == ("failed", "nodes.sum.body.next")
    node = job["nodes"]["nodes.sum.body.next"]
    assert (node["state"], node["calls"]) == ("failed", 1)
    assert "no further" in node["error"]


def test_a_run_that_has_ended_holds_no_samples(site: Site) -> None:
    use_plugin(site, "offering", "offer_value(torch.zeros(1, 1, 2, 77))")
    assert site.run_to_end()["status"] == "done"
    gc.collect()
    shapes = [tuple(value.shape) for value in gc.get_objects() if type(value) is torch.Tensor]
    assert (1, 1, 2, 77) not in shapes


def use_plugin(site: Site, name: str, body: str) -> None:
    """Give the page a plugin with the node ``NAME.next``, whose function has this body."""
    path = site.folder / f"{name}.py"
    path.write_text(PLUGIN.replace("NAME", name).replace("BODY", body))
    site.page.jobs.manager = PluginManager((TOYS, str(path)), entry_points=False)
    (site.folder / "draw.yaml").write_text(DRAW.replace("toy.sleep", f"{name}.next"))


PLUGIN = """
import torch
from guidegraph import hookimpl, node
from guidegraph.graph.execution.watched_sizes import offer_value

@node("NAME.next")
def count(x: float, *, seconds: float = 0.0) -> float:
    \"\"\"x + 1.\"\"\"
    BODY
    return x + 1

@hookimpl
def guidegraph_nodes():
    return [count]
"""


def test_a_running_and_a_waiting_run_are_cancelled(site: Site) -> None:
    running = site.post("api/runs", name="draw.yaml", params=LONG).json()["number"]
    waiting = site.post("api/runs", name="draw.yaml", params={}).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[running].describe(0)["nodes"].get("nodes.sum", {}).get("done"))
    assert site.page.jobs.jobs[waiting].status == "queued"
    for number in (waiting, running):
        assert site.post(f"api/runs/{number}/cancel").status_code == 200
    site.page.jobs.wait(running, timeout=60)
    assert [site.page.jobs.jobs[number].status for number in (running, waiting)] == ["cancelled", "cancelled"]
    assert site.run_to_end()["status"] == "done"


def wait_for(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def test_too_many_runs_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page import jobs

    monkeypatch.setattr(jobs, "MAX_QUEUED", 1)
    site.post("api/runs", name="draw.yaml", params=LONG)
    wait_for(lambda: site.page.jobs.jobs[1].status == "running")
    assert site.post("api/runs", name="draw.yaml", params={}).status_code == 202
    response = site.post("api/runs", name="draw.yaml", params={})
    assert response.status_code == 429
    assert "cancel some" in response.json()["error"]
    site.post("api/runs/2/cancel")
    assert site.post("api/runs", name="draw.yaml", params={}).status_code == 202


def test_the_last_runs_that_ended_are_kept_and_the_running_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page import jobs

    monkeypatch.setattr(jobs, "MAX_KEPT", 2)
    site.post("api/runs", name="draw.yaml", params=LONG)
    wait_for(lambda: site.page.jobs.jobs[1].status == "running")
    for number in range(2, 6):
        site.post("api/runs", name="draw.yaml", params={})
        site.post(f"api/runs/{number}/cancel")
    assert [(job.number, job.status) for job in site.page.jobs.list_jobs()] == [
        (1, "running"),
        (4, "cancelled"),
        (5, "cancelled"),
    ]


def test_an_idle_queue_stops_at_once(site: Site) -> None:
    site.run_to_end()
    site.page.jobs.stop(seconds=60)
    assert site.page.jobs._thread is not None
    assert not site.page.jobs._thread.is_alive()


def test_the_gallery_lists_runs_and_skips_damaged_records(site: Site) -> None:
    job = site.run_to_end(seed="7")
    for name, record in (
        ("zz-damaged", "{"),
        ("zz-list", "[]"),
        ("zz-nan", '{"parameters": {"a": [NaN, 1e999], "b": "\\ud800"}, "seconds": Infinity}'),
        ("zz-long", '{"seconds": 1' + "0" * 400 + "}"),
        ("zz-odd", '{"outputs": 3, "workflow": [], "parameters": null}'),
    ):
        (site.folder / "runs" / name).mkdir()
        (site.folder / "runs" / name / "run.json").write_text(record)
    rows = {row["folder"]: row for row in site.get("api/runs").json()["runs"]}
    assert {*rows} == {job["folder"], "zz-odd", "zz-nan", "zz-long"}
    row = rows[job["folder"]]
    assert (row["name"], row["status"], row["pictures"], row["params"]["seed"]) == ("draw", "done", ["image.png"], 7)
    assert row["file"] == "draw.yaml"
    assert rows["zz-odd"]["pictures"] == []
    assert rows["zz-long"]["seconds"] is None
    assert (rows["zz-nan"]["params"], rows["zz-nan"]["seconds"]) == ({"a": ["NaN", "Infinity"], "b": "\ud800"}, None)


def test_the_runs_of_a_large_folder_come_in_pages(site: Site) -> None:
    for i in range(450):
        (site.folder / "runs" / f"run-{i:03}").mkdir(parents=True)
        (site.folder / "runs" / f"run-{i:03}" / "run.json").write_text("{}")
    pages = [site.get("api/runs").json()]
    while pages[-1]["next"]:
        pages.append(site.get("api/runs", before=pages[-1]["next"]).json())
    assert [page["total"] for page in pages] == [450] * 3
    folders = [row["folder"] for page in pages for row in page["runs"]]
    assert folders == [f"run-{i:03}" for i in reversed(range(450))]


def test_the_workflows_of_two_runs_are_compared(site: Site) -> None:
    first = site.run_to_end(seed="5")["folder"]
    (site.folder / "draw.yaml").write_text(DRAW.replace("value: 1.5", "value: 2"))
    second = site.run_to_end(seed="6")["folder"]
    lines = site.get("api/comparison", first=first, second=second).json()["lines"]
    assert lines == [
        "-  start:   {use: toy.number, with: {value: 1.5}}",
        "+  start:   {use: toy.number, with: {value: 2}}",
    ]
    assert site.get("api/comparison", first=first, second=first).json() == {"lines": []}
    for folder in ("..", "../runs", "nothing", ".", "", f"{first}/../{second}"):
        assert site.get("api/comparison", first=first, second=folder).json() == {"lines": []}


def test_the_values_of_a_run_are_described_and_shown(site: Site) -> None:
    number = site.run_to_end(seed="5")["number"]
    (picture,) = site.get(f"api/runs/{number}/values", key="picture").json()["values"]
    assert picture["name"] == "out"
    assert picture["picture"]
    assert picture["lines"][0].startswith("(1, 3, 2, 2) float")
    assert site.get(f"api/runs/{number}/values", key="sum").json()["values"] == [
        {"name": "x", "lines": ["5.5"], "picture": False}
    ]
    thumbnail = site.get(f"api/runs/{number}/thumbnail", key="picture", output="out")
    assert thumbnail.content.startswith(b"\x89PNG")
    assert site.get(f"api/runs/{number}/thumbnail", key="sum", output="x").status_code == 404
    for key in ("sum.body.next", "nothing", ""):  # the values inside a loop are not kept
        assert site.get(f"api/runs/{number}/values", key=key).json() == {"values": []}
    assert site.get("api/runs/99/values", key="sum").json() == {"values": []}


def test_a_run_that_fails_before_it_begins_has_no_values(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph.graph.errors import GuidegraphError
    from guidegraph.runs.run import RecordedRun

    def fail(*arguments: Any) -> None:
        raise GuidegraphError("no room")

    assert site.get(f"api/runs/{site.run_to_end()['number']}/values", key="sum").json()["values"]
    monkeypatch.setattr(RecordedRun, "run", fail)
    job = site.run_to_end()
    assert (job["status"], job["error"]) == ("failed", "no room")
    assert site.get(f"api/runs/{job['number']}/values", key="sum").json() == {"values": []}


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (lambda torch: torch.tensor([1.0, float("nan"), 3.0]), ["(3) float32, 1 to 3, 1 not finite"]),
        (lambda torch: torch.tensor([float("inf"), float("nan")]), ["(2) float32, 2 not finite"]),
        (lambda torch: torch.tensor([-1e300, 2.0], dtype=torch.float64), ["(2) float64, -1e+300 to 2"]),
        (lambda torch: torch.tensor([True, False]), ["(2) bool, 0 to 1"]),
        (lambda torch: torch.ones(2).to(torch.float8_e4m3fn), ["(2) float8_e4m3fn, 1 to 1"]),
        (lambda torch: torch.ones(2, dtype=torch.complex64), ["(2) complex64"]),
        (lambda torch: torch.eye(2).to_sparse(), ["(2, 2) float32"]),
        (lambda torch: torch.nested.nested_tensor([torch.ones(2)]), ["nested float32"]),
        (lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), ["(2) qint8"]),
        (lambda torch: torch.empty(2, dtype=torch.bits8), ["(2) bits8"]),
        (lambda torch: torch.tensor(2), ["() int64, 2"]),
        (lambda torch: torch.zeros(0, 3), ["(0, 3) float32"]),
        (lambda torch: {"a": torch.ones(2)}, ["dict of 1", "a: (2) float32, 1 to 1"]),
        (lambda torch: "x" * 100, ["x" * 79 + "…"]),
        (lambda torch: 10**5000, ["an integer of 16610 bits"]),
        (lambda torch: object(), ["object"]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of torch, about kinds of tensors that may change
def test_a_value_is_described_in_a_few_lines(make: Any, lines: list[str]) -> None:
    import torch

    from guidegraph_page.frames import describe_value

    assert describe_value(make(torch)) == lines


def test_a_run_is_stopped_after_a_step_and_goes_on_with_other_values(site: Site) -> None:
    number = site.post("api/runs", name="draw.yaml", params={"seconds": "0.02", "count": "400"}).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[number].describe(0)["nodes"].get("nodes.sum", {}).get("done"))
    assert site.post(f"api/runs/{number}/stop").status_code == 200
    site.page.jobs.wait(number, timeout=60)
    job = site.page.jobs.jobs[number].describe(0)
    assert (job["status"], job["error"], job["stopped"]["total"]) == ("stopped", "", 400)
    (row,) = site.get("api/runs").json()["runs"]
    assert (row["status"], row["stopped"]) == ("stopped", True)
    refused = site.post("api/runs", name="draw.yaml", params={"count": "300"}, resume=job["folder"])
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "cannot-resume")
    params = {"count": "400", "seconds": "0"}
    resumed = site.post("api/runs", name="draw.yaml", params=params, resume=job["folder"]).json()["number"]
    site.page.jobs.wait(resumed, timeout=60)
    job = site.page.jobs.jobs[resumed].describe(0)
    assert (job["status"], job["stopped"]) == ("done", None)
    assert json.loads((site.folder / "runs" / job["folder"] / "total.json").read_text()) == 401.5
    site.post("api/runs/99/stop")
    site.post(f"api/runs/{resumed}/stop")
    assert site.page.jobs.jobs[resumed].status == "done"


TRAIN = """\
guidegraph: 1
params: {count: 2}
nodes:
  one: {use: toy.number}
  sum:
    loop: {over: params.count, as: i}
    carry: {x: one}
    body: {next: {use: toy.add, in: {a: carry.x, b: one}}}
    next: {x: next}
  line: {use: toy.line}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: line}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}}
    train: [{model: net, loss: loss}]
    steps: 3
    collect: {loss: loss}
outputs: {total: sum.x, loss: fit.loss}
"""


def test_only_loops_that_can_be_stopped_are_offered(site: Site) -> None:
    (site.folder / "draw.yaml").write_text(TRAIN)
    site.page.jobs.manager = PluginManager(("tests.graph.engine_nodes",), entry_points=False)
    job = site.run_to_end()
    assert (job["status"], job["error"], job["stoppable"]) == ("done", "", ["nodes.sum"])
    assert job["nodes"]["nodes.fit"]["total"] == 3


def test_the_page_knows_that_a_run_is_about_to_stop(site: Site) -> None:
    number = site.post("api/runs", name="draw.yaml", params={"seconds": "0.5", "count": "100000"}).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[number].describe(0)["nodes"].get("nodes.sum"))
    before = site.page.jobs.version
    assert site.page.jobs.jobs[number].describe(0)["stopping"] is False
    site.post(f"api/runs/{number}/stop")
    assert site.page.jobs.jobs[number].describe(0)["stopping"] is True
    assert site.page.jobs.version > before
    site.page.jobs.wait(number, timeout=60)


def test_previews_are_made_only_while_a_page_takes_events(site: Site) -> None:
    frames = site.page.jobs.jobs[site.run_to_end()["number"]].frames
    assert frames is not None
    counts = []
    for watchers in (0, 1, 0):
        site.page.jobs.watchers = watchers
        frames(torch.zeros(1, 3, 2, 2))
        counts.append(frames.count)
    assert counts == [0, 1, 1]


def test_a_folder_without_a_stopped_run_cannot_be_resumed(site: Site) -> None:
    folder = site.run_to_end()["folder"]
    (site.folder / "runs" / "evil").mkdir()
    (site.folder / "runs" / "evil" / "run.json").write_text('{"stopped": {"file": "../../secret.safetensors"}}')
    for name in (folder, "evil", "..", "nothing", "a/b", "\0"):
        response = site.post("api/runs", name="draw.yaml", params={}, resume=name)
        assert (response.status_code, response.json()["problems"][0]["code"]) == (422, "bad-state")
    assert site.post("api/runs", name="draw.yaml", params={}, resume=3).status_code == 400


def test_a_grid_is_run_and_read_with_its_labels(site: Site) -> None:
    axes = {"seed": "3,8", "count": "2,4,6"}
    started = site.post("api/grids", name="draw.yaml", params={"seed": "99", "seconds": "0"}, axes=axes)
    assert started.status_code == 202
    number = started.json()["number"]
    site.page.jobs.wait(number, timeout=120)
    job = site.page.jobs.jobs[number].describe(0)
    assert (job["status"], job["error"], job["cells"]) == ("done", "", [6, 6])
    grid = site.get("api/grids", folder=job["folder"]).json()
    assert grid["axes"] == [{"name": "seed", "values": ["3", "8"]}, {"name": "count", "values": ["2", "4", "6"]}]
    assert grid["file"] == "draw.yaml"
    cells = {tuple(cell["point"]): cell for cell in grid["cells"]}
    assert sorted(cells) == [(x, y) for x in range(2) for y in range(3)]
    cell = cells[1, 2]
    assert (cell["params"]["seed"], cell["params"]["count"], cell["status"]) == (8, 6, "done")
    file = site.folder / "runs" / cell["folder"] / cell["pictures"][0]
    assert site.get(f"runs/{cell['folder']}/{cell['pictures'][0]}").content == file.read_bytes()
    assert json.loads((file.parent / "total.json").read_text()) == 7.5
    assert site.get("api/grids").json() == [{"folder": job["folder"]}]


def test_seeds_of_a_grid_may_be_a_range(site: Site) -> None:
    number = site.post("api/grids", name="draw.yaml", params={}, axes={"seed": "0:3"}).json()["number"]
    site.page.jobs.wait(number, timeout=120)
    grid = site.get("api/grids", folder=site.page.jobs.jobs[number].describe(0)["folder"]).json()
    assert grid["axes"] == [{"name": "seed", "values": ["0", "1", "2"]}]
    assert len(grid["cells"]) == 3


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, "one or two parameters"),
        ({"seed": "1", "count": "1", "seconds": "1"}, "one or two parameters"),
        ({"colour": "1,2"}, "no parameter 'colour'"),
        ({"seed": "1,,2"}, "is not NAME=VALUE"),
        ({"seed": "a,b"}, "valid integer"),
        ({"seed": "2,2"}, "twice"),
        ({"seed": "0:101"}, "at most 100"),
        ({"seed": "5:1"}, "is not a list of seeds"),
    ],
)
def test_a_wrong_grid_starts_nothing(site: Site, axes: dict[str, str], words: str) -> None:
    response = site.post("api/grids", name="draw.yaml", params={}, axes=axes)
    assert response.status_code == 422
    assert words in str(response.json()["problems"])
    assert site.page.jobs.list_jobs() == []
    assert not (site.folder / "runs").exists()


def test_a_folder_that_is_no_grid_has_none(site: Site) -> None:
    folder = site.run_to_end()["folder"]
    for name, text in (("list", "[]"), ("odd", '{"grid": 3}'), ("wide", '{"grid": {"a": [1], "b": [1], "c": [1]}}')):
        (site.folder / "runs" / name).mkdir()
        (site.folder / "runs" / name / "sweep.json").write_text(text)
    large = {"grid": {"a": [*range(401)]}, "order": ["a"]}
    several = {"grid": {"a": [1], "b": [1], "c": [1]}, "order": ["a", "b", "c"]}
    for name, description in (("large", large), ("several", several)):
        (site.folder / "runs" / name).mkdir()
        (site.folder / "runs" / name / "sweep.json").write_text(json.dumps(description))
    for name in (folder, "list", "odd", "wide", "large", "several", "..", "nothing", "../runs", "\0"):
        assert site.get("api/grids", folder=name).status_code == 404
    assert site.get("api/grids").json() == []
    assert site.post("api/grids", name="draw.yaml", params={}, axes=[]).status_code == 400
    assert site.post("api/grids", name="draw.yaml", params={}, axes={"seed": 3}).status_code == 400


def test_a_grid_is_cancelled_and_keeps_its_cells(site: Site) -> None:
    params = {"seconds": "0.05", "count": "10"}
    number = site.post("api/grids", name="draw.yaml", params=params, axes={"seed": "0:50"}).json()["number"]
    wait_for(lambda: site.page.jobs.jobs[number].describe(0)["cells"][0] >= 1)
    site.post(f"api/runs/{number}/cancel")
    site.page.jobs.wait(number, timeout=60)
    job = site.page.jobs.jobs[number].describe(0)
    assert job["status"] == "cancelled"
    assert 1 <= len(site.get("api/grids", folder=job["folder"]).json()["cells"]) < 50
