"""A condition adapter: maps another encoder's tokens and vector to those that a denoiser was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.own.text_encoder import TextLayer
from guidegraph.nodes.types import Condition


@dataclass(frozen=True)
class AdapterConfig:
    """Hyper-parameters of a ConditionAdapter.

    tokens: width of the encoder's tokens. vector: width of its vector. width: width of both outputs. layers, heads:
    size of the transformer on the tokens.
    """

    tokens: int
    vector: int
    width: int = 128
    layers: int = 1
    heads: int = 4


class AdapterModel(nn.Module):
    """Condition to condition: layer norm, a projection to `width`, and a small transformer on the tokens.

    The encoder and the denoiser stay frozen; only the adapter is trained. Its output is normalised like a text
    encoder's.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Sequential(nn.LayerNorm(config.tokens), nn.Linear(config.tokens, config.width))
        self.layers = nn.ModuleList(TextLayer(config.width, config.heads) for _ in range(config.layers))
        self.vector = nn.Sequential(
            nn.LayerNorm(config.vector),
            nn.Linear(config.vector, 2 * config.width),
            nn.SiLU(),
            nn.Linear(2 * config.width, config.width),
        )

    def forward(self, condition: Condition) -> Condition:
        """Return tokens (B, M, width) with the input's mask, and a vector (B, width), in the dtype of the input.

        Raises ``ValueError`` for a condition without tokens or vector, or of other widths.
        """
        config = self.config
        tokens, vector = (
            check_width(name, getattr(condition, name), width)
            for name, width in (("tokens", config.tokens), ("vector", config.vector))
        )
        dtype = self.get_parameter("vector.1.weight").dtype
        mask = condition.mask
        h = self.tokens(tokens.to(dtype))
        for layer in self.layers:
            h = layer(h, torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask)
        normalised = (F.layer_norm(value, (config.width,)) for value in (h, self.vector(vector.to(dtype))))
        new_tokens, new_vector = (value.to(tokens.dtype) for value in normalised)
        return Condition(
            vector=new_vector, tokens=new_tokens, mask=mask, spatial=condition.spatial, more=condition.more
        )


def check_width(name: str, value: Tensor | None, width: int) -> Tensor:
    """Return a field of a condition. Raises ``ValueError`` if it is missing or has another width."""
    if value is None or value.shape[-1] != width:
        got = "none" if value is None else f"width {value.shape[-1]}"
        raise ValueError(f"this adapter takes a condition with {name} of width {width}; found {got}")
    return value
