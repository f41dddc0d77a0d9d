"""Trainable low-rank changes (LoRA) of a network's layers (Hu et al. 2022): h = W₀ x + α/r · B A x."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors

LAYERS = (nn.Linear, nn.Conv2d)
"""The types of layers that can have a low-rank change."""

FACTORS = (".lora_A", ".lora_B")
"""Suffixes of the names of the trainable parameters."""

M = TypeVar("M", bound=nn.Module)


class LowRank(nn.Module):
    """A linear layer or a convolution plus a low-rank change.

    lora_A (r, in) or (r, in, kh, kw); lora_B (out, r) or (out, r, 1, 1), zero at the start, so that the
    layer is unchanged at first. weight and bias belong to the changed layer, for code that reads them.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        weight = base.weight
        self.base = base
        self.alpha = alpha
        self.scale = alpha / rank
        ones = (1,) * (weight.ndim - 2)
        first = nn.init.kaiming_uniform_(torch.empty((rank, *weight.shape[1:])), a=5**0.5)  # drawn on the CPU
        self.lora_A = nn.Parameter(first.to(weight))
        self.lora_B = nn.Parameter(weight.new_zeros((weight.shape[0], rank, *ones)))

    @property
    def rank(self) -> int:
        return self.lora_A.shape[0]

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """W₀ + α/r · B A, in the shape of W₀."""
        change = self.lora_B.flatten(1) @ self.lora_A.flatten(1)
        return self.base.weight + self.scale * change.reshape(self.base.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.base, nn.Linear):
            change = F.linear(F.linear(x, self.lora_A), self.lora_B)
        else:
            base = self.base
            change = F.conv2d(F.conv2d(x, self.lora_A, None, base.stride, base.padding, base.dilation), self.lora_B)
        out: Tensor = self.base(x) + self.scale * change
        return out


def is_adaptable(layer: nn.Module) -> bool:
    """Whether a layer can have a low-rank change: linear layers, and convolutions of one group with zero padding."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def add_low_rank(module: M, names: Sequence[str], *, rank: int, alpha: float, seed: int) -> M:
    """A frozen copy of a module with low-rank changes of the named layers; it shares the module's tensors.

    The initial factors depend on the seed and on the position of the layer in ``names``.
    """
    changed = copy_sharing_tensors(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            layer = changed.get_submodule(name)
            changed.set_submodule(name, LowRank(layer, rank, alpha))  # type: ignore[arg-type]
    return changed.eval().requires_grad_(False)


def low_rank_layers(module: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """The low-rank layers of a module, with their names."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LowRank))


def merge_low_rank(module: M) -> M:
    """A copy of a module with its low-rank changes merged into plain layers; all other tensors are shared."""
    merged = copy_sharing_tensors(module)
    for name, layer in list(low_rank_layers(merged)):
        base = layer.base
        base.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        merged.set_submodule(name, base)
    return merged


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the trainable parameters: the factors of low-rank changes, or all if there are none."""
    names = [name for name, _ in module.named_parameters()]
    return [name for name in names if name.endswith(FACTORS)] or names


def matching_layers(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The names, in order, of the adaptable layers that match a pattern such as `*.query` or `up.*`.

    Raises ``ValueError`` for a pattern that no layer matches.
    """
    layers = [name for name, layer in module.named_modules() if is_adaptable(layer)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            examples = ", ".join(layers[:: max(1, len(layers) // 8)])
            raise ValueError(f"no layer is called '{pattern}'; there are {len(layers)}, among them {examples}")
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]
