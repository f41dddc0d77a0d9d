"""CLIP's text model (Radford et al. 2021, section 2.4), with the names of its weights in transformers.

It is guidegraph's own because importing transformers' takes two seconds of a run's start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.attention import training_kernel

LARGEST_ID = 2
"""As `eos_token_id` in a config it says that a text ends at its largest id, as in the first configs of transformers."""


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016), of OpenAI's models."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True)
class ClipTextConfig:
    """The shape of a model, with the names and defaults of transformers' config.json."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407


class ClipOutput(NamedTuple):
    """tokens (B, L, D) after the final norm; penultimate (B, L, D), those before the last layer; pooled (B, P).

    The pooled vector is the token at the text's end, projected if the model has a projection.
    """

    tokens: Tensor
    penultimate: Tensor
    pooled: Tensor


class ClipEmbeddings(nn.Module):
    """The sum of the embeddings of tokens and of their positions."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L, D) of ids (B, L) int64."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        embedded: Tensor = self.token_embedding(ids) + self.position_embedding(positions)
        return embedded


class ClipAttention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) of x (B, L, D)."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        with training_kernel(query):
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class ClipFeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) of x (B, L, D)."""
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class ClipLayer(nn.Module):
    """A layer with norms before its attention and its feed-forward."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.self_attn = ClipAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ClipFeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) of x (B, L, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class ClipEncoder(nn.Module):
    """The layers."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) after the last layer and before it, of x (B, L, D)."""
        previous = x
        for layer in self.layers:
            previous, x = x, layer(x)
        return x, previous


class ClipTextModel(nn.Module):
    """The model; `projected` gives the pooled vector a projection."""

    def __init__(self, config: ClipTextConfig, *, projected: bool) -> None:
        super().__init__()
        self.config = config
        self.eos_token_id = config.eos_token_id
        self.embeddings = ClipEmbeddings(config)
        self.encoder = ClipEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projected else None

    def forward(self, ids: Tensor) -> ClipOutput:
        """The output for ids (B, L) int64, of which the first that marks an end ends the text."""
        last, penultimate = self.encoder(self.embeddings(ids))
        tokens: Tensor = self.final_layer_norm(last)
        marks = ids if self.eos_token_id == LARGEST_ID else ids == self.eos_token_id
        end = marks.int().argmax(1)  # ONNX has no argmax of int64
        pooled = tokens[torch.arange(ids.shape[0], device=ids.device), end]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return ClipOutput(tokens, penultimate, pooled)
