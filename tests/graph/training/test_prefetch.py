"""Batches that a thread prepares: they are made in the same context as those that the run's own thread makes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import NodeError, node
from guidegraph.graph.device_context import current_dtype
from guidegraph.graph.execution.run import RunConfig, run
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.trust.policy import Policy
from guidegraph_runtime.limits import Limits, current_limits
from tests.graph.engine_nodes import REGISTRY, Batch
from tests.graph.training.test_fit import text

contexts: list[tuple[str, int, torch.dtype]] = []


class Prefetched(Sequence[Batch]):
    """Batches that read a file, if they are given one, and note the context in which they are made."""

    prefetch = True

    def __init__(self, file: str) -> None:
        self.file = file

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: Any) -> Any:
        contexts.append((threading.current_thread().name, current_limits().file_bytes, current_dtype()))
        if self.file:
            read_regular(self.file)
        x = torch.ones(2, 3)
        return Batch(x, x.sum(1, keepdim=True))


@node("toy.prefetched")
def prefetched(*, file: str = "") -> Sequence[Batch]:
    """Batches that a thread prepares."""
    return Prefetched(file)


def train(folder: Path, config: RunConfig, file: str = "") -> None:
    path = folder / "workflow.yaml"
    data = f"use: toy.prefetched, with: {{file: '{file}'}}"
    path.write_text("guidegraph: 1\n" + text(3).replace("use: toy.batches", data))
    registry = Registry({**REGISTRY.nodes, "toy.prefetched": get_spec(prefetched)})
    contexts.clear()
    run(build(path, registry), {}, config)


def test_a_prepared_batch_has_the_limits_and_the_dtype_of_the_run(tmp_path: Path) -> None:
    train(tmp_path, RunConfig(limits=replace(Limits(), file_bytes=12345), dtype="float64"))
    assert contexts == [("guidegraph-batch_0", 12345, torch.float64)] * 3


def test_a_prepared_batch_of_a_stranger_reads_only_what_the_run_may_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    train(tmp_path, RunConfig(), str(secret))
    with pytest.raises(NodeError, match="it lies outside of what may be read"):
        train(tmp_path, RunConfig(policy=Policy(stranger=True)), str(secret))
