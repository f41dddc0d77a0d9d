"""A checkpoint that cannot be written, or that another training writes."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import NodeError
from guidegraph.graph.events import Event, LoopProgress
from guidegraph_runtime.files.locks import hold_lock
from tests.graph.engine_nodes import run_text
from tests.graph.training.test_fit import text
from tests.os_limits import file_limit
from tests.runtime.files.test_temporary_names import make_stale_file

LOCK = ".state.safetensors.lock"


@pytest.fixture
def limits_kept() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_after(step: int) -> list[object]:
    """An observer from whose step on no file has room."""

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return [observe]


@pytest.mark.usefixtures("limits_kept")
def test_without_room_the_earlier_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = run_text(text(20, dropout=0.3), tmp_path / "whole").outputs["loss"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(NodeError) as failed:
        run_text(text(20, checkpoint=True, dropout=0.3), tmp_path, observers=fill_after(13))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(failed.value)
    assert "node-failed: nodes.fit (loop): the checkpoint after 15 steps, " in message
    assert "state.safetensors' cannot be written: it would be larger than a file may be here" in message
    assert message.endswith("the earlier one is whole: the same run, started again, goes on from it")
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["state.safetensors"]
    seen: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            seen.append(event.done)

    resumed = run_text(text(20, checkpoint=True, dropout=0.3), tmp_path, observers=[observe]).outputs["loss"]
    assert seen[0] == 11
    assert torch.equal(whole, resumed)


def test_without_room_for_the_first_one_nothing_is_left(tmp_path: Path) -> None:
    with file_limit(700), pytest.raises(NodeError, match=r"after 5 steps, .* there is no earlier one$"):
        run_text(text(20, checkpoint=True), tmp_path)
    assert not (tmp_path / "ckpt").exists()


def test_a_folder_that_nobody_may_write_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refuse_lock(path: Any, *options: Any) -> int:
        if os.fspath(path).endswith(LOCK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_file(path, *options)

    monkeypatch.setattr(os, "open", refuse_lock)
    steps: list[Event] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            steps.append(event)

    with pytest.raises(NodeError, match=r"ckpt/\.state.* cannot be written: permission denied; write to "):
        run_text(text(10, checkpoint=True), tmp_path, observers=[observe])
    assert steps == []


def test_two_trainings_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    with (
        hold_lock(folder / LOCK, folder, "a training"),
        pytest.raises(NodeError, match="the checkpoint is in use: a train"),
    ):
        run_text(text(10, checkpoint=True), tmp_path)
    run_text(text(10, checkpoint=True), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]


def test_a_training_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    folder.mkdir()
    make_stale_file(folder / "state.safetensors")
    (folder / LOCK).write_text("")
    run_text(text(10, checkpoint=True), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]
