"""Nodes of the data sets: indexable batches for training loops, and single batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.nodes.training.batches import FunctionBatches
from guidegraph_scenes.batches import EmojiBatch, SceneBatch, emoji_batch, scene_batch
from guidegraph_scenes.fashion import FashionBatch, consecutive_fashion_batch, fashion_batch

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Probability: TypeAlias = Annotated[float, Ge(0), Le(1)]


class Scenes(NamedTuple):
    batches: Sequence[SceneBatch]


@node("data.scene")
def scene(*, seed: Seed = 0, batch: Count = 1, split: Literal["train", "held_out", "all"] = "held_out") -> SceneBatch:
    """Composed scenes 0 to batch − 1 of the data set `seed`, by default with held-out pairs of objects.

    image (B, 3, 64, 64), semantic (B, K, 64, 64), label (B, K) and B captions, as an input or a test set.
    split: as for `data.scenes`.
    """
    scenes_batch = scene_batch(seed, batch, 0, split=split, single=0.25, partial=0.1)
    device, dtype = current_device(), current_dtype()
    return SceneBatch(
        scenes_batch.image.to(device, dtype),
        scenes_batch.semantic.to(device, dtype),
        scenes_batch.label.to(device, dtype),
        scenes_batch.caption,
    )


class EmojiPictures(NamedTuple):
    batches: Sequence[EmojiBatch]


@node("data.scenes")
def scenes(
    *,
    seed: Seed = 0,
    batch: Count = 64,
    count: Count = 1250,
    split: Literal["train", "held_out", "all"] = "train",
    single: Probability = 0.25,
    partial: Probability = 0.1,
) -> Scenes:
    """`count` batches of composed scenes; scene i depends on (seed, i) alone.

    batch: scenes in each batch.
    split: 20 % of the pairs of objects are held out and never occur in `train`. single: fraction of scenes with one
    object; partial: fraction of captions without the sky or the ground (both are 0 in the held-out split).
    """
    return Scenes(FunctionBatches(count, bind(scene_batch, seed, batch, split=split, single=single, partial=partial)))


@node("data.emoji")
def emoji(*, seed: Seed = 0, batch: Count = 64, count: Count = 1000, category: str | None = None) -> EmojiPictures:
    """`count` batches of single emoji on white with captions, of one category or all; batch i depends on (seed, i)."""
    return EmojiPictures(FunctionBatches(count, bind(emoji_batch, seed, batch, category=category)))


class FashionPictures(NamedTuple):
    batches: Sequence[FashionBatch]


@node("data.fashion_mnist")
def fashion_mnist(
    *,
    seed: Seed = 0,
    batch: Count = 64,
    count: Count = 1000,
    split: Literal["train", "test"] = "train",
    folder: Path | None = None,
    shuffle: bool = True,
) -> FashionPictures:
    """`count` batches of Fashion-MNIST's clothes, padded to 32 × 32, with their classes 0 … 9.

    split: the package holds 10,000 pictures of `train` and 2,000 of `test`. folder: a folder with all idx files, to use
    instead. shuffle: batch i is drawn with replacement and depends on (seed, i) alone; without it, pictures come in
    file order.
    """
    return FashionPictures(
        FunctionBatches(count, bind(fashion_batch, seed, batch, split=split, folder=folder, shuffle=shuffle))
    )


@node("data.fashion")
def fashion(
    *,
    start: Annotated[int, Ge(0)] = 0,
    batch: Count = 1,
    split: Literal["train", "test"] = "test",
    folder: Path | None = None,
) -> FashionBatch:
    """Fashion-MNIST's clothes start … start + batch − 1 in file order, starting over at the end, such as a test set.

    sample (B, 1, 32, 32), label (B), split and folder are as for `data.fashion_mnist`.
    """
    clothes = consecutive_fashion_batch(start, batch, split=split, folder=folder)
    device, dtype = current_device(), current_dtype()
    return FashionBatch(clothes.sample.to(device, dtype), clothes.label.to(device))
