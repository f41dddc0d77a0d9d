"""Data set nodes: indexable batches for training loops, and augmentations of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.training.batches import FunctionBatches
from guidegraph.nodes.types import Image, Label, Sample
from guidegraph.nodes.uniforms import DROPS, MOVES, uniforms
from guidegraph_runtime.noise import raw_bits
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


@node("data.drop_labels")
def drop_labels(label: Label, index: int = 0, *, classes: Count, p: Probability = 0.1, seed: Seed = 0) -> Label:
    """Replace a fraction p of class labels (B) by `classes`, the null class, so that the model learns it too.

    Ho & Salimans 2022, algorithm 1. The choice depends on (seed, index) alone; `index` is the loop's.
    """
    import torch

    uniform = local_rows(label.shape[0], lambda batch: uniforms(seed, index, batch, DROPS))
    is_dropped = torch.from_numpy(uniform < p).to(label.device)
    return torch.where(is_dropped, classes, label)


@node("data.degrade")
def degrade_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Blur, tint, soil, shift and mirror pictures at random, to make a detector robust.

    The damage depends on (seed, index) and on the batch's shape, not on the picture.
    """
    from guidegraph_scenes.degrade import degrade

    return degrade(image.cpu(), _make_generator(seed, index)).to(image.device)


@node("data.soil")
def soil_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Blur, tint and soil pictures at random, without moving anything, to make a segmenter robust.

    The damage depends on (seed, index) and on the batch's shape, as for `data.degrade`.
    """
    from guidegraph_scenes.degrade import soil

    return soil(image.cpu(), _make_generator(seed, index)).clamp(-1, 1).to(image.device)


def _make_generator(seed: int, index: int) -> Any:
    import torch

    return torch.Generator().manual_seed(int(raw_bits(seed, 1, index)[0] >> 1))


@node("data.jitter")
def jitter(sample: Sample, index: int = 0, *, pixels: Annotated[int, Ge(0)] = 2, seed: Seed = 0) -> Sample:
    """Shift samples (B, C, H, W) by up to `pixels` each and mirror half of them, depending on (seed, index) alone."""
    import torch

    from guidegraph_scenes.degrade import shift_and_mirror

    u = local_rows(sample.shape[0], lambda batch: uniforms(seed, index, 3 * batch, MOVES).reshape(-1, 3))
    return shift_and_mirror(sample, pixels, torch.from_numpy(u.T).to(sample.device))


@node("data.drop_captions")
def drop_captions(caption: Sequence[str], index: int = 0, *, p: Probability = 0.1, seed: Seed = 0) -> Sequence[str]:
    """Replace a fraction p of captions by the empty prompt, so that the model learns the null condition.

    Ho & Salimans 2022, algorithm 1. The choice depends on (seed, index) alone; `index` is the loop's.
    """
    uniform = local_rows(len(caption), lambda batch: uniforms(seed, index, batch, DROPS))
    return tuple("" if value < p else text for text, value in zip(caption, uniform, strict=True))
