"""Batches of a folder with latents instead of pictures. Each picture is encoded once, and once mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from guidegraph.graph.training.precision import without_autocast
from guidegraph.graph.types import Tensor
from guidegraph.nodes.data.batches import Batches, to_image
from guidegraph.nodes.data.folders.batches import FolderBatches, build_conditions
from guidegraph.nodes.types import Autoencoder, Label, Latent, SemanticMap

if TYPE_CHECKING:
    import torch

KEPT_BYTES = 1024 * 2**20


class FolderLatentBatch(NamedTuple):
    """A FolderBatch with the latent (B, C, h, w) of `autoencoder.encode` instead of its pictures."""

    latent: Latent
    label: Label
    caption: Sequence[str]
    semantic: SemanticMap


class FolderLatents(Batches[FolderLatentBatch]):
    """The batches of a folder as latents; up to 1 GiB of latents are cached in float16, and returned as float32.

    Each picture is encoded alone, so that its latent does not depend on the batch in which it first occurs: a resumed
    training gets the same latents as an uninterrupted one.
    """

    def __init__(self, batches: FolderBatches, autoencoder: Autoencoder, device: torch.device) -> None:
        super().__init__(len(batches))
        self.batches, self.autoencoder, self.device = batches, autoencoder, device
        self.cache: dict[tuple[int, bool], Tensor] = {}
        self.free_bytes = KEPT_BYTES

    def make(self, index: int) -> FolderLatentBatch:
        """Batch `index`."""
        import torch

        selected = self.batches.select_rows(index)
        folder, rows = self.batches.folder, [row for row, _ in selected]
        latent = torch.cat([self.latent(row.picture, mirrored) for row, mirrored in selected])
        maps = [self.map_of(row.picture, mirrored) for row, mirrored in selected] if folder.kind == "maps" else []
        return FolderLatentBatch(latent.to(self.device).float(), *build_conditions(folder, rows, maps, self.device))

    def map_of(self, picture: int, mirrored: bool) -> np.ndarray:
        """The class indices (S, S) of a picture's map."""
        indices = self.batches.folder.files[picture].map
        assert indices is not None
        return indices[:, ::-1] if mirrored else indices

    def latent(self, picture: int, mirrored: bool) -> Tensor:
        """The latent (1, C, h, w) of a picture, encoded in full precision and rounded to float16."""
        import torch

        key = (picture, mirrored)
        if key in self.cache:
            return self.cache[key]
        image = self.batches.folder.files[picture].image
        pixels = to_image((image[:, ::-1] if mirrored else image)[None]).to(self.device)
        with torch.no_grad(), without_autocast(self.device):
            latent = self.autoencoder.encode(pixels).half().cpu()
        if latent.nbytes <= self.free_bytes:
            self.cache[key] = latent
            self.free_bytes -= latent.nbytes
        return latent
