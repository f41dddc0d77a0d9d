"""``run --devices --nodes``: options that start several processes, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph import WorkflowError
from guidegraph.commands import launch_processes
from guidegraph.commands.launch_processes import Processes, check_processes
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
