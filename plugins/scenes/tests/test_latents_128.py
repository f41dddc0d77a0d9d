"""Latents of scenes of 128 pixels: each scene is encoded once and used several times."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.training.batches import FunctionBatches
from guidegraph.nodes.types import Autoencoder
from guidegraph_scenes.batches import SceneBatch128
from guidegraph_scenes.latents import ReusedLatents, latents_128

LENGTH, BATCH = 40, 2


class Encoder:
    """Counts the pictures that it encodes; a latent holds the number of its scene."""

    def __init__(self) -> None:
        self.encoded: Counter[int] = Counter()

    def encode(self, image: Tensor) -> Tensor:
        numbers = ((image + 1) * 127.5).round()
        self.encoded.update(numbers[:, 0, 0, 0].int().tolist())
        return numbers[:, :, ::8, ::8]


def level(number: Tensor) -> Tensor:
    """The brightness in [-1, 1] of a byte."""
    return number.float() / 127.5 - 1


def number_scenes(index: int) -> SceneBatch128:
    """Scenes whose every value is their number, and in pictures `level` of it."""
    numbers = torch.arange(BATCH * index, BATCH * (index + 1))
    return SceneBatch128(
        image=level(numbers)[:, None, None, None].expand(BATCH, 3, 128, 128),
        caption=tuple(f"scene {number}" for number in numbers.tolist()),
        object=numbers[:, None].expand(BATCH, 4),
        colour=numbers[:, None].expand(BATCH, 4),
        box=numbers[:, None, None].expand(BATCH, 4, 4).float(),
        classes=numbers[:, None, None].expand(BATCH, 128, 128).to(torch.uint8),
        sky=numbers,
        captions=tuple((f"scene {number}", f"{number} again") for number in numbers.tolist()),
    )


def reuse(encoder: Encoder, times: int, spread: int) -> ReusedLatents:
    scenes = FunctionBatches(LENGTH, number_scenes)
    batches = latents_128(scenes, cast(Autoencoder, encoder), times=times, spread=spread).batches
    assert isinstance(batches, ReusedLatents)
    return batches


def test_a_batch_joins_the_scenes_of_earlier_ones_and_all_its_fields_agree() -> None:
    batch = reuse(Encoder(), times=3, spread=5)[12]
    numbers = [24, 25, 14, 15, 4, 5]
    assert batch.latent.shape == (6, 3, 16, 16)
    assert batch.latent.dtype == torch.float32
    assert batch.latent[:, 0, 0, 0].tolist() == numbers
    assert batch.caption == ("scene 24", "scene 25", "14 again", "15 again", "scene 4", "scene 5")
    assert batch.captions == tuple((f"scene {number}", f"{number} again") for number in numbers)
    for field in (batch.object, batch.colour, batch.box.flatten(1), batch.classes.flatten(1), batch.sky[:, None]):
        assert field[:, -1].tolist() == numbers
    assert torch.equal(batch.image[:, 2, -1, -1], level(torch.tensor(numbers)))


def test_each_scene_is_encoded_once_and_used_as_often_as_set() -> None:
    encoder = Encoder()
    batches = reuse(encoder, times=4, spread=3)
    used = Counter(int(number) for i in range(LENGTH) for number in batches[i].latent[:, 0, 0, 0])
    assert set(used.values()) == {4}
    assert set(used) == set(range(LENGTH * BATCH))
    again = {number for number, count in encoder.encoded.items() if count > 1}
    assert again == set(range(2 * (LENGTH - 9), 2 * LENGTH))  # the last scenes, with which the first batches begin
    assert len(batches.cache) == 3 * 3 + 1


def test_a_batch_is_the_same_after_others_and_alone() -> None:
    in_order = reuse(Encoder(), times=3, spread=4)
    for i in range(20):
        last = in_order[i]
    alone = reuse(Encoder(), times=3, spread=4)[19]
    assert torch.equal(last.latent, alone.latent)
    assert last.caption == alone.caption


def test_a_resumed_training_encodes_whole_batches_until_the_scenes_come_again() -> None:
    encoder, counts = Encoder(), list[int]()
    batches = reuse(encoder, times=3, spread=4)
    for i in range(20, 28):
        before = encoder.encoded.total()
        batches[i]
        counts.append(encoder.encoded.total() - before)
    assert counts == [3 * BATCH] * 4 + [BATCH] * 4


@pytest.mark.parametrize("times", [1, 50])
def test_a_data_set_shorter_than_the_reuse_starts_over(times: int) -> None:
    numbers = reuse(Encoder(), times=times, spread=1)[0].latent[:, 0, 0, 0].tolist()
    assert numbers == [number for use in range(times) for number in (2 * (-use % LENGTH), 2 * (-use % LENGTH) + 1)]


class Recorder(Encoder):
    """Encodes as `Encoder`, and records whether autocast is on."""

    def encode(self, image: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        return super().encode(image)


def test_scenes_are_encoded_in_full_precision_inside_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reuse(Recorder(), times=1, spread=1).load(0)


def test_encoding_leaves_the_cache_of_autocast_alone_which_all_threads_share(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pass
    assert cleared == [True]  # as torch does when a context ends
    reuse(Recorder(), times=1, spread=1)[0]
    assert cleared == [True]
