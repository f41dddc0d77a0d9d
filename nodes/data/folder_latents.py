"""Batches of a folder with latents in place of pictures: each picture is encoded once, and once mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from guidegraph.graph.types import Tensor
from guidegraph.nodes.data.batches import Batches, to_image
from guidegraph.nodes.data.folder import FolderBatches, conditions
from guidegraph.nodes.types import Autoencoder, Label, Latent, SemanticMap

if TYPE_CHECKING:
    import torch

KEPT_BYTES = 1024 * 2**20


class FolderLatentBatch(NamedTuple):
    """A FolderBatch with its latent (B, C, h, w), as `autoencoder.encode` gives it, in place of its pictures."""

    latent: Latent
    label: Label
    caption: Sequence[str]
    semantic: SemanticMap


class FolderLatents(Batches[FolderLatentBatch]):
    """The batches of a folder in latents; up to 1 GiB of latents are kept, in float16, and given as float32.

    A picture is encoded alone, so that its latent is the same in whatever batch it comes first: a training that goes on
    from its checkpoint sees what one that was never stopped sees.
    """

    def __init__(self, batches: FolderBatches, autoencoder: Autoencoder, device: torch.device) -> None:
        super().__init__(len(batches), self.batch_at)
        self.batches, self.autoencoder, self.device = batches, autoencoder, device
        self.kept: dict[tuple[int, bool], Tensor] = {}
        self.room = KEPT_BYTES

    def batch_at(self, index: int) -> FolderLatentBatch:
        """Batch `index`."""
        import torch

        chosen = self.batches.chosen(index)
        folder, rows = self.batches.folder, [row for row, _ in chosen]
        latent = torch.cat([self.latent(row.picture, mirrored) for row, mirrored in chosen])
        maps = [self.map_of(row.picture, mirrored) for row, mirrored in chosen] if folder.kind == "maps" else []
        return FolderLatentBatch(latent.to(self.device).float(), *conditions(folder, rows, maps, self.device))

    def map_of(self, picture: int, mirrored: bool) -> np.ndarray:
        """The class indices (S, S) of a picture's map."""
        indices = self.batches.folder.files[picture].map
        assert indices is not None
        return indices[:, ::-1] if mirrored else indices

    def latent(self, picture: int, mirrored: bool) -> Tensor:
        """The latent (1, C, h, w) of a picture, float16, in full precision until then."""
        import torch

        key = (picture, mirrored)
        if key in self.kept:
            return self.kept[key]
        image = self.batches.folder.files[picture].image
        one = to_image((image[:, ::-1] if mirrored else image)[None]).to(self.device)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = self.autoencoder.encode(one).half().cpu()
        if found.nbytes <= self.room:
            self.kept[key] = found
            self.room -= found.nbytes
        return found
