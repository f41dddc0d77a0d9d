"""The rows of a batch for each rank, and random numbers that do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidegraph.graph.training.ranks import Rank, local_rows, process_rank, take_rank_rows, use_rank
from guidegraph.nodes.conditioning import condition, mask
from guidegraph.nodes.sampling import noise
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.training.timesteps import uniform_timesteps
from guidegraph.nodes.types import Condition
from guidegraph_lab import augmentations as changes


class Batch(NamedTuple):
    image: torch.Tensor
    caption: tuple[str, ...]
    weights: torch.Tensor


def test_a_share_has_its_rows_of_tensors_and_lists() -> None:
    batch = Batch(torch.arange(6.0)[:, None], tuple("abcdef"), torch.ones(3))
    parts = [take_rank_rows(batch, Rank(i, 3)) for i in range(3)]
    assert [part.caption for part in parts] == [("a", "b"), ("c", "d"), ("e", "f")]
    assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
    assert all(part.weights is batch.weights for part in parts)  # no row's: it has another leading axis
    assert take_rank_rows(batch, Rank()) is batch
    nested = take_rank_rows({"one": batch, "condition": Condition(vector=batch.image)}, Rank(1, 2))
    assert nested["condition"].vector.tolist() == [[3], [4], [5]]
    assert nested["one"].caption == ("d", "e", "f")


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 cannot be shared by 4 processes"):
        take_rank_rows(Batch(torch.zeros(6, 1), (), torch.zeros(1)), Rank(0, 4))
    with pytest.raises(ValueError, match="no tensor with a leading batch axis"):
        take_rank_rows(("a", "b"), Rank(0, 2))


def test_the_launcher_says_which_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_rank() == Rank()  # left over by something else
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert process_rank() == Rank(1, 2)


IMAGE = torch.linspace(-1, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)
SCHEDULE = schedules.cosine(train_steps=100)
DRAWS: dict[str, Callable[[Batch], Any]] = {
    "noise.gaussian": lambda b: noise.gaussian(b.image, 3, seed=7),
    "noise.gaussian, seeds": lambda b: noise.gaussian(b.image, 3, seed=[5, 9, 2, 40]),
    "noise.gaussian, torch": lambda b: noise.gaussian(b.image, 1, seed=7, rng="torch"),
    "timesteps.uniform": lambda b: uniform_timesteps(b.image, SCHEDULE, 3, seed=1),
    "condition.drop": lambda b: condition.drop_condition(Condition(vector=b.image), 2, p=0.5, seed=4).vector,
    "data.drop_labels": lambda b: changes.drop_labels(torch.ones(len(b.image)).long(), 2, classes=9, p=0.5, seed=6),
    "data.drop_captions": lambda b: changes.drop_captions(b.caption, 3, p=0.5, seed=5),
    "data.jitter": lambda b: changes.jitter(b.image, 2, seed=1),
    "data.soil": lambda b: changes.soil_images(b.image, 2, seed=1),
    "data.degrade": lambda b: changes.degrade_images(b.image, 2, seed=1),
    "mask.random": lambda b: mask.random_mask(b.image, 2, seed=1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_for_a_row_does_not_depend_on_the_processes(name: str) -> None:
    whole = Batch(IMAGE, tuple("abcd"), torch.zeros(1))
    expected = tree_leaves(DRAWS[name](whole))
    parts = []
    for i in range(2):
        with use_rank(Rank(i, 2)):
            parts.append(tree_leaves(DRAWS[name](take_rank_rows(whole, Rank(i, 2)))))
    if isinstance(expected[0], str):
        assert parts[0] + parts[1] == expected
        return
    assert torch.equal(torch.cat([parts[0][0], parts[1][0]]), expected[0])


def test_alone_nothing_more_is_drawn() -> None:
    asked: list[int] = []
    local_rows(3, asked.append)
    with use_rank(Rank(1, 4)):
        local_rows(3, lambda count: asked.append(count) or range(count))
    assert asked == [3, 12]
