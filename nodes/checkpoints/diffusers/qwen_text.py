"""Builds Qwen3 language models of transformers from the tensors of a file, as the text encoder of Z-Image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import current_device
from guidegraph.nodes.checkpoints.filling import build_text_model, fill
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.networks.bounded_build import check_depth
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder
from guidegraph.nodes.models.released.towers import ChatTower

EXTRA = "clip"
PREFIX = "model."
HEAD = "lm_head.weight"
"""The weight that turns hidden states into words, which nothing here uses."""

BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
"""Around a prompt: the chat template of Qwen3 for one message, with thinking."""

LENGTH = 512
"""Tokens of a prompt with its chat template."""


def build_qwen3(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> nn.Module:
    """Build a frozen `Qwen3Model` on the run's device and in its dtype.

    settings: fields of transformers' Qwen3Config. Raises ``ValueError`` if transformers is missing, or the tensors do
    not fit the model that the settings describe.
    """
    transformers = import_transformers(EXTRA)
    layers = settings.get("num_hidden_layers")
    if isinstance(layers, int):
        check_depth(layers, len(tensors), source)  # the config lists the kinds of all layers
    model: Any = build_text_model(transformers.Qwen3Config, transformers.Qwen3Model, settings, tensors, "Qwen3", source)
    fill(model, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name != HEAD}, source)
    with torch.device(current_device()):
        model.rotary_emb = type(model.rotary_emb)(model.config)  # its frequencies are computed, and in no file
    built: nn.Module = model
    return built


def build_chat_tower(model: Any, tokenizer: Path) -> ChatTower:
    """Build the tower of a Qwen3 with its tokenizer's folder; see `ChatTower`.

    Raises ``ValueError`` that names the folder if it lacks a tokenizer for this model, or the tokenizer lacks the
    template's marks.
    """
    transformers = import_transformers(EXTRA)
    words = tokenizer_from_folder(transformers.Qwen2Tokenizer, tokenizer, int(model.config.vocab_size))
    marks = ("<|im_start|>", "<|im_end|>")
    missing = [mark for mark in marks if len(words(mark, add_special_tokens=False)["input_ids"]) != 1]
    if missing or words.pad_token_id is None:
        raise ValueError(f"the tokenizer in '{tokenizer}' has no token for {' or '.join(missing) or 'padding'}")
    return ChatTower(model, words, LENGTH, BEFORE, AFTER)
