"""Nodes that change a batch of any data set at random: dropped labels and captions, shifts, and damage to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge, Le

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.types import Image, Label, Sample
from guidegraph.nodes.uniforms import DROPS, MOVES, uniforms
from guidegraph_runtime.noise import raw_bits

Seed: TypeAlias = Annotated[int, Ge(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Probability: TypeAlias = Annotated[float, Ge(0), Le(1)]


@node("data.drop_labels")
def drop_labels(label: Label, index: int = 0, *, classes: Count, p: Probability = 0.1, seed: Seed = 0) -> Label:
    """Replace a fraction p of class labels (B) by `classes`, the null class, so that the model learns it too.

    Ho & Salimans 2022, algorithm 1. The choice depends on (seed, index) alone; `index` is the loop's.
    """
    uniform = local_rows(label.shape[0], lambda batch: uniforms(seed, index, batch, DROPS))
    is_dropped = torch.from_numpy(uniform < p).to(label.device)
    return torch.where(is_dropped, classes, label)


@node("data.degrade")
def degrade_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Blur, tint, soil, shift and mirror pictures at random, to make a detector robust.

    The damage depends on (seed, index) and on the batch's shape, not on the picture.
    """
    from guidegraph_lab.degrade import degrade

    return degrade(image.cpu(), _make_generator(seed, index)).to(image.device)


@node("data.soil")
def soil_images(image: Image, index: int = 0, *, seed: Seed = 0) -> Image:
    """Blur, tint and soil pictures at random, without moving anything, to make a segmenter robust.

    The damage depends on (seed, index) and on the batch's shape, as for `data.degrade`.
    """
    from guidegraph_lab.degrade import soil

    return soil(image.cpu(), _make_generator(seed, index)).clamp(-1, 1).to(image.device)


def _make_generator(seed: int, index: int) -> Any:
    return torch.Generator().manual_seed(int(raw_bits(seed, 1, index)[0] >> 1))


@node("data.jitter")
def jitter(sample: Sample, index: int = 0, *, pixels: Annotated[int, Ge(0)] = 2, seed: Seed = 0) -> Sample:
    """Shift samples (B, C, H, W) by up to `pixels` each and mirror half of them, depending on (seed, index) alone."""

    from guidegraph_lab.degrade import shift_and_mirror

    u = local_rows(sample.shape[0], lambda batch: uniforms(seed, index, 3 * batch, MOVES).reshape(-1, 3))
    return shift_and_mirror(sample, pixels, torch.from_numpy(u.T).to(sample.device))


@node("data.drop_captions")
def drop_captions(caption: Sequence[str], index: int = 0, *, p: Probability = 0.1, seed: Seed = 0) -> Sequence[str]:
    """Replace a fraction p of captions by the empty prompt, so that the model learns the null condition.

    Ho & Salimans 2022, algorithm 1. The choice depends on (seed, index) alone; `index` is the loop's.
    """
    uniform = local_rows(len(caption), lambda batch: uniforms(seed, index, batch, DROPS))
    return tuple("" if value < p else text for text, value in zip(caption, uniform, strict=True))
