"""Latents of a data set, each encoded once, to train a denoiser with a frozen first stage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge

from guidegraph.graph.device_context import current_device
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.precision import without_autocast
from guidegraph.graph.types import Tensor
from guidegraph.nodes.training.batches import Batches, one_hot
from guidegraph.nodes.types import Autoencoder, Image, Latent, SemanticMap
from guidegraph_scenes.batches import SceneBatch, SceneBatch128


class LatentBatch(NamedTuple):
    """A SceneBatch with the latent (B, C, h, w) of `autoencoder.encode` instead of its pictures."""

    latent: Latent
    semantic: SemanticMap
    label: Tensor
    caption: Sequence[str]


class Latents(NamedTuple):
    batches: Sequence[LatentBatch]


@node("data.latents")
def latents(batches: Sequence[SceneBatch], autoencoder: Autoencoder, *, count: Annotated[int, Ge(1)] = 1000) -> Latents:
    """The first `count` batches of a data set with latents, each encoded on first access and then cached.

    The encoder runs only in the first epoch of a training. Latents are cached in memory as float16 and returned as
    float32; semantic maps are compressed: about 2.4 kB per scene at f = 4.
    """
    return Latents(LatentBatches(batches, autoencoder, min(count, len(batches)), current_device()))


class PackedBatch(NamedTuple):
    """A cached batch: its latent in float16, its map as compressed class indices, other fields unchanged."""

    latent: Tensor
    semantic: bytes
    shape: tuple[int, ...]
    label: Tensor
    caption: Sequence[str]


class LatentBatches(Batches[LatentBatch]):
    """`length` batches on a device; batch i is the one in `batches`, encoded on first access."""

    def __init__(
        self, batches: Sequence[SceneBatch], autoencoder: Autoencoder, length: int, device: torch.device
    ) -> None:
        super().__init__(length)
        self.batches, self.autoencoder, self.device = batches, autoencoder, device
        self.cache: dict[int, PackedBatch] = {}

    def make(self, index: int) -> LatentBatch:
        """Batch `index`."""
        if index not in self.cache:
            self.cache[index] = pack(self.batches[index], self.autoencoder, self.device)
        return unpack(self.cache[index], self.device)


def pack(batch: SceneBatch, autoencoder: Autoencoder, device: torch.device) -> PackedBatch:
    """Encode the pictures of a batch and compress its map."""
    latent = encode_batch(batch.image, autoencoder, device)
    classes = batch.semantic.argmax(1).to("cpu", torch.uint8)
    packed = zlib.compress(classes.numpy().tobytes(), 1)
    return PackedBatch(latent, packed, tuple(batch.semantic.shape), batch.label.cpu(), batch.caption)


def encode_batch(image: Tensor, autoencoder: Autoencoder, device: torch.device) -> Tensor:
    """The latents of pictures, computed in full precision on a device, as float16 on the CPU."""
    with torch.no_grad(), without_autocast(device):
        latent: Tensor = autoencoder.encode(image.to(device)).half().cpu()
    return latent


def unpack(packed: PackedBatch, device: torch.device) -> LatentBatch:
    """Unpack a batch onto a device."""
    size, classes, *sides = packed.shape
    indices = np.frombuffer(zlib.decompress(packed.semantic), np.uint8).reshape(size, *sides)
    semantic = one_hot(indices, classes)
    return LatentBatch(packed.latent.to(device).float(), semantic.to(device), packed.label.to(device), packed.caption)


class LatentBatch128(NamedTuple):
    """A `SceneBatch128` with the latent (B, C, h, w) of `autoencoder.encode`."""

    latent: Latent
    image: Image
    caption: Sequence[str]
    object: Tensor
    colour: Tensor
    box: Tensor
    classes: Tensor
    sky: Tensor
    captions: Sequence[Sequence[str]]


class Latents128(NamedTuple):
    batches: Sequence[LatentBatch128]


@node("data.latents_128")
def latents_128(
    batches: Sequence[SceneBatch128],
    autoencoder: Autoencoder,
    *,
    times: Annotated[int, Ge(1)] = 8,
    spread: Annotated[int, Ge(1)] = 50,
) -> Latents128:
    """Batches of latents of scenes of 128 pixels, each scene drawn and encoded once and then used `times` times.

    Batch i joins `times` batches of scenes, i, i − spread, i − 2 · spread and so on, so it is `times` as large, and a
    scene comes again every `spread` batches, with the next of its captions. The first batches begin with the last
    scenes. A training draws other noise, another time and another dropout of the caption each time. The scenes of a
    batch differ if `batches` has times · spread or more; a shorter one starts over within a batch. After a start, and
    after a training was resumed, the first `spread` batches encode all their scenes, and the next ones only the new
    ones.
    At most times · spread batches of scenes are kept, in memory, with latents as float16 and pictures as bytes: 70 kB
    for each scene with a latent of 8 × 16 × 16.
    """
    return Latents128(ReusedLatents(batches, autoencoder, times, spread, current_device()))


class ReusedLatents(Batches[LatentBatch128]):
    """As many batches as `batches` has, on a device; see `data.latents_128`."""

    def __init__(
        self,
        batches: Sequence[SceneBatch128],
        autoencoder: Autoencoder,
        times: int,
        spread: int,
        device: torch.device,
    ) -> None:
        super().__init__(len(batches))
        self.batches, self.autoencoder, self.device = batches, autoencoder, device
        self.times, self.spread = times, spread
        self.cache: dict[int, LatentBatch128] = {}

    def make(self, index: int) -> LatentBatch128:
        """Batch `index`."""
        self.drop_batches(index)
        parts = [self.load((index - use * self.spread) % self.length) for use in range(self.times)]

        def join(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts]).to(self.device)

        return LatentBatch128(
            latent=join("latent").float(),
            image=join("image").float() / 127.5 - 1,
            caption=tuple(texts[use % len(texts)] for use, part in enumerate(parts) for texts in part.captions),
            captions=tuple(texts for part in parts for texts in part.captions),
            **{name: join(name) for name in ("object", "colour", "box", "classes", "sky")},
        )

    def load(self, index: int) -> LatentBatch128:
        """Batch `index` of the scenes, encoded unless it is in the cache, on the CPU."""
        if index in self.cache:
            return self.cache[index]
        batch = self.batches[index]
        latent = encode_batch(batch.image, self.autoencoder, self.device)
        pixels = ((batch.image + 1) * 127.5).round().clamp(0, 255).byte().cpu()
        self.cache[index] = LatentBatch128(latent, **{**batch._asdict(), "image": pixels})
        return self.cache[index]

    def drop_batches(self, index: int) -> None:
        """Drop the batches of scenes that batch `index` and the next ones do not use."""
        oldest = (self.times - 1) * self.spread
        for number in [number for number in self.cache if (index - number) % self.length > oldest]:
            del self.cache[number]
