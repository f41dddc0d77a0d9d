"""Builds CLIP text models from the tensors of a file, under its own names or OpenCLIP's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_number
from guidegraph.nodes.checkpoints.filling import build_filled, check_fit
from guidegraph.nodes.models.networks.shells import check_depth
from guidegraph.nodes.models.released.clip_text_model import ACTIVATIONS, ClipTextConfig, ClipTextModel
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder

LARGEST_SIZE = 1 << 20
"""The largest vocabulary or width that is accepted."""

HEAD = 64
"""The width of a head in every CLIP and OpenCLIP text model that was released."""

NO_WEIGHTS = ("position_ids", "logit_scale", "attn_mask")
"""Tensors that are not weights: positions, the temperature of the contrastive loss, and the causal mask."""

OPENCLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def build_clip(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> ClipTextModel:
    """Build a frozen `ClipTextModel`, with a projection if the tensors have one, on the run's device and in its dtype.

    settings: fields of transformers' CLIPTextConfig. Raises ``ValueError`` if the settings describe no such model, or
    the tensors do not fit it.
    """
    make, weights = _plan_clip(tensors, settings, source)
    return build_filled(make, weights, source)


def _plan_clip(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str
) -> tuple[Callable[[], ClipTextModel], dict[str, Tensor]]:
    """A function that makes the model that the settings describe, and its weights among the tensors, by its names."""
    config = read_clip_config(settings, Path(source))
    check_depth(config.num_hidden_layers, len(tensors), source)
    weights = _weights(tensors)
    return partial(ClipTextModel, config, projected="text_projection.weight" in weights), weights


def read_clip_config(settings: Mapping[str, Any], path: Path) -> ClipTextConfig:
    """The config of the fields of transformers' CLIPTextConfig. Raises ``ValueError`` that names `path`."""
    base = ClipTextConfig()
    sizes = {
        name: read_integer(settings, name, getattr(base, name), path, high=LARGEST_SIZE)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "projection_dim",
            "num_attention_heads",
            "max_position_embeddings",
        )
    }
    config = ClipTextConfig(
        **sizes,
        num_hidden_layers=read_integer(settings, "num_hidden_layers", base.num_hidden_layers, path, high=sys.maxsize),
        hidden_act=str(settings.get("hidden_act", base.hidden_act)),
        layer_norm_eps=read_number(settings, "layer_norm_eps", base.layer_norm_eps, path),
        eos_token_id=read_integer(settings, "eos_token_id", base.eos_token_id, path, low=0, high=LARGEST_SIZE),
    )
    if config.hidden_act not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"'{path}': 'hidden_act' is '{config.hidden_act:.60}'; a CLIP text model has one of {names}")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"'{path}': a CLIP text model of width {config.hidden_size} does not divide into "
            f"{config.num_attention_heads} heads"
        )
    return config


def load_tokenizer(kind: Any, folder: Path, model: Any) -> Any:
    """Load the tokenizer of a text model. Raises ``ValueError`` if it lacks start, end or padding."""
    words = tokenizer_from_folder(kind, folder, int(model.config.vocab_size))
    if None in (words.bos_token_id, words.eos_token_id, words.pad_token_id):
        raise ValueError(f"the tokenizer in '{folder}' has no token for start, end or padding")
    return words


def check_clip(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> None:
    """Check that tensors under transformers' names are exactly the tensors of the text model that the settings
    describe.

    Does not need transformers or read values. Raises one ``ValueError`` that names all differences.
    """
    make, weights = _plan_clip(tensors, settings, source)
    with torch.device("meta"):
        expected = make().state_dict()
    check_fit(expected, weights, source)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights among a text model's tensors, by their names in recent versions of transformers."""
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] not in NO_WEIGHTS
    }


def from_openclip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an OpenCLIP text model to transformers' names; unknown names stay."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer = re.match(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)$", name)
        fused = re.match(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", name)
        if fused and tensor.shape[0] % 3 == 0:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"encoder.layers.{fused[1]}.self_attn.{part}_proj.{fused[2]}"] = piece
        elif layer and layer[2] in OPENCLIP_LAYER:
            out[f"encoder.layers.{layer[1]}.{OPENCLIP_LAYER[layer[2]]}.{layer[3]}"] = tensor
        elif name == "text_projection":
            out["text_projection.weight"] = tensor.T
        else:
            out[OPENCLIP.get(name, name)] = tensor
    return out


def infer_clip_settings(tensors: Mapping[str, Tensor], source: str, activation: str) -> dict[str, Any]:
    """Infer the CLIPTextConfig of tensors under transformers' names, without a config.json.

    The width of a head is 64, as in all releases; the last two tokens mark start and end.
    """
    weights = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    try:
        vocabulary, width = weights["embeddings.token_embedding.weight"].shape
        positions = weights["embeddings.position_embedding.weight"].shape[0]
        inner = weights["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"'{source}' holds no whole CLIP text model: {error.args[0]} is missing") from None
    except (ValueError, IndexError):
        raise ValueError(f"'{source}' holds no CLIP text model: embeddings are matrices") from None
    if width % HEAD:
        raise ValueError(
            f"'{source}': the CLIP text model is {width} wide, no multiple of the {HEAD} of a head, so that a "
            "single file cannot tell its heads: give a diffusers folder, whose config.json does"
        )
    projection = weights.get("text_projection.weight")
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // HEAD,
        "max_position_embeddings": positions,
        "hidden_act": activation,
        "projection_dim": width if projection is None else projection.shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
