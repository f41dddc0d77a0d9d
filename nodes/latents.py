"""Latents of a data set, encoded once: what a denoiser trains on when its first stage is frozen."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Ge

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.data.batches import SceneBatch
from guidegraph.nodes.types import Autoencoder, Latent, SemanticMap

if TYPE_CHECKING:
    import torch


class LatentBatch(NamedTuple):
    """A SceneBatch with its latent (B, C, h, w), as `autoencoder.encode` gives it, in place of its pictures."""

    latent: Latent
    semantic: SemanticMap
    label: Tensor
    caption: Sequence[str]


class Latents(NamedTuple):
    batches: Sequence[LatentBatch]


@node("data.latents")
def latents(batches: Sequence[SceneBatch], autoencoder: Autoencoder, *, count: Annotated[int, Ge(1)] = 1000) -> Latents:
    """The first `count` batches of a data set with their latents, each made when it is first asked for and then kept.

    So the first round of a training costs the encoder, and later rounds cost nothing. Latents are kept in memory as
    float16 and given as float32, semantic maps are kept packed: about 2.4 kB for a scene at f = 4.
    """
    return Latents(LatentBatches(batches, autoencoder, min(count, len(batches)), current_device()))


class Kept(NamedTuple):
    """What is kept of a batch: its latent in float16, its map as packed class indices, the rest as it is."""

    latent: Tensor
    semantic: bytes
    shape: tuple[int, ...]
    label: Tensor
    caption: Sequence[str]


class LatentBatches(Sequence[LatentBatch]):
    """`length` batches on a device; batch i is that of `batches`, encoded the first time it is asked for.

    Batch i is then the same whenever it is asked for, and on whatever thread: the next may be made on one.
    """

    prefetch = True

    def __init__(
        self, batches: Sequence[SceneBatch], autoencoder: Autoencoder, length: int, device: torch.device
    ) -> None:
        self.batches, self.autoencoder, self.length, self.device = batches, autoencoder, length, device
        self.kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        i = operator.index(index)
        if not -self.length <= i < self.length:
            raise IndexError(f"batch {i} of {self.length}")
        i %= self.length
        if i not in self.kept:
            self.kept[i] = pack(self.batches[i], self.autoencoder, self.device)
        return unpack(self.kept[i], self.device)


def pack(batch: SceneBatch, autoencoder: Autoencoder, device: torch.device) -> Kept:
    """Encode the pictures of a batch, in full precision, and pack its map."""
    import torch

    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        latent = autoencoder.encode(batch.image.to(device)).half().cpu()
    classes = batch.semantic.argmax(1).to("cpu", torch.uint8)
    packed = zlib.compress(classes.numpy().tobytes(), 1)
    return Kept(latent, packed, tuple(batch.semantic.shape), batch.label.cpu(), batch.caption)


def unpack(kept: Kept, device: torch.device) -> LatentBatch:
    """The batch again, on a device."""
    import torch

    size, _, height, width = kept.shape
    raw = bytearray(zlib.decompress(kept.semantic))
    classes = torch.frombuffer(raw, dtype=torch.uint8).reshape(size, 1, height, width).long()
    semantic = torch.zeros(kept.shape).scatter_(1, classes, 1)
    return LatentBatch(kept.latent.to(device).float(), semantic.to(device), kept.label.to(device), kept.caption)
