"""Random factors of LoRAs, files in kohya's layout that hold them, and what diffusers reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph.nodes.training.lora import new_lora
from guidegraph.nodes.types import Denoiser


class RandomFactors(NamedTuple):
    """The factors down (r, inputs, …) and up (outputs, r, …) of a weight, and its α."""

    down: Tensor
    up: Tensor
    alpha: float

    def change(self, weight: Tensor) -> Tensor:
        """The change α/r · BA of a weight, of its shape."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return self.alpha / len(self.down) * product.reshape(weight.shape)


def random_factors(weights: Mapping[str, Tensor]) -> dict[str, RandomFactors]:
    """Factors of ranks 1 to 3 for each weight of a layer."""
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for number, (name, weight) in enumerate(weights.items()):
        rank = 1 + number % 3
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
        up = 0.3 * torch.randn(weight.shape[0], rank, *([1] * (weight.ndim - 2)), generator=generator)
        factors[name] = RandomFactors(down, up, 1.0 + number % 2)
    return factors


def underscore(prefix: str) -> Callable[[str], str]:
    """kohya's names: a prefix, and the layer's name with underscores."""
    return lambda name: f"{prefix}_{name.replace('.', '_')}"


def write_lora(factors: Mapping[str, RandomFactors], rename: Callable[[str], str], path: Path) -> None:
    """Write factors by layer in kohya's layout, under the names that `rename` gives the layers."""
    file: dict[str, Tensor] = {}
    for name, (down, up, alpha) in factors.items():
        key = rename(name)
        file |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    save_file(file, path)


def randomise_lora(denoiser: Denoiser) -> Any:
    """A denoiser with a LoRA of random factors in all its layers, as after training."""
    lora: Any = new_lora(denoiser, rank=2, alpha=3.0, targets="all")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in lora.named_parameters():
        if name.endswith("lora_B"):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lora


def adapt_by_diffusers(model: Any, pipeline: Any, path: Path) -> Any:
    """A copy of diffusers' transformer with the LoRA of a file, as its pipeline's `load_lora_weights` reads it."""
    adapted = copy.deepcopy(model)
    tensors, metadata = pipeline.lora_state_dict(str(path), return_lora_metadata=True)
    adapted.load_lora_adapter(tensors, prefix="transformer", metadata=metadata)
    assert adapted.peft_config
    return adapted
