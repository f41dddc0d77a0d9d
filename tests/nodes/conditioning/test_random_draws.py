"""Random choices in a batch: independent of each other, and of the batch size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from guidegraph.nodes.conditioning.condition import drop_condition
from guidegraph.nodes.sampling.schedule import cosine
from guidegraph.nodes.training.timesteps import uniform_timesteps
from guidegraph.nodes.types import Condition
from guidegraph.nodes.uniforms import uniforms
from guidegraph_lab.augmentations import drop_captions, drop_labels, jitter

BATCH, BATCHES = 64, 40


def labels(index: int) -> torch.Tensor:
    return drop_labels(torch.zeros(BATCH, dtype=torch.int64), index, classes=1, p=0.2) == 1


def captions(index: int) -> torch.Tensor:
    return torch.tensor([not text for text in drop_captions(["a car"] * BATCH, index, p=0.2)])


def maps(index: int) -> torch.Tensor:
    spatial = drop_condition(Condition(spatial=torch.ones(BATCH, 1, 1, 1)), index, p=0.2).spatial
    assert spatial is not None
    return spatial.flatten() == 0


@pytest.mark.parametrize("dropped", [labels, captions, maps])
def test_every_picture_and_timestep_gets_the_null_condition_sometimes(dropped: Callable[[int], torch.Tensor]) -> None:
    gone = torch.cat([dropped(i) for i in range(BATCHES)])
    picture = torch.cat([torch.from_numpy(uniforms(0, i, BATCH)) for i in range(BATCHES)])
    like, schedule = torch.zeros(BATCH, 1, 2, 2), cosine()
    time = torch.cat([uniform_timesteps(like, schedule, i) for i in range(BATCHES)])
    in_stratum = time / schedule.train_steps * BATCH % 1
    for chosen in (picture, in_stratum):
        assert abs(float(chosen[gone].mean()) - float(chosen[~gone].mean())) < 0.08


def test_timesteps_are_independent_of_pictures() -> None:
    picture = torch.cat([torch.from_numpy(uniforms(0, i, BATCH)) for i in range(BATCHES)])
    like, schedule = torch.zeros(BATCH, 1, 2, 2), cosine()
    time = torch.cat([uniform_timesteps(like, schedule, i) for i in range(BATCHES)])
    in_stratum = time.double() / schedule.train_steps * BATCH % 1
    assert abs(float(torch.corrcoef(torch.stack([picture, in_stratum]))[0, 1])) < 0.1


def test_each_position_in_the_batch_gets_all_timesteps() -> None:
    like, schedule = torch.zeros(BATCH, 1, 2, 2), cosine()
    first = torch.stack([uniform_timesteps(like, schedule, i)[0] for i in range(BATCHES)])
    assert first.min() < 200
    assert first.max() > 800


def test_a_shift_depends_on_neither_the_picture_nor_the_batch_size() -> None:
    sample = torch.zeros(256, 1, 8, 8)
    sample[:, :, 4, 4] = 1
    moved = jitter(sample, 3, pixels=2, seed=5)
    torch.testing.assert_close(jitter(sample[:9], 3, pixels=2, seed=5), moved[:9])
    rows = moved.amax((1, 3)).argmax(1).double()
    picture = torch.from_numpy(uniforms(5, 3, 256))
    assert abs(float(torch.corrcoef(torch.stack([rows, picture]))[0, 1])) < 0.2
