"""Builds T5's encoder (Raffel et al. 2020, arXiv:1910.10683) of transformers from the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from torch import Tensor, nn

from guidegraph.graph.device_context import current_dtype
from guidegraph.nodes.checkpoints.config_values import numbers_in_names
from guidegraph.nodes.checkpoints.filling import build_text_model, check_fit, fill
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.networks.shells import check_depth
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder
from guidegraph.nodes.models.released.towers import T5Tower
from guidegraph_runtime.machine.optional_packages import install_command

EXTRA = "t5"
SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""Packages with which transformers reads a spiece.model."""

WORDS, TIED = "shared.weight", "encoder.embed_tokens.weight"
"""The embedding of tokens, and its name in the encoder; a file has one of them or both."""

NO_ENCODER = ("decoder.", "lm_head.")
"""Beginnings of the names of T5's decoder, which nothing here uses."""

NO_WEIGHTS = ("logit_scale",)
"""A temperature that some files hold with every text encoder."""

ATTENTION, FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"
BIAS = f"encoder.block.0.{ATTENTION}.relative_attention_bias.weight"
WIDE = f"{FEED_FORWARD}.wo.weight"
"""The weights that stay in float32 where the rest is float16, whose range their products exceed."""


def build_t5(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> nn.Module:
    """Build a frozen `T5EncoderModel` on the run's device and in its dtype; in float16 `wo` stays float32.

    settings: fields of transformers' T5Config. Raises ``ValueError`` if transformers is missing, or the tensors do not
    fit the model that the settings describe.
    """
    transformers = import_transformers(EXTRA)
    classes = (transformers.T5Config, transformers.T5EncoderModel)
    model: Any = build_text_model(*classes, settings, tensors, "T5 encoder", source)
    fill(model, _weights(tensors, source), source)
    model.encoder.embed_tokens.weight = model.shared.weight
    if current_dtype() is torch.float16:
        for name, parameter in model.named_parameters():
            if name.endswith(WIDE):
                parameter.data = tensors[name].to(parameter.device, torch.float32)
    built: nn.Module = model
    return built


def check_t5(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> None:
    """Check that tensors are exactly the tensors of the encoder that the settings describe.

    Does not need transformers or read values. Raises one ``ValueError`` that names all differences.
    """
    check_depth(settings["num_layers"], len(tensors), source)
    width, hidden, heads = settings["d_model"], settings["d_ff"], settings["num_heads"]
    inner = heads * settings["d_kv"]
    gated = str(settings["feed_forward_proj"]).startswith("gated")
    layer = {
        "layer.0.layer_norm": (width,),
        **{f"{ATTENTION}.{name}": (inner, width) for name in "qkv"},
        f"{ATTENTION}.o": (width, inner),
        "layer.1.layer_norm": (width,),
        **{f"{FEED_FORWARD}.{name}": (hidden, width) for name in (("wi_0", "wi_1") if gated else ("wi",))},
        f"{FEED_FORWARD}.wo": (width, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"encoder.block.{number}.{name}.weight": shape
        for number in range(settings["num_layers"])
        for name, shape in layer.items()
    }
    shapes |= dict.fromkeys((WORDS, TIED), (settings["vocab_size"], width))
    shapes |= {BIAS: (settings["relative_attention_num_buckets"], heads), "encoder.final_layer_norm.weight": (width,)}
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    check_fit(expected, _weights(tensors, source), source)


def infer_t5_settings(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Infer the T5Config of an encoder's tensors. Raises ``ValueError`` that names `source` for other tensors.

    The largest distance that positions distinguish is 128 in all releases, which share the activation: GELU with
    gates (T5 version 1.1), or ReLU without.
    """
    gated = f"encoder.block.0.{FEED_FORWARD}.wi_0.weight" in tensors
    try:
        vocabulary, width = tensors[WORDS if WORDS in tensors else TIED].shape
        buckets, heads = tensors[BIAS].shape
        inner = tensors[f"encoder.block.0.{ATTENTION}.q.weight"].shape[0]
        hidden = tensors[f"encoder.block.0.{FEED_FORWARD}.{'wi_0' if gated else 'wi'}.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"'{source}' holds no whole T5 encoder: {error.args[0]} is missing") from None
    except (ValueError, IndexError):
        raise ValueError(f"'{source}' holds no T5 encoder: embeddings and position biases are matrices") from None
    if not heads or inner % heads:
        raise ValueError(f"'{source}' holds no T5 encoder: {heads} heads do not share {inner} channels")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": hidden,
        "num_layers": len(numbers_in_names(tensors, r"encoder\.block\.(\d+)\.")),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def build_t5_tower(
    model: Any, tokenizer: Path, length: int, *, attend_padding: bool, lowercase: bool = False
) -> T5Tower:
    """Build the tower of a T5 encoder with its tokenizer's folder; see `T5Tower`.

    lowercase: prompts are read in small letters. Raises ``ValueError`` that names the folder if it lacks a tokenizer
    for this encoder, or has one for which a package is missing.
    """
    transformers = import_transformers(EXTRA)
    is_converted = (tokenizer / "tokenizer.json").is_file() or not (tokenizer / "spiece.model").is_file()
    missing = [] if is_converted else [name for name in SENTENCEPIECE if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"'{tokenizer}' holds spiece.model without tokenizer.json, and {' and '.join(missing)}, which read it, are "
            f"not installed: {install_command(EXTRA)}"
        )
    words = tokenizer_from_folder(transformers.T5TokenizerFast, tokenizer, int(model.config.vocab_size))
    if None in (words.eos_token_id, words.pad_token_id):
        raise ValueError(f"the tokenizer in '{tokenizer}' has no token for the end or padding")
    if lowercase:
        backend = words.backend_tokenizer
        steps = [normalizers.Lowercase(), *([] if backend.normalizer is None else [backend.normalizer])]
        backend.normalizer = normalizers.Sequence(steps)
    return T5Tower(model, words, length, attend_padding=attend_padding)


def _weights(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of the encoder, with the embedding of tokens under both of its names.

    Raises ``ValueError`` if the file holds two different ones.
    """
    weights = {
        name: tensor for name, tensor in tensors.items() if not name.startswith(NO_ENCODER) and name not in NO_WEIGHTS
    }
    embeddings = [weights[name] for name in (WORDS, TIED) if name in weights]
    if not embeddings:
        raise ValueError(f"'{source}' holds no whole T5 encoder: {WORDS} is missing")
    first, last = embeddings[0], embeddings[-1]
    if not _equal(first, last):
        raise ValueError(f"'{source}': {WORDS} and {TIED} differ, and an encoder of T5 has one embedding of tokens")
    return {**weights, WORDS: first, TIED: first}


def _equal(first: Tensor, last: Tensor) -> bool:
    """Whether two tensors are of the same bytes; on the meta device, of one shape."""
    if first is last or first.shape != last.shape or first.dtype != last.dtype:
        return first is last
    return first.is_meta or torch.equal(first.view(torch.uint8), last.view(torch.uint8))
