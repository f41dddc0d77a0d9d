"""LoRA: low-rank changes of a model's weights (Hu et al. 2022)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from guidegraph.graph.node import node
from guidegraph.nodes.types import Denoiser, TextEmbedder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from guidegraph.nodes.checkpoints.lora_file import Factors


class Adapted(NamedTuple):
    """The denoiser and the text encoder with a LoRA in their weights."""

    denoiser: Denoiser
    text: TextEmbedder | None


@node("lora.apply", host=True)
def apply_lora(denoiser: Denoiser, text: TextEmbedder | None = None, *, path: Path, strength: float = 1.0) -> Adapted:
    """Copies of a denoiser and a text encoder of `checkpoint.load` with a LoRA: W + strength · α/r · BA.

    path: a file in peft's, diffusers' or kohya's layout (safetensors or `.pt`), or a folder that peft wrote; for linear
    layers and convolutions. text: may stay unwired for a LoRA of the denoiser alone. The copies share every tensor
    that the LoRA does not change; what came in is unchanged, so that LoRAs add up by one node after the other.
    Raises one error that names the file where any of its layers is not in the model, or is of another shape there:
    it belongs to another model, and nothing is applied.
    """
    from guidegraph.nodes.checkpoints.lora_file import read_lora
    from guidegraph.nodes.checkpoints.lora_layers import denoiser_layers, text_layers
    from guidegraph.nodes.models.released_denoiser import ReleasedDenoiser
    from guidegraph.nodes.models.released_text import ReleasedText
    from guidegraph.nodes.models.sharing import shared_copy

    if not isinstance(denoiser, ReleasedDenoiser):
        raise ValueError(f"lora.apply takes a denoiser of checkpoint.load; found {type(denoiser).__name__}")
    if not math.isfinite(strength):
        raise ValueError(f"the strength of a LoRA is a finite number; found {strength}")
    factors = read_lora(path)
    places = denoiser_layers(denoiser)
    words = text_layers(text) if isinstance(text, ReleasedText) else {}
    unknown = [name for name in factors if name not in places and name not in words]
    if unknown:
        raise ValueError(_other_model(path, unknown, len(factors), bool(words)))
    changes: dict[str, dict[str, Factors]] = {"denoiser": {}, "text": {}}
    for name, pair in factors.items():
        part, at = ("denoiser", places[name]) if name in places else ("text", words[name])
        changes[part][at] = pair
    new_denoiser = shared_copy(denoiser, _changed(denoiser, changes["denoiser"], strength, path))
    if isinstance(text, ReleasedText) and changes["text"]:
        text = shared_copy(text, _changed(text, changes["text"], strength, path))
    return Adapted(new_denoiser, text)


def _changed(module: nn.Module, changes: Mapping[str, Factors], strength: float, path: Path) -> dict[str, Tensor]:
    """The weights that a LoRA changes, by name. Raises ``ValueError`` for factors that do not fit."""
    weights = dict(module.named_parameters())
    changed: dict[str, Tensor] = {}
    for name, pair in changes.items():
        weight = weights[name]
        difference = pair.difference(weight)
        if difference is None:
            raise ValueError(
                f"the LoRA '{path}' is for another model: its factors {tuple(pair.up.shape)} and "
                f"{tuple(pair.down.shape)} do not make the weight {tuple(weight.shape)} of {name}; nothing was applied"
            )
        changed[name] = (weight.float() + strength * difference).to(weight.dtype)
    return changed


def _other_model(path: Path, unknown: list[str], count: int, texts: bool) -> str:
    named = ", ".join(sorted(unknown)[:3]) + (" …" if len(unknown) > 3 else "")
    if not texts and all(name.startswith(("text_encoder", "lora_te")) for name in unknown):
        return (
            f"the LoRA '{path}' changes the text encoder too ({named}): wire the checkpoint's text to lora.apply (a "
            "single file's needs `tokenizer` of checkpoint.load)"
        )
    return (
        f"the LoRA '{path}' is for another model: {len(unknown)} of its {count} layers are not in this one ({named}); "
        "nothing was applied"
    )
