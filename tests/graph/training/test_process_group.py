"""One of several processes of a training, as it starts and when the run is cancelled; the other one is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch

from guidegraph import Cancelled, NodeError
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from guidegraph.graph.training import run_training
from guidegraph.graph.training.checkpoint import read_state
from guidegraph.graph.training.ranks import ProcessGroup, Rank
from tests.graph.engine_nodes import run_text
from tests.graph.training.test_fit import text
from tests.graph.training.test_going_on import NESTED

Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Make this process one of two. step: the first step of the first process."""

    def use_two(index: int, step: int = 0) -> None:
        class OneOfTwo(ProcessGroup):
            def __init__(self, device: torch.device) -> None:
                super().__init__(device)
                self.rank = Rank(index, 2)

            def mean(self, tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
                return list(tensors)

            def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
                for tensor in tensors:
                    tensor.fill_(step)

        monkeypatch.setattr(run_training, "ProcessGroup", OneOfTwo)

    return use_two


def test_processes_that_would_go_on_from_different_steps_are_refused(tmp_path: Path, pretend: Pretend) -> None:
    run_text(text(4, checkpoint=True), tmp_path)
    pretend(1, step=4)
    assert len(run_text(text(6, checkpoint=True), tmp_path).outputs["loss"]) == 6
    for file in (tmp_path / "ckpt").iterdir():
        file.unlink()
    message = "process 1 of 2 would go on from step 0 of .*ckpt', and another .* must be readable by all machines"
    with pytest.raises(NodeError, match=message):
        run_text(text(6, checkpoint=True), tmp_path)


@pytest.mark.parametrize(("count", "done"), [(1, 3), (2, 4)])
def test_one_of_several_processes_ends_a_step_that_was_begun(
    tmp_path: Path, pretend: Pretend, count: int, done: int
) -> None:
    """One process alone ends at once, within the fourth step."""
    if count == 2:
        pretend(0)
    token, inner_steps = CancelToken(), []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.path.endswith("more"):
            inner_steps.append(event)
            if len(inner_steps) == 11:
                token.cancel()

    with pytest.raises(Cancelled):
        run_text(NESTED.replace("toy.normalised", "toy.line"), tmp_path, cancel=token, observers=[observe])
    state = read_state(tmp_path / "ckpt", "", check=False)
    assert state is not None
    assert state.step == done
