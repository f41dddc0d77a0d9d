"""Reads LoRA files (Hu et al. 2022) as torch tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph_runtime.lora.pairs import find_adapter_file, pair_factors
from guidegraph_runtime.lora.peft_settings import read_folder_settings, read_header_settings


@dataclass(frozen=True)
class Factors:
    """The change of one layer's weight: scale · up · down, with up (out, r, …) and down (r, in, …)."""

    down: Tensor
    up: Tensor
    scale: float

    def difference(self, weight: Tensor) -> Tensor | None:
        """The change as float32 with the shape and device of a weight, or None if the shapes do not fit."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        if up.shape[0] != weight.shape[0] or down.shape[1] != weight[0].numel() or up.shape[1] != down.shape[0]:
            return None
        product = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
        return self.scale * product.reshape(weight.shape)


def read_lora(path: Path) -> dict[str, Factors]:
    """Read the factors of a LoRA file or a peft folder, by its names of the layers.

    Raises one ``ValueError`` that names the file for unpaired keys, for settings of wrong types, and for other kinds of
    adapters.
    """
    if path.is_dir():
        settings, file = read_folder_settings(path), find_adapter_file(path)
    else:
        settings, file = read_header_settings(path), path
    pairs = pair_factors(read_tensors(file), settings, file)
    return {layer: Factors(pair.down, pair.up, pair.scale) for layer, pair in pairs.items()}
