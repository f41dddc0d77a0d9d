"""docs/understand/experiments.md: the tables fit their workflows and each other, and the chain of experiments runs."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from guidegraph import load_workflow
from guidegraph.graph.errors import Problem
from guidegraph_lab.sweep.grid import make_grid
from guidegraph_lab.sweep.grid_options import parse_table
from tests.commands.command import ROOT, process
from tools import equal_compute
from tools.experiments import commands

EXPERIMENTS = ROOT / "workflows" / "experiments"
SIZES = {"small": EXPERIMENTS, "full": EXPERIMENTS / "full"}
SWEPT = ("first_stage_kl", "first_stage_vq", "ldm", "sampling")
SIDE = 64


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows of a table by their f, the last of each; without those of an embedded model."""
    return {int(row["f"]): row for row in read(path) if not row.get("model", "").startswith("pkg:")}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SWEPT)
def test_a_table_fits_its_workflow(name: str, size: str) -> None:
    problems: list[Problem] = []
    texts = parse_table(SIZES[size] / f"{name}.csv", problems)
    assert texts is not None
    graph = load_workflow(EXPERIMENTS / f"{name}.yaml").graph
    every = {2, 4, 8, 16} if name.startswith("first_stage") else {1, 2, 4, 8, 16}
    assert {point["f"] for point in make_grid(graph, {}, [texts], problems).points()} == every


@pytest.mark.parametrize("size", SIZES)
def test_the_tables_fit_each_other(size: str) -> None:
    first, vq, ldm, drawn = (rows(SIZES[size] / f"{name}.csv") for name in SWEPT)
    for f, row in first.items():
        assert int(row["patch"]) * 2 ** (len(json.loads(row["multipliers"])) - 1) == f
        assert vq[f] == {key: value.replace("kl-f", "vq-f") for key, value in row.items()}
    for f, row in ldm.items():
        channels = int(row["in_channels"])
        assert json.loads(row["shape"]) == [channels, SIDE // f, SIDE // f]
        assert (drawn[f]["shape"], drawn[f]["model"]) == (row["shape"], row["path"])
        if f > 1:
            assert (row["first_stage"], channels) == (first[f]["path"], int(first[f]["latent_channels"]))
    pixels = commands(size == "full", 1, "cpu")["pixels"]
    assert f"path={ldm[1]['first_stage']}" in pixels


OWN = [
    ("first_stages", "autoencoder"),
    *(("denoisers", f"denoiser_{kind}") for kind in ("classes", "captions")),
    *(("drawn", f"draw_{kind}") for kind in ("classes", "captions")),
]


@pytest.mark.parametrize(("table", "workflow"), OWN)
def test_a_table_for_ones_own_pictures_fits_its_workflows(table: str, workflow: str) -> None:
    problems: list[Problem] = []
    texts = parse_table(ROOT / "workflows" / "own" / f"{table}.csv", problems)
    assert texts is not None
    assert len(make_grid(load_workflow(ROOT / "workflows" / "own" / f"{workflow}.yaml").graph, {}, [texts], problems))


def test_the_tables_for_ones_own_pictures_fit_each_other() -> None:
    first, ldm, drawn = (
        read(ROOT / "workflows" / "own" / f"{name}.csv") for name in ("first_stages", "denoisers", "drawn")
    )
    for stage, denoiser, picture in zip(first, ldm, drawn, strict=True):
        f = int(stage["patch"]) * 2 ** (len(json.loads(stage["multipliers"])) - 1)
        assert (stage["path"], stage["latent_channels"]) == (denoiser["first_stage"], denoiser["latent_channels"])
        assert picture["model"] == denoiser["path"]
        assert json.loads(picture["shape"]) == [int(stage["latent_channels"]), SIDE // f, SIDE // f]


@pytest.mark.parametrize("full", [False, True])
def test_the_commands_name_parameters_that_are_there(full: bool) -> None:
    for name, (command, workflow, *words) in commands(full, 2, "cpu").items():
        graph = load_workflow(ROOT / workflow).graph
        options = list(pairwise(words))
        names = [value.split("=")[0] for option, value in options if option in ("--set", "--grid")]
        assert set(names) <= set(graph.params), name
        assert ("--from", str((SIZES["full" if full else "small"] / f"{name}.csv").relative_to(ROOT))) in options or (
            command == "run"
        )


def test_steps_of_equal_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = {"1": 2.0, "2": 1.0, "4": 0.5, "8": 0.25, "16": 0.125}
    monkeypatch.setattr(equal_compute, "seconds_of", lambda workflow, row, steps, device: 9 + each[row["f"]] * steps)
    out = tmp_path / "here.csv"
    for folder, seconds in ((EXPERIMENTS, "60"), (EXPERIMENTS / "full", "100")):  # of three stages, and of five
        sweep_file = folder / "ldm.csv"
        monkeypatch.setattr("sys.argv", ["equal_compute", str(sweep_file), "--seconds", seconds, "-o", str(out)])
        equal_compute.main()
        assert {f: row["steps"] for f, row in rows(out).items()} == {1: "10", 2: "20", 4: "40", 8: "80", 16: "160"}
        unlike = [{**row, "steps": ""} for row in rows(sweep_file).values()]
        assert [{**row, "steps": ""} for row in rows(out).values()] == unlike


def reduce_experiment(name: str, folder: Path, **more: str) -> Path:
    """The shipped table with f = 16 alone, and other settings."""
    row = {**rows(EXPERIMENTS / f"{name}.csv")[16], **more}
    path = folder / f"{name}.csv"
    path.write_text(",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n")
    return path


@pytest.mark.slow
def test_the_chain_runs_at_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(name: str, table: Path, *more: str) -> list[dict[str, str]]:
        words = ["sweep", EXPERIMENTS / f"{name}.yaml", "--from", table, "--out", tmp_path / name, *more]
        done = process(words, tmp_path)
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "table.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    tiny = ["--set", "channels=16", "--set", "batch=4"]
    for kind in ("kl", "vq"):
        name = f"first_stage_{kind}"
        (cell,) = sweep(name, reduce_experiment(name, tmp_path, steps="3", count="8"), *tiny)
        assert math.isfinite(float(cell["table.psnr"]))
    ldm = reduce_experiment("ldm", tmp_path, steps="2", stages="2", count="8", references="16")
    sweep("ldm", ldm, *tiny, "--set", "sampling_steps=2")
    with (tmp_path / "ldm" / "tables" / "table.csv").open(encoding="utf-8", newline="") as file:
        assert [row["stage"] for row in csv.DictReader(file)] == ["0", "1"]
    monkeypatch.chdir(tmp_path)
    assert equal_compute.seconds_of(EXPERIMENTS / "ldm.yaml", read(ldm)[0], 2, "cpu") > 0
    table = reduce_experiment("sampling", tmp_path, steps="2", count="8", references="16")
    drawn = sweep("sampling", table, "--grid", "sampler=ddim,dpmpp_2m")
    assert [(row["sampler"], row["steps"]) for row in drawn] == [("ddim", "2"), ("dpmpp_2m", "2")]
    assert all(float(row["per_second"]) > 0 for row in drawn)
