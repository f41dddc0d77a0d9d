"""``guidegraph sweep --ray``: the same pictures as without Ray, one model per worker, and lost workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.lab.tests.sweep.test_sweep import SLEEP, finished_cells, table
from tests.commands.command import ROOT, TOYS, environment, start

pytest.importorskip("ray", reason="Ray is an extra; sweeps run as a loop without it")
pytestmark = pytest.mark.slow

CELLS = ("--grid", "scale=1,2,4", "--seeds", "0:20", "--set", "steps=2")

WHERE = """
import os
from guidegraph import hookimpl, node


@node("where.node", pure=False)
def where() -> str:
    \"\"\"The node of Ray that this runs on, and its process.\"\"\"
    import ray

    return f"{ray.get_runtime_context().get_node_id()} {os.getpid()}" if ray.is_initialized() else "here"


@hookimpl
def guidegraph_nodes():
    return [where]
"""


@pytest.fixture
def workflow(tmp_path: Path) -> list[str | Path]:
    """text_to_image.yaml with a further output that names the Ray node and the process."""
    text = (ROOT / "workflows" / "text_to_image.yaml").read_text()
    changed = text.replace("outputs: {", "  where: {use: where.node}\noutputs: {where: where, ")
    (tmp_path / "draw.yaml").write_text(changed)
    (tmp_path / "where.py").write_text(WHERE)
    return [tmp_path / "draw.yaml", "--plugin", tmp_path / "where.py"]


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guidegraph", "sweep", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)


def pictures(folder: Path) -> dict[str, bytes]:
    return {row["cell"]: (folder / row["image"]).read_bytes() for row in table(folder)}


def origins(folder: Path) -> list[str]:
    records = [json.loads((folder / "cells" / row["cell"] / "run.json").read_text()) for row in table(folder)]
    return [record["origins"]["nodes.model"] for record in records]


def test_one_and_two_workers_give_the_same_pictures_as_the_loop(tmp_path: Path, workflow: list[str | Path]) -> None:
    for out, more in (
        ("loop", []),
        ("one", ["--ray", "local", "--workers", "1"]),
        ("two", ["--ray", "local", "--workers", "2"]),
    ):
        result = run(tmp_path, *workflow, *CELLS, "--out", out, *more)
        assert result.returncode == 0, result.stderr
        assert "60 cells: 60 done (0 before), 0 failed" in result.stdout
    loop = pictures(tmp_path / "loop")
    assert len(loop) == 60
    assert len(set(loop.values())) == 60
    assert pictures(tmp_path / "one") == loop
    assert pictures(tmp_path / "two") == loop
    for out, workers in (("one", 1), ("two", 2)):
        processes = {row["where"] for row in table(tmp_path / out)}
        assert len(processes) == workers
        assert origins(tmp_path / out).count("computed") == workers


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    local = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield local
    local.shutdown()


def test_no_cell_is_lost_when_a_node_is_killed(tmp_path: Path, workflow: list[str | Path], cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    arguments: list[str | Path] = ["sweep", *workflow, *CELLS, "--out", "out", "--ray", cluster.address, "--json"]
    process = start(arguments, tmp_path)
    assert process.stdout is not None
    events = [json.loads(process.stdout.readline()) for _ in range(31)]
    nodes = {row.read_text().split()[0] for row in (tmp_path / "out" / "cells").glob("[!.]*/where.json")}
    assert len(nodes) == 2
    before = finished_cells(tmp_path / "out")
    cluster.remove_node(node, allow_graceful=False)
    events += [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait(60) == 0
    assert sum(event["event"] == "cell_finished" for event in events) == 60
    assert (events[-1]["done"], events[-1]["failed"]) == (60, 0)
    assert before.items() <= finished_cells(tmp_path / "out").items()
    result = run(tmp_path, *workflow, *CELLS, "--out", "loop")
    assert result.returncode == 0, result.stderr
    assert pictures(tmp_path / "out") == pictures(tmp_path / "loop")


def test_a_cluster_without_gpus_is_an_error_at_once(tmp_path: Path, workflow: list[str | Path], cluster: Any) -> None:
    result = run(tmp_path, *workflow, *CELLS, "--out", "out", "--ray", cluster.address, "--device", "cuda")
    assert result.returncode == 2
    assert "--device: no-device: 'cuda' was asked for, and no machine of this Ray has a GPU" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_driver_resumes_with_the_missing_cells(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "sleep.yaml").write_text(SLEEP)
    arguments: list[str | Path] = ["sweep", "sleep.yaml", "--seeds", "0:60", "--out", "out", "--ray", "local"]
    arguments += ["--workers", "2", "--plugin", TOYS]
    process = start([*arguments, "--json"], tmp_path)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(number)
    process.stdout.read()
    assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    before = finished_cells(tmp_path / "out")
    assert 19 <= len(before) < 60
    result = run(tmp_path, *arguments[1:])
    assert result.returncode == 0, result.stderr
    assert f"{len(before)} of 60 cells are done already" in result.stderr
    assert before.items() <= finished_cells(tmp_path / "out").items()
    assert len(finished_cells(tmp_path / "out")) == 60


def test_a_failing_cell_is_not_retried_and_one_whose_worker_died_is(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\nfrom pathlib import Path\nfrom guidegraph import hookimpl, node\n\n\n"
        "@node('dies.once', pure=False)\ndef once(*, name: str, how: str) -> int:\n"
        "    '''Appends to a file; the first call dies, and any call may fail.'''\n"
        "    path = Path(name)\n    with path.open('a') as file:\n        file.write('x')\n"
        "    if how == 'fail':\n        raise ValueError('it fails')\n"
        "    if path.stat().st_size == 1:\n        os._exit(1)\n    return 1\n\n\n"
        "@hookimpl\ndef guidegraph_nodes():\n    return [once]\n"
    )
    (tmp_path / "w.yaml").write_text(
        "guidegraph: 1\nparams: {name: {type: str}, how: {type: str}}\nnodes:\n"
        "  n: {use: dies.once, in: {name: params.name, how: params.how}}\noutputs: {n: n}\n"
    )
    (tmp_path / "rows.csv").write_text(f"name,how\n{tmp_path}/dies.txt,die\n{tmp_path}/fails.txt,fail\n")
    result = run(tmp_path, "w.yaml", "--from", "rows.csv", "--out", "out", "--ray", "local", "--plugin", "dies.py")
    assert result.returncode == 1, result.stderr
    rows = table(tmp_path / "out")
    assert [(row["status"], row["n"]) for row in rows] == [("done", "1"), ("failed", "")]
    assert "ValueError: it fails" in rows[1]["message"]
    assert ((tmp_path / "dies.txt").read_text(), (tmp_path / "fails.txt").read_text()) == ("xx", "x")


def test_an_address_without_ray_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sleep.yaml").write_text(SLEEP)
    result = run(tmp_path, "sleep.yaml", "--seeds", "0:2", "--plugin", TOYS, "--ray", "127.0.0.1:1", "--out", "out")
    assert result.returncode == 2
    assert "--ray: no-ray: no Ray answers at '127.0.0.1:1'" in result.stderr
