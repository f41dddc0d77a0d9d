"""``guidegraph run``: files, records, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands.command import TOYS, Command, process

DRAW = """
guidegraph: 1
params:
  seed: {default: 3, type: int}
  batch: 1
  prompt: "a tiger"
  sizes: {default: [1, 2], type: list}
nodes:
  image: {use: toy.picture, in: {seed: params.seed, batch: params.batch}}
  table: {use: toy.table, in: {prompt: params.prompt, sizes: params.sizes}}
  tensor: {use: toy.tensor, with: {values: [1, 2]}}
outputs: {image: image, table: table, tensor: tensor}
"""

LOOP = """
guidegraph: 1
params: {seconds: 0.02, count: 3}
nodes:
  before: {use: toy.picture}
  start: {use: toy.number}
  count: {use: toy.tensor, with: {values: %s}}
  sample:
    loop: {over: count, as: t}
    carry: {x: start}
    body:
      step: {use: toy.sleep, in: {x: carry.x, seconds: params.seconds}}
    next: {x: step}
outputs: {before: before, x: sample.x}
"""

FAIL = """
guidegraph: 1
nodes:
  image: {use: toy.picture}
  one: {use: toy.number}
  zero: {use: toy.number, with: {value: 0}}
  ratio: {use: toy.divide, in: {a: one, b: zero}}
outputs: {image: image, ratio: ratio}
"""

READ = """
guidegraph: 1
params: {path: {default: a.txt, type: Path}}
nodes: {r: {use: toy.read, in: {path: params.path}}}
outputs: {r: r}
"""

NEED = """
guidegraph: 1
params: {v: {type: float, help: the value}}
nodes: {n: {use: toy.number, in: {value: params.v}}}
outputs: {n: n}
"""


def read_record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_each_output_is_written_by_type_into_the_folder(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--out", "new/folder")
    assert (result.code, result.err) == (0, "")
    assert names(Path("new/folder")) == ["image.png", "run.json", "table.json", "tensor.safetensors"]
    assert result.out == "wrote image.png, table.json, tensor.safetensors in new/folder\n"


def test_each_run_gets_its_own_folder(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    for _ in range(2):
        assert cli("run", workflow, "--only", "table").code == 0
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2
    assert all(re.fullmatch(r"\d{8}-\d{6}-draw(-2)?", f.name) for f in folders)


def test_settings_are_typed_and_the_record_has_them(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    settings = ["seed=7", "batch=3", "prompt=a = b: [c", "sizes=[3, 4]"]
    assert cli("run", workflow, "--out", "out", *(f"--set={s}" for s in settings)).code == 0
    record = read_record(Path("out"))
    assert record["status"] == "done"
    assert record["parameters"] == {"seed": 7, "batch": 3, "prompt": "a = b: [c", "sizes": [3, 4]}
    assert record["seeds"] == {"nodes.image": 7}
    assert record["workflow"]["text"] == DRAW
    assert record["outputs"]["image"]["files"] == [f"image-000{i}.png" for i in range(3)]
    assert set(record["digests"]) == set(record["timings"]) == {"nodes.image", "nodes.table", "nodes.tensor"}
    assert {"guidegraph", "torch", "numpy", "python", "toys", "machine"} <= set(record["versions"])
    assert (record["device"], record["dtype"]) == ("cpu", "float32")
    assert json.loads(Path("out/table.json").read_text()) == {"prompt": "a = b: [c", "sizes": [3, 4]}


def test_only_selects_an_output(cli: Command) -> None:
    assert cli("run", cli.workflow("draw.yaml", DRAW), "--only", "table", "--out", "out").code == 0
    assert names(Path("out")) == ["run.json", "table.json"]
    assert list(read_record(Path("out"))["digests"]) == ["nodes.table"]


def test_quiet_prints_nothing(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_verbose_names_each_node_on_stderr(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "-v", "--out", "out")
    assert "nodes.image (toy.picture): " in result.err
    assert result.out.count("\n") == 1


def test_json_prints_events_and_nothing_else(cli: Command) -> None:
    result = cli("run", cli.workflow("loop.yaml", LOOP % [1, 2, 3]), "--json", "--out", "out")
    rows = [json.loads(line) for line in result.out.splitlines()]
    kinds = [row["event"] for row in rows]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert kinds.count("loop_progress") == 3
    assert {"event": "output_ready", "name": "before", "files": ["before.png"]} in rows
    assert result.err == ""


def test_with_the_disk_cache_only_changed_nodes_run(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert cli("run", workflow, "--cache", "cache", "--quiet").code == 0
    result = cli("run", workflow, "--cache", "cache", "--json", "--set", "prompt=a lion")
    rows = [json.loads(line) for line in result.out.splitlines()]
    origins = {row["path"]: row["origin"] for row in rows if row["event"] == "node_finished"}
    assert origins == {"nodes.image": "disk", "nodes.table": "computed", "nodes.tensor": "disk"}


def test_a_relative_path_is_relative_to_the_current_folder(cli: Command) -> None:
    workflow = cli.workflow("sub/read.yaml", READ)
    cli.workflow("sub/a.txt", "beside the workflow")
    cli.workflow("a.txt", "here")
    for arguments, expected in (([], "beside the workflow"), (["--set", "path=a.txt"], "here")):
        assert cli("run", workflow, "--out", "out", *arguments).code == 0
        assert json.loads(Path("out/r.json").read_text()) == expected


def test_a_failing_node_is_named_and_finished_outputs_are_kept(cli: Command) -> None:
    workflow = cli.workflow("fail.yaml", FAIL)
    result = cli("run", workflow, "--out", "out")
    assert result.code == 1
    message = f"{workflow}:7:3: node-failed: nodes.ratio (toy.divide): ZeroDivisionError: float division by zero"
    assert result.err.strip() == message
    assert names(Path("out")) == ["image.png", "run.json"]
    record = read_record(Path("out"))
    assert (record["status"], record["error"]) == ("failed", message)
    assert record["outputs"]["image"]["files"] == ["image.png"]


def test_the_traceback_is_printed_on_request(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = cli.workflow("fail.yaml", FAIL)
    result = cli("run", workflow, "--traceback")
    assert "ZeroDivisionError" in result.err
    assert "return a / b" in result.err


def test_a_picture_with_nan_is_an_error(cli: Command) -> None:
    text = (
        "guidegraph: 1\nnodes:\n  i: {use: toy.picture}\n  b: {use: toy.broken, in: {image: i}}\noutputs: {image: b}\n"
    )
    result = cli("run", cli.workflow("nan.yaml", text), "--out", "out")
    assert result.code == 1
    assert "nan.yaml:5:" in result.err
    assert "12 of 12 values are NaN" in result.err
    assert names(Path("out")) == ["run.json"]


def test_a_model_output_is_refused_before_the_run(cli: Command) -> None:
    text = "guidegraph: 1\nnodes:\n  m: {use: toy.model}\noutputs: {denoiser: m}\n"
    result = cli("run", cli.workflow("model.yaml", text))
    assert result.code == 2
    assert "output-type" in result.err
    assert "toy.save" in result.err
    assert not Path("runs").exists()


def test_all_problems_of_the_arguments_are_reported_together(cli: Command) -> None:
    arguments = ["--set", "seed=x", "--set", "promt=y", "--set", "odd", "--only", "imag", "--passes", "pruen"]
    result = cli("run", cli.workflow("draw.yaml", DRAW), *arguments, "--device", "tpu", "--dtype", "float31")
    assert result.code == 2
    for fragment in ("seed", "'promt'", "'prompt'", "'odd' is not K=V", "'image'", "'prune'", "'tpu'", "'float32'"):
        assert fragment in result.err
    assert len(result.err.splitlines()) == 7
    assert not Path("runs").exists()


def test_a_missing_required_parameter_is_an_error(cli: Command) -> None:
    workflow = cli.workflow("need.yaml", NEED)
    result = cli("run", workflow)
    assert result.code == 2
    assert "v" in result.err
    assert cli("run", workflow, "--set", "v=2", "--out", "out").code == 0
    assert json.loads(Path("out/n.json").read_text()) == 2.0


def test_cuda_is_never_replaced_by_the_cpu(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--device", "cuda:1")
    assert result.code == 2
    assert "no CUDA device" in result.err


def test_an_empty_folder_is_refused_and_nothing_is_written(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--out", "")
    assert result.code == 2
    assert "--out" in result.err
    assert "expected a path; found an empty text: '.' is the current folder" in result.err
    assert [file.name for file in cli.folder.iterdir()] == ["draw.yaml"]


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_a_file_in_place_of_a_folder_is_refused(cli: Command, option: str) -> None:
    cli.workflow("taken", "")
    result = cli("run", cli.workflow("draw.yaml", DRAW), option, "taken")
    assert result.code == 2
    assert f"{option}: not-a-folder: 'taken' is not a folder" in result.err


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_a_name_that_no_file_system_takes_is_refused(cli: Command, option: str) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), option, 300 * "a")
    assert result.code == 2
    assert f"{option}: bad-folder: File name too long: 'aaa" in result.err


def test_a_tilde_is_the_home_folder(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("run", cli.workflow("draw.yaml", DRAW), "--out=~/out").code == 0
    assert (tmp_path / "home" / "out" / "image.png").exists()
    assert not Path("~").exists()


@pytest.mark.parametrize(("name", "file"), [("run", "run.json"), ("sweep", "sweep.json")])
def test_an_output_with_the_name_of_a_record_is_refused(cli: Command, name: str, file: str) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW.replace("table: table", f"{name}: table")))
    assert (result.code, f"the name '{name}' is taken by the file {file}" in result.err) == (2, True)


@pytest.mark.parametrize("arguments", [["run"], ["run", "x.yaml", "--frob"], ["frob"], ["run", "missing.yaml"]])
def test_wrong_usage_exits_with_2(cli: Command, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert result.err


def test_a_plugins_observer_sees_the_run(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_OBSERVER", "seen.txt")
    assert cli("run", cli.workflow("draw.yaml", DRAW)).code == 0
    seen = Path("seen.txt").read_text().splitlines()
    assert seen[0] == "draw RunStarted"
    assert seen[-1] == "draw RunFinished"


@pytest.mark.parametrize(("mode", "reason"), [("fail", "the toy observer"), ("none", "the toy hook")])
def test_a_plugins_observer_cannot_end_the_run(
    cli: Command, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    monkeypatch.setenv("TOY_OBSERVER", mode)
    result = cli("run", cli.workflow("draw.yaml", DRAW))
    assert result.code == 0
    assert result.err.count(f"RuntimeError: {reason}") == 1


def test_a_plugin_that_does_not_import_is_an_error(cli: Command) -> None:
    result = cli("run", cli.workflow("draw.yaml", DRAW), "--plugin", "no_such_module")
    assert result.code == 2
    assert "--plugin: plugin-failed: no_such_module" in result.err


def test_the_command_line_as_a_process(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = process(["run", workflow, "--plugin", TOYS, "--out", "out", "--set", "batch=2"], cli.folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(cli.folder / "out")[:2] == ["image-0000.png", "image-0001.png"]
    assert result.stdout == "wrote image-0000.png … image-0001.png, table.json, tensor.safetensors in out\n"
