"""Builds CLIP text models of transformers from the tensors of a file, under its own names or OpenCLIP's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import current_device
from guidegraph.nodes.checkpoints.filling import build_text_model, check_fit, fill
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.networks.bounded_build import check_depth
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder

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


def build_clip(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> nn.Module:
    """Build a frozen `CLIPTextModel`, with a projection if the tensors have one, on the run's device and in its dtype.

    settings: fields of transformers' CLIPTextConfig. Raises ``ValueError`` if transformers is missing, or the tensors
    do not fit the model that the settings describe.
    """
    transformers = import_transformers("clip")
    plain_weights = _weights(tensors)
    projected = "text_projection.weight" in plain_weights
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    config_class = transformers.CLIPTextConfig
    model: nn.Module = build_text_model(config_class, kind, settings, tensors, "CLIP text model", source)
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    weights = {
        name if name.startswith("text_projection.") else prefix + name: tensor for name, tensor in plain_weights.items()
    }
    fill(model, weights, source)
    build_positions(model)
    return model


def load_tokenizer(kind: Any, folder: Path, model: Any) -> Any:
    """Load the tokenizer of a text model of transformers. Raises ``ValueError`` if it lacks start, end or padding."""
    words = tokenizer_from_folder(kind, folder, int(model.config.vocab_size))
    if None in (words.bos_token_id, words.eos_token_id, words.pad_token_id):
        raise ValueError(f"the tokenizer in '{folder}' has no token for start, end or padding")
    return words


def check_clip(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> None:
    """Check that tensors under transformers' names are exactly those of the text model that the settings describe.

    Does not need transformers or read values. Raises one ``ValueError`` that names all differences.
    """
    check_depth(settings["num_hidden_layers"], len(tensors), source)
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    norm, square = {"weight": (width,), "bias": (width,)}, {"weight": (width, width), "bias": (width,)}
    layer = {
        "layer_norm1": norm,
        "layer_norm2": norm,
        **{f"self_attn.{name}_proj": square for name in ("q", "k", "v", "out")},
        "mlp.fc1": {"weight": (inner, width), "bias": (inner,)},
        "mlp.fc2": {"weight": (width, inner), "bias": (width,)},
    }
    parts: dict[str, Mapping[str, tuple[int, ...]]] = {
        "embeddings.token_embedding": {"weight": (settings["vocab_size"], width)},
        "embeddings.position_embedding": {"weight": (settings["max_position_embeddings"], width)},
        "final_layer_norm": norm,
    }
    for number in range(settings["num_hidden_layers"]):
        parts |= {f"encoder.layers.{number}.{name}": shapes for name, shapes in layer.items()}
    weights = _weights(tensors)
    if "text_projection.weight" in weights:
        parts["text_projection"] = {"weight": (settings["projection_dim"], width)}
    expected = {
        f"{part}.{name}": torch.empty(shape, device="meta")
        for part, shapes in parts.items()
        for name, shape in shapes.items()
    }
    check_fit(expected, weights, source)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights among a text model's tensors, by their names in recent versions of transformers."""
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] not in NO_WEIGHTS
    }


def build_positions(model: nn.Module) -> None:
    """Build the buffers of positions and token types, which are not in files, in place on the run's device."""
    for owner in model.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if not buffer.is_meta:
                continue
            if name not in ("position_ids", "token_type_ids"):
                raise ValueError(f"this version of transformers has a buffer '{name}' that is not known: take another")
            steps = torch.arange(buffer.shape[-1], device=current_device()).expand(buffer.shape).clone()
            setattr(owner, name, steps if name == "position_ids" else torch.zeros_like(steps))


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
