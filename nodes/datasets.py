"""Data sets as nodes: indexable batches for training loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.share import own_rows
from guidegraph.nodes.data.batches import Batches, EmojiBatch, SceneBatch, emoji_batch, scene_batch
from guidegraph.nodes.data.fashion import FashionBatch, fashion_batch, fashion_from
from guidegraph.nodes.data.scenes import DROPS, MOVES, uniforms
from guidegraph.nodes.types import Image, Label, Sample
from guidegraph_runtime.noise import raw_bits

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]


class Scenes(NamedTuple):
    batches: Sequence[SceneBatch]


@node("data.scene")
def scene(*, seed: Seed = 0, batch: Count = 1, split: Literal["train", "held_out", "all"] = "held_out") -> SceneBatch:
    """Composed scenes 0 to batch − 1 of the data set `seed`, by default with pairs of objects that are held out.

    image (B, 3, 64, 64), semantic (B, K, 64, 64), label (B, K) and B captions: an input for a workflow, or a test set.
    split: as for `data.scenes`.
    """
    made = scene_batch(seed, batch, 0, split=split, single=0.25, partial=0.1)
    device, dtype = current_device(), current_dtype()
    return SceneBatch(
        made.image.to(device, dtype), made.semantic.to(device, dtype), made.label.to(device, dtype), made.caption
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
    single: Share = 0.25,
    partial: Share = 0.1,
) -> Scenes:
    """`count` batches of composed scenes; scene i depends on (seed, i) alone.

    batch: scenes in each.
    split: 20 % of the pairs of objects are held out and never occur in `train`. single: the share of scenes with one
    object; partial: of captions that leave out the sky or the ground (both are 0 in the held-out split).
    """
    return Scenes(Batches(count, bind(scene_batch, seed, batch, split=split, single=single, partial=partial)))


@node("data.emoji")
def emoji(*, seed: Seed = 0, batch: Count = 64, count: Count = 1000, category: str | None = None) -> EmojiPictures:
    """`count` batches of single emoji on white with captions, of one category or all; batch i depends on (seed, i)."""
    return EmojiPictures(Batches(count, bind(emoji_batch, seed, batch, category=category)))


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

    split: the package holds 10,000 pictures of `train` and 2,000 of `test`. folder: one with all of the idx files.
    shuffle: batch i is drawn with replacement and depends on (seed, i) alone; without it the pictures come in the
    file's order.
    """
    return FashionPictures(
        Batches(count, bind(fashion_batch, seed, batch, split=split, folder=folder, shuffle=shuffle))
    )


@node("data.fashion")
def fashion(
    *,
    start: Annotated[int, Ge(0)] = 0,
    batch: Count = 1,
    split: Literal["train", "test"] = "test",
    folder: Path | None = None,
) -> FashionBatch:
    """Fashion-MNIST's clothes start … start + batch − 1 in the file's order, round and round: a test set, say.

    sample (B, 1, 32, 32) and label (B), as `data.fashion_mnist` has them, and so are split and folder.
    """
    made = fashion_from(start, batch, split=split, folder=folder)
    device, dtype = current_device(), current_dtype()
    return FashionBatch(made.sample.to(device, dtype), made.label.to(device))


@node("data.drop_labels")
def drop_labels(label: Label, index: int = 0, *, classes: Count, p: Share = 0.1, seed: Seed = 0) -> Label:
    """Class labels (B) with a share p replaced by `classes`, the null class, so that the model learns that too.

    Ho & Salimans 2022, algorithm 1. Which ones depends on (seed, index) alone; `index` is the loop's.
    """
    import torch

    u = own_rows(label.shape[0], lambda batch: uniforms(seed, index, batch, DROPS))
    dropped = torch.from_numpy(u < p).to(label.device)
    return torch.where(dropped, classes, label)


@node("data.degrade")
def degrade_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Pictures blurred, tinted, soiled, shifted and mirrored, for a detector to bear.

    How depends on (seed, index) and on the batch's shape: what a picture suffers is not its own.
    """
    import torch

    from guidegraph.nodes.data.degrade import degrade

    generator = torch.Generator().manual_seed(int(raw_bits(seed, 1, index)[0] >> 1))
    return degrade(image.cpu(), generator).to(image.device)


@node("data.soil")
def soil_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Pictures blurred, tinted and soiled, with everything in its place, for a segmenter to bear.

    How depends on (seed, index) and on the batch's shape, as for `data.degrade`.
    """
    import torch

    from guidegraph.nodes.data.degrade import soil

    generator = torch.Generator().manual_seed(int(raw_bits(seed, 1, index)[0] >> 1))
    return soil(image.cpu(), generator).clamp(-1, 1).to(image.device)


@node("data.jitter")
def jitter(sample: Sample, index: int = 0, *, pixels: Annotated[int, Ge(0)] = 2, seed: Seed = 0) -> Sample:
    """Samples (B, C, H, W) moved by up to `pixels` each, half of them mirrored; how depends on (seed, index) alone."""
    import torch

    from guidegraph.nodes.data.degrade import shift_and_mirror

    u = own_rows(sample.shape[0], lambda batch: uniforms(seed, index, 3 * batch, MOVES).reshape(-1, 3))
    return shift_and_mirror(sample, pixels, torch.from_numpy(u.T).to(sample.device))


@node("data.drop_captions")
def drop_captions(caption: Sequence[str], index: int = 0, *, p: Share = 0.1, seed: Seed = 0) -> Sequence[str]:
    """Captions with a share p replaced by the empty prompt, so that the model learns the null condition.

    Ho & Salimans 2022, algorithm 1. Which ones depends on (seed, index) alone; `index` is the loop's.
    """
    u = own_rows(len(caption), lambda batch: uniforms(seed, index, batch, DROPS))
    return tuple("" if value < p else text for text, value in zip(caption, u, strict=True))
