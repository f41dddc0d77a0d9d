"""``guidegraph sweep``: cells, their folders, and the cells that are run again."""

from __future__ import annotations

import csv
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from guidegraph_lab.sweep.run import Results
from guidegraph_lab.sweep.sweep_folder import Store
from guidegraph_lab.sweep.worker import Outcome
from guidegraph_runtime.files.locks import hold_lock
from tests.commands.command import TOYS, Command, Result, start
from tests.fake_clock import replace_clock

DRAW = """
guidegraph: 1
params: {seed: 0, shade: 0.5, b: 2.0}
nodes:
  image: {use: toy.picture, in: {seed: params.seed, shade: params.shade}}
  one: {use: toy.number}
  two: {use: toy.number, in: {value: params.b}}
  ratio: {use: toy.divide, in: {a: one, b: two}}
outputs: {image: image, ratio: ratio}
"""

READ = """
guidegraph: 1
params: {path: {default: a.txt, type: Path}, seed: 0}
nodes:
  text: {use: toy.read, in: {path: params.path}}
  image: {use: toy.picture, in: {seed: params.seed}}
outputs: {text: text, image: image}
"""

SLEEP = """
guidegraph: 1
params: {seed: 0, seconds: 0.05}
nodes:
  image: {use: toy.picture, in: {seed: params.seed}}
  one: {use: toy.number}
  late: {use: toy.sleep, in: {x: one, seconds: params.seconds}}
outputs: {image: image, late: late}
"""

PROMPT = """
guidegraph: 1
params: {prompt: "a tiger", seed: 0}
nodes:
  image: {use: toy.picture, in: {seed: params.seed}}
  words: {use: toy.table, in: {prompt: params.prompt}}
outputs: {image: image, words: words}
"""

SAVE = """
guidegraph: 1
params: {path: {type: Path}, seed: 0}
nodes:
  model: {use: toy.model}
  save: {use: toy.save, in: {model: model, path: params.path}}
  image: {use: toy.picture, in: {seed: params.seed}}
outputs: {image: image}
"""


def table(folder: Path | str = "out") -> list[dict[str, str]]:
    with (Path(folder) / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def finished_cells(folder: Path | str = "out") -> dict[str, tuple[int, int]]:
    """The inode and the modification time of the record of each finished cell."""
    cells = {}
    for path in (Path(folder) / "cells").glob("[!.]*/run.json"):
        if json.loads(path.read_text())["status"] == "done":
            cells[path.parent.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return cells


def sweep(cli: Command, workflow: Path, *arguments: str) -> Result:
    return cli("sweep", workflow, "--out", "out", *arguments)


def test_each_cell_equals_a_run(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = sweep(cli, workflow, "--grid", "b=1,4", "--grid", "shade=0.25,-1", "--seeds", "3:5", "--set", "b = 9")
    assert result.code == 2
    result = sweep(cli, workflow, "--grid", "b=1,4", "--grid", "shade=0.25,-1", "--seeds", "3:5")
    assert (result.code, result.err) == (0, "")
    assert result.out == "8 cells: 8 done (0 before), 0 failed; wrote out/table.csv\n"
    rows = table()
    points = [(row["b"], row["shade"], row["seed"]) for row in rows]
    assert points == [(b, s, n) for b in ("1.0", "4.0") for s in ("0.25", "-1.0") for n in ("3", "4")]
    assert [row["ratio"] for row in rows] == ["1.0"] * 4 + ["0.25"] * 4
    assert {row["status"] for row in rows} == {"done"}
    settings = ["--set", "b=4", "--set", "shade=0.25", "--set", "seed=4"]
    assert cli("run", workflow, "--out", "one", *settings).code == 0
    cell = Path("out/cells") / rows[5]["cell"]
    assert sorted(p.name for p in cell.iterdir()) == sorted(p.name for p in Path("one").iterdir())
    assert rows[5]["image"] == f"cells/{rows[5]['cell']}/image.png"
    assert (cell / "image.png").read_bytes() == Path("one/image.png").read_bytes()
    assert (cell / "ratio.json").read_bytes() == Path("one/ratio.json").read_bytes()
    assert Path("out/sheet.png").exists()


def test_only_one_output_of_each_cell_is_computed(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--grid", "b=1,4", "--only", "ratio").code == 0
    assert [row["ratio"] for row in table()] == ["1.0", "0.25"]
    assert not list(Path("out").rglob("*.png"))
    result = sweep(cli, workflow, "--grid", "b=1,4")
    assert (result.code, result.err) == (0, "")
    assert len(list(Path("out/cells").rglob("image.png"))) == 2
    result = sweep(cli, workflow, "--grid", "b=1,4", "--only", "ratoi")
    assert result.code == 2
    assert "there is no output 'ratoi'; did you mean 'ratio'?" in result.err


def test_description(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    Path("rows.csv").write_text("b,shade\n1,0.5\n2,-0.5\n")
    assert sweep(cli, workflow, "--seeds", "0:3", "--from", "rows.csv").code == 0
    description = json.loads(Path("out/sweep.json").read_text())
    assert description["workflow"]["text"] == DRAW
    assert description["workflow"]["file"] == str(workflow.absolute())
    assert (description["grid"], description["seeds"]) == ({}, [0, 1, 2])
    assert description["from"] == {"columns": ["b", "shade"], "rows": [[1.0, 0.5], [2.0, -0.5]]}
    assert (description["cells"], description["order"]) == (6, ["b", "shade", "seed"])
    assert {"torch", "guidegraph"} <= set(description["versions"])
    assert [(r["b"], r["seed"]) for r in table()] == [(b, s) for b in ("1.0", "2.0") for s in "012"]


def test_finished_cells_are_not_run_again(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--grid", "shade=0,1", "--seeds", "0:2").code == 0
    before = finished_cells()
    assert len(before) == 4
    result = sweep(cli, workflow, "--grid", "shade=0,1,-1", "--seeds", "1:3")
    assert result.code == 0
    assert result.err == "2 of 6 cells are done already\n"
    after = finished_cells()
    assert len(after) == 8
    assert before.items() <= after.items()
    assert len(table()) == 6
    assert not list(Path("out/cells").glob(".*"))


def test_a_changed_workflow_or_file_is_run_again(cli: Command) -> None:
    workflow = cli.workflow("read.yaml", READ)
    Path("a.txt").write_text("first")
    assert sweep(cli, workflow, "--seeds", "0:2").code == 0
    before = finished_cells()
    Path("a.txt").write_text("second")
    assert sweep(cli, workflow, "--seeds", "0:2").code == 0
    assert len(finished_cells()) == 4
    assert [row["text"] for row in table()] == ["second", "second"]
    cli.workflow("read.yaml", READ.replace("outputs:", "# the same\noutputs:"))
    Path("a.txt").write_text("first")
    assert "2 of 2 cells are done already" in sweep(cli, workflow, "--seeds", "0:2").err
    assert before.items() <= finished_cells().items()
    cli.workflow("read.yaml", READ.replace("{seed: params.seed}}", "{seed: params.seed}, with: {shade: 1}}"))
    assert sweep(cli, workflow, "--seeds", "0:2").code == 0
    assert len(finished_cells()) == 6


def test_the_path_of_a_written_file_is_not_in_the_key(cli: Command) -> None:
    workflow = cli.workflow("save.yaml", SAVE)
    arguments = ("--seeds", "0:2", "--set", "path=model.txt")
    assert sweep(cli, workflow, *arguments).code == 0
    assert Path("model.txt").exists()
    assert "2 of 2 cells are done already" in sweep(cli, workflow, *arguments).err


def test_a_folder_that_a_node_writes_and_outputs_is_not_in_the_key(cli: Command) -> None:
    text = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  schedule: {use: schedule.linear}
  saved: {use: model.save, in: {schedule: schedule, path: params.path}}
outputs: {folder: saved}
"""
    workflow = cli.workflow("train.yaml", text)
    arguments = ("--grid", "path=a,b")
    assert sweep(cli, workflow, *arguments).code == 0
    assert "2 of 2 cells are done already" in sweep(cli, workflow, *arguments).err
    assert "1 of 2 cells is done already" in sweep(cli, workflow, "--grid", "path=b,c").err


def test_an_option_that_is_repeated_is_refused(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = sweep(cli, workflow, "--seeds", "0:2", "--seeds", "2:3")
    assert result.code == 2
    assert "--seeds: repeated-option: it is given 2 times (0:2, 2:3): write all seeds in one" in result.err
    result = sweep(cli, workflow, "--from", "a.csv", "--from", "b.csv")
    assert (result.code, "--from: repeated-option: it is given 2 times (a.csv, b.csv)" in result.err) == (2, True)


def test_a_failing_cell_is_reported_and_the_others_run(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = sweep(cli, workflow, "--grid", "b=0,1", "--seeds", "0:2")
    assert result.code == 1
    assert result.err.count("failed: b=0.0, seed=") == 2
    assert "ZeroDivisionError: float division by zero" in result.err
    assert result.out == "4 cells: 2 done (0 before), 2 failed; wrote out/table.csv\n"
    rows = table()
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "done"]
    assert "nodes.ratio (toy.divide): ZeroDivisionError" in rows[0]["message"]
    assert (rows[0]["image"], rows[0]["ratio"]) == ("", "")
    record = json.loads((Path("out/cells") / rows[0]["cell"] / "run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", rows[0]["message"])
    before = finished_cells()
    cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--grid", "b=0,1", "--seeds", "0:2").code == 1
    assert finished_cells() == before


def test_a_cell_whose_output_is_damaged_is_run_again(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--seeds", "0:3").code == 0
    before = finished_cells()
    (damaged, *_) = sorted(before)
    (Path("out") / "cells" / damaged / "ratio.json").write_text("0.")
    result = sweep(cli, workflow, "--seeds", "0:3")
    assert result.out == "3 cells: 3 done (2 before), 0 failed; wrote out/table.csv\n"
    assert [key for key, stamp in finished_cells().items() if before[key] != stamp] == [damaged]
    assert [row["ratio"] for row in table()] == ["0.5"] * 3


def test_equal_rows_of_a_table_are_one_cell(cli: Command) -> None:
    Path("rows.csv").write_text("b\n1\n1.0\n2\n")
    result = sweep(cli, cli.workflow("draw.yaml", DRAW), "--from", "rows.csv")
    assert result.out.startswith("2 cells: 2 done")
    assert len(table()) == 3
    assert len(finished_cells()) == 2
    assert json.loads(Path("out/sweep.json").read_text())["cells"] == 2


def test_one_cell_is_named_in_the_singular(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--seeds", "0:1").out.startswith("1 cell: 1 done (0 before), 0 failed; ")
    assert sweep(cli, workflow, "--seeds", "0:1").err == "1 of 1 cell is done already\n"


def test_events_as_json(cli: Command) -> None:
    result = sweep(cli, cli.workflow("draw.yaml", DRAW), "--grid", "b=0,1", "--json")
    events: list[dict[str, Any]] = [json.loads(line) for line in result.out.splitlines()]
    assert result.err == ""
    assert [event["event"] for event in events] == ["sweep_started", *["cell_finished"] * 2, "sweep_finished"]
    assert (events[0]["cells"], events[0]["missing"], events[0]["folder"]) == (2, 2, "out")
    assert [(e["parameters"], e["status"]) for e in events[1:3]] == [({"b": 0.0}, "failed"), ({"b": 1.0}, "done")]
    assert (events[3]["done"], events[3]["failed"]) == (1, 1)


def test_each_sweep_gets_its_own_folder(cli: Command) -> None:
    assert cli("sweep", cli.workflow("draw.yaml", DRAW), "--seeds", "0:1").code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("-draw-sweep")


def test_the_folder_of_another_workflow_is_left_unchanged(cli: Command) -> None:
    assert sweep(cli, cli.workflow("draw.yaml", DRAW), "--seeds", "0:1").code == 0
    result = sweep(cli, cli.workflow("other.yaml", SLEEP), "--seeds", "0:1")
    assert result.code == 2
    assert "--out: another-sweep: 'out' holds a sweep of " in result.err
    Path("out/sweep.json").write_text("{")
    assert "another-sweep" in sweep(cli, Path("draw.yaml"), "--seeds", "0:1").err


def test_one_sweep_at_a_time_in_a_folder(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    with hold_lock(Path("out/.guidegraph.lock"), Path("out"), "guidegraph sweep"):
        result = sweep(cli, workflow, "--seeds", "0:1")
    assert result.code == 2
    assert "--out: folder-busy: guidegraph sweep (process " in result.err
    assert sweep(cli, workflow, "--seeds", "0:1").code == 0


def test_a_picture_in_place_of_a_workflow(cli: Command) -> None:
    assert cli("run", cli.workflow("draw.yaml", DRAW), "--set", "b=8", "--out", "one").code == 0
    assert sweep(cli, Path("one/image.png"), "--seeds", "0:2").code == 0
    assert [row["ratio"] for row in table()] == ["0.125", "0.125"]


def test_unfinished_cells_of_a_killed_sweep_are_removed(cli: Command) -> None:
    store = Store(Path("out"))
    Path("out/cells/.tmp-key-1234").mkdir(parents=True)
    with store.hold():
        assert not list(Path("out/cells").iterdir())


def test_a_cell_that_lacks_a_file_is_run_again(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert sweep(cli, workflow, "--seeds", "0:3").code == 0
    first, second, third = (Path("out/cells") / row["cell"] for row in table())
    before = finished_cells()
    (first / "image.png").unlink()
    (second / "run.json").write_text("{")
    result = sweep(cli, workflow, "--seeds", "0:3")
    assert (result.code, result.err) == (0, "1 of 3 cells is done already\n")
    assert finished_cells()[third.name] == before[third.name]
    assert (first / "image.png").exists()


def test_a_parameter_with_the_name_of_a_column(cli: Command) -> None:
    assert sweep(cli, cli.workflow("sleep.yaml", SLEEP), "--grid", "seconds=0,0.001").code == 0
    assert [row["param.seconds"] for row in table()] == ["0.0", "0.001"]
    assert [float(row["seconds"]) > 0 for row in table()] == [True, True]


def test_the_sheet_shows_a_picture_with_a_multiline_prompt(cli: Command) -> None:
    workflow = cli.workflow("w.yaml", PROMPT)
    Path("rows.csv").write_text('prompt\n"a\r\ncat"\n"a, ""dog"""\n', newline="")
    result = sweep(cli, workflow, "--from", "rows.csv")
    assert (result.code, result.err) == (0, "")
    assert [row["prompt"] for row in table()] == ["a\r\ncat", 'a, "dog"']
    assert Path("out/sheet.png").exists()


def test_a_cell_whose_record_could_not_be_written_says_why(cli: Command) -> None:
    store = Store(Path("out"))

    def fail(folder: Path) -> Outcome:
        (folder / "run.json").write_text('{"status": "running", "error": null, "seconds": 0.1, "outputs": {}}')
        return Outcome("failed", 1.0, "no space left on device")

    store.make_cell("key", fail)
    cell = store.read_cell("key")
    assert cell is not None
    assert cell.outcome == Outcome("failed", 1.0, "no space left on device")


def test_results_are_written_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = [0.0], list[float]()
    replace_clock(monkeypatch, lambda: clock[0], "guidegraph_lab.sweep.run")

    def write() -> None:
        written.append(clock[0])
        clock[0] += 20

    results = Results(write, every=60)
    for now in range(0, 500, 10):
        clock[0] = max(clock[0], now)
        results.write_if_due()
    assert written == [60, 260, 460]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """The options of a sweep on a cluster that does not answer; Ray itself is not needed for that."""
    monkeypatch.setattr("guidegraph_lab.sweep.sweep_arguments.is_ray_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    return ("--seeds", "0:2", "--ray", "127.0.0.1:1")


@pytest.mark.parametrize("out", [(), ("--out", "new/out")])
def test_a_cluster_that_does_not_answer_leaves_no_folder(
    cli: Command, no_ray: Sequence[str], out: Sequence[str]
) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = cli("sweep", workflow, *no_ray, *out)
    assert result.code == 2
    assert "--ray: no-ray: no Ray answers at '127.0.0.1:1'" in result.err
    assert list(cli.folder.iterdir()) == [workflow]


def test_a_cluster_that_does_not_answer_leaves_an_empty_folder_of_the_user_as_it_is(
    cli: Command, no_ray: Sequence[str]
) -> None:
    Path("out").mkdir()
    assert sweep(cli, cli.workflow("draw.yaml", DRAW), *no_ray).code == 2
    assert list(Path("out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_sweep_resumes_with_the_missing_cells(cli: Command, number: signal.Signals) -> None:
    workflow = cli.workflow("sleep.yaml", SLEEP)
    arguments = ["sweep", workflow, "--seeds", "0:60", "--out", "out", "--json", "--plugin", TOYS]
    process = start(arguments, cli.folder)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(number)
    remaining = process.stdout.read()
    assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    before = finished_cells()
    assert 19 <= len(before) < 60
    if number == signal.SIGINT:
        assert len(table()) == len(before)
    assert sweep(cli, workflow, "--seeds", "0:60").code == 0
    assert before.items() <= finished_cells().items()
    assert "sweep_finished" not in remaining
    assert len(finished_cells()) == len(table()) == 60
    assert not list(Path("out/cells").glob(".*"))
