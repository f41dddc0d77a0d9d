"""A run.json or sweep.json that is a pipe, a device or a file of 5 GB hangs no command, and hides no other record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph.graph.node import Registry
from guidegraph_page.gallery import list_runs
from guidegraph_page.grids import list_grids, read_grid
from guidegraph_runtime.pictures.png import encode_png
from tests.commands.command import Command
from tests.commands.test_run import DRAW
from tests.must_end import must_end

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
STRANGE = ["pipe", "device", "hole", "folder", "deep", "brackets", "other types"]


@pytest.fixture(autouse=True)
def _must_end() -> Iterator[None]:
    with must_end(60):
        yield


def make_strange(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "hole":
        with path.open("wb") as file:
            file.truncate(5 << 30)
    elif kind == "folder":
        path.mkdir()
    elif kind == "deep":
        path.write_text('{"parameters": ' + '{"a": ' * 900 + "1" + "}" * 901)
    elif kind == "brackets":
        path.write_text('{"status": "running", "a": [' + "[]," * 1_100_000 + "[]]}")
    else:
        path.write_text('{"status": [], "outputs": 5, "workflow": [], "parameters": "x", "seconds": {}, "started": {}}')


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind != "folder"])
def test_a_run_and_a_sweep_take_the_place_of_a_strange_record(cli: Command, kind: str) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    Path("out").mkdir()
    make_strange(Path("out/run.json"), kind)
    result = cli("run", workflow, "--out", "out")
    assert result.code == 0, result.err
    assert json.loads(Path("out/run.json").read_bytes())["status"] == "done"
    Path("swept").mkdir()
    make_strange(Path("swept/sweep.json"), kind)
    result = cli("sweep", workflow, "--seeds", "1", "--out", "swept")
    assert result.code == 2
    assert "another-sweep" in result.err


@pytest.mark.parametrize("kind", STRANGE)
def test_the_page_and_a_report_show_the_other_runs(cli: Command, kind: str) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert cli("run", workflow, "--out", "runs/b").code == 0
    for name in ("a", "c"):
        Path("runs", name).mkdir()
        make_strange(Path("runs", name, "run.json"), kind)
    Path("runs/d").mkdir()
    make_strange(Path("runs/d/sweep.json"), kind)
    assert "b" in [row["folder"] for row in list_runs(Registry({}), Path("runs"))["runs"]]
    assert (list_grids(Path("runs")), read_grid(Path("runs"), "d")) == ([], None)
    result = cli("report", "runs", "-o", "report.html")
    assert result.code == 0, result.err
    assert "image" in Path("report.html").read_text()


def test_the_text_of_a_picture_is_bounded_before_it_is_parsed(cli: Command) -> None:
    import numpy as np

    text = '{"format": 1, "a": [' + "[]," * 1_100_000 + "[]]}"
    Path("a.png").write_bytes(encode_png(np.zeros((2, 2, 3), np.uint8), {"guidegraph": text}))
    result = cli("run", "a.png")
    assert result.code == 2
    assert "expected JSON with at most 1,000,000 values" in result.err
