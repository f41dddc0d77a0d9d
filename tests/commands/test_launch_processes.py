"""``run --devices --nodes``: options that start several processes, and those that are refused."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from guidegraph import WorkflowError
from guidegraph.commands import launch_processes
from guidegraph.commands.launch_processes import LaunchError, Processes, check_processes, launch
from guidegraph.graph.ir import Graph
from guidegraph.graph.resolution.load import build
from tests.graph.engine_nodes import REGISTRY

TEXT = """guidegraph: 1
nodes:
  start: {use: toy.line}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}}
    train: [{model: net, loss: loss}]
outputs: {net: fit.net}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    (tmp_path / "train.yaml").write_text(TEXT)
    return build(tmp_path / "train.yaml", REGISTRY)


@pytest.mark.parametrize(
    ("processes", "several"),
    [
        (Processes(), False),
        (Processes(devices=1), False),
        (Processes(devices=2), True),
        (Processes(nodes=2, rendezvous="first:1"), True),  # a device on each machine
        (Processes(rank=1), True),
        (Processes(rendezvous="first:1"), True),
    ],
)
def test_options_that_start_several_processes(
    processes: Processes, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert processes.starts_others is several
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not processes.starts_others  # this process is one of several


@pytest.mark.parametrize(
    ("processes", "device", "message"),
    [
        (Processes(devices=2, rank=1), "cpu", "--node-rank:1:1: no-such-node: the machines are 0 … 0; found 1"),
        (Processes(rendezvous="first:1"), "cpu", "--rendezvous:1:1: one-node: .* give --nodes and --node-rank too"),
        (Processes(nodes=2), "cpu", "--rendezvous:1:1: no-rendezvous"),
        (Processes(devices=2), "cuda:1", "--device:1:1: one-device"),
        (Processes(devices=3), "cuda", "--devices:1:1: too-few-devices: .* found 2 on this machine for 3 processes"),
    ],
)
def test_impossible_combinations_are_refused(
    processes: Processes, device: str, message: str, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_processes, "count_cuda_devices", lambda: 2)
    with pytest.raises(WorkflowError, match=message):
        check_processes(processes, graph, device)
    check_processes(Processes(devices=2), graph, "cuda")


def end_with(codes: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Let each start of the processes end with these exit codes by rank; the list grows by one per start."""
    starts: list[None] = []

    def fail(*_: Any) -> None:
        starts.append(None)
        raise ChildFailedError("guidegraph", {rank: ProcessFailure(rank, 1, code, "") for rank, code in codes.items()})

    monkeypatch.setattr(launch_processes, "_elastic", fail)
    return starts


@pytest.mark.parametrize("codes", [{1: 2}, {0: -signal.SIGTERM, 1: 2}, {0: 2, 1: -signal.SIGTERM}])
def test_a_process_that_fails_by_itself_is_not_restarted(
    codes: dict[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = end_with(codes, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        launch(Processes(devices=2), ["run"], tmp_path)
    assert ended.value.code == 2
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("codes", "killed"),
    [
        ({0: -signal.SIGTERM, 1: -signal.SIGKILL}, "process 1 (signal 9)"),
        ({0: 1, 1: -signal.SIGKILL}, "process 1 (signal 9)"),
        ({0: 1, 1: -signal.SIGSEGV, 2: -signal.SIGTERM}, "process 1 (signal 11)"),
        ({1: -signal.SIGTERM}, "process 1 (signal 15)"),
    ],
)
def test_all_start_again_after_one_was_killed(
    codes: dict[int, int], killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = end_with(codes, monkeypatch)
    with pytest.raises(LaunchError) as ended:
        launch(Processes(devices=2, restarts=2), ["run"], tmp_path)
    assert str(ended.value) == f"{killed} was killed, after 2 restarts: the checkpoint is kept"
    assert len(starts) == 3
