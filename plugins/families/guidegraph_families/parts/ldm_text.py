"""Loads latent diffusion's own text encoder, under its released names or diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.filling import check_fit, fill
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder
from guidegraph_families.networks.ldm_text import LDMText, LDMTransformer

HEADS = 8
"""Number of heads of the released encoder, which tensors do not show."""

UNUSED = ("to_logits.weight", "to_logits.bias")
"""The head that predicted words in training."""

OUTSIDE = {
    "embed_tokens.weight": "token_emb.weight",
    "embed_positions.weight": "pos_emb.emb.weight",
    "layer_norm.weight": "norm.weight",
    "layer_norm.bias": "norm.bias",
}
INSIDE = {
    "self_attn_layer_norm": "0.0",
    "self_attn.q_proj": "0.1.to_q",
    "self_attn.k_proj": "0.1.to_k",
    "self_attn.v_proj": "0.1.to_v",
    "self_attn.out_proj": "0.1.to_out",
    "final_layer_norm": "1.0",
    "fc1": "1.1.net.0.0",
    "fc2": "1.1.net.2",
}
"""The layers of diffusers' layer n: offset from our layer 2n, and the name there."""


def build_ldm_text(tensors: Mapping[str, Tensor], heads: int, tokenizer: Path, source: str) -> LDMText:
    """Build the frozen text embedder from tensors under released names, on the run's device and in its dtype.

    tokenizer: a folder with the BERT tokenizer of its training. Raises ``ValueError``.
    """
    transformers = import_transformers("clip")
    model, weights = _build_on_meta(tensors, heads, source)
    fill(model, weights, source)
    words = tokenizer_from_folder(transformers.BertTokenizerFast, tokenizer, model.token_emb.num_embeddings)
    return LDMText(model, words).eval()


def check_ldm_text(tensors: Mapping[str, Tensor], heads: int, source: str) -> None:
    """Check that tensors are exactly the text encoder's, without reading values. Raises ``ValueError``."""
    model, weights = _build_on_meta(tensors, heads, source)
    check_fit(model.state_dict(), weights, source)


def _build_on_meta(tensors: Mapping[str, Tensor], heads: int, source: str) -> tuple[LDMTransformer, dict[str, Tensor]]:
    """Build the network with sizes inferred from tensors, on the meta device; returns it with its weights."""
    weights = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    try:
        vocabulary, width = weights["token_emb.weight"].shape
        length = weights["pos_emb.emb.weight"].shape[0]
        attention = weights["attn_layers.layers.0.1.to_q.weight"].shape[0]
        feed_forward = weights["attn_layers.layers.1.1.net.0.0.weight"].shape[0]
    except KeyError as error:
        raise ValueError(
            f"'{source}' holds no whole text encoder of latent diffusion: {error.args[0]} is missing"
        ) from None
    except (ValueError, IndexError):
        raise ValueError(f"'{source}' holds no text encoder of latent diffusion: embeddings are matrices") from None
    layers = {name.split(".")[2] for name in weights if name.startswith("attn_layers.layers.")}
    if attention % heads:
        raise ValueError(f"'{source}': {heads} heads do not share {attention} channels")
    with torch.device("meta"):
        return LDMTransformer(vocabulary, length, len(layers) // 2, width, attention, feed_forward, heads), weights


def read_heads(config: Mapping[str, Any]) -> int:
    """Read the number of heads from the config.json of diffusers' `LDMBertModel`."""
    return int(config.get("encoder_attention_heads") or HEADS)


def from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of diffusers' `LDMBertModel` to released names; unknown names stay."""
    out: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("model.")
        layer = re.match(r"layers\.(\d+)\.(.+)\.(weight|bias)$", name)
        if layer and layer[2] in INSIDE:
            half, _, suffix = INSIDE[layer[2]].partition(".")
            name = f"attn_layers.layers.{2 * int(layer[1]) + int(half)}.{suffix}.{layer[3]}"
        out[OUTSIDE.get(name, name)] = tensor
    return out
