"""LoRA files (Hu et al. 2022) in the layouts of peft, diffusers and kohya: pairs of factors for named layers.

The tensors may be of NumPy or torch: only the values of α are read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from guidegraph_runtime.lora.peft_settings import PeftSettings

Array = TypeVar("Array")

DOWN, UP = (
    ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down"),
    ("lora_B", "lora_up", "lora.up", "lora_linear_layer.up"),
)
UNET_NAMES = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
TEXT_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""The attention layers by their names in diffusers' LoRA files before peft."""

OTHERS = {
    r"\.dora_scale": "DoRA", r"\.lora_magnitude_vector": "DoRA", r"\.hada_w": "LoHa", r"\.lokr_w": "LoKr",
    r"\.lora_mid": "Tucker", r"\.oft_": "OFT", r"\.diff(_b)?$": "whole differences", r"\.lora_embedding": "embedding",
    r"\.glora": "GLoRA",
}  # fmt: skip
"""Kinds of adapters that are not low-rank pairs, by a pattern in their keys."""


LARGEST_SCALE = float(np.finfo(np.float32).max)
"""The largest number of float32, in which the updates are computed."""


@dataclass(frozen=True)
class Pair(Generic[Array]):
    """The update of a layer's weight: scale · up · down, with up (out, r, …) and down (r, in, …)."""

    down: Array
    up: Array
    scale: float


def pair_factors(tensors: Mapping[str, Any], settings: PeftSettings, file: Path) -> dict[str, Pair[Any]]:
    """Pair the factors among the tensors of a file by layer name. settings: peft's settings in the file.

    Raises one ``ValueError`` that names the file for keys outside any pair, for settings of wrong types, and for other
    kinds of adapters.
    """
    down: dict[str, Any] = {}
    up: dict[str, Any] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, tensor in tensors.items():
        layer, part = _split_key(key)
        if part == "alpha":
            alphas[layer] = _read_alpha(tensor, key, file)
        elif part in ("down", "up"):
            (down if part == "down" else up)[layer] = tensor
        else:
            unknown.append(key)
    if unknown:
        reason = _reason(unknown, holds_factors=bool(down or up))
        raise ValueError(f"'{file}' is not a LoRA that can be applied: {reason}")
    unpaired = sorted(({*down} ^ {*up}) | ({*alphas} - {*down}))
    if unpaired or not down:
        problem = f"{', '.join(unpaired[:4])} lacks a factor" if unpaired else "it holds no factors"
        raise ValueError(f"'{file}' is not a complete LoRA: {problem}; fetch or save it again")
    _check_factors(down, up, file)
    networks = settings.alphas(down)
    scales = {layer: networks[layer].scale(layer, factor.shape[0], alphas.get(layer)) for layer, factor in down.items()}
    for layer, scale in scales.items():
        if abs(scale) > LARGEST_SCALE:
            raise ValueError(
                f"'{file}' is damaged: the α of {layer} makes the scale {scale:.3g}, and float32 has numbers up to "
                f"{LARGEST_SCALE:.2g}"
            )
    return {layer: Pair(down[layer], up[layer], scale) for layer, scale in scales.items()}


def _read_alpha(tensor: Any, key: str, file: Path) -> float:
    """The value of an α. Raises ``ValueError`` unless it is one finite number."""
    value = float(tensor.reshape(-1)[0]) if math.prod(tensor.shape) == 1 and not _is_complex(tensor) else math.nan
    if not math.isfinite(value):
        kind = f"{'complex ' if _is_complex(tensor) else ''}{key} of shape {tuple(tensor.shape)}"
        raise ValueError(f"'{file}' is damaged: {kind} is not one finite number")
    return value


def _check_factors(down: Mapping[str, Any], up: Mapping[str, Any], file: Path) -> None:
    """Raise ``ValueError`` for factors that are no matrices or kernels, have no rank, or are complex."""
    for layer in down:
        shapes = tuple(down[layer].shape), tuple(up[layer].shape)
        if any(len(shape) < 2 or 0 in shape for shape in shapes):
            raise ValueError(
                f"'{file}' is damaged: the factors of {layer} have the shapes {shapes[0]} and {shapes[1]}, and a LoRA "
                "has those of two matrices, or of two kernels"
            )
        for factor in (down[layer], up[layer]):
            if _is_complex(factor):
                raise ValueError(
                    f"'{file}' is damaged: expected real factors of {layer}; found {factor.dtype}: fetch or save it "
                    "again"
                )


def _is_complex(tensor: Any) -> bool:
    """Whether an array of NumPy or torch has complex numbers."""
    return "complex" in str(tensor.dtype)


def _split_key(key: str) -> tuple[str, str]:
    """Split a key into the layer and "down", "up", "alpha", or "" for an unknown key."""
    key = key.removeprefix("base_model.model.")
    if key.endswith(".alpha"):
        return key.removesuffix(".alpha"), "alpha"
    if match := re.match(r"(.+?)(\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$", key):
        layers = TEXT_NAMES if match[1].endswith(".self_attn") else UNET_NAMES
        return f"{match[1]}.{layers[match[3]]}", match[4]
    for factor, names in (("down", DOWN), ("up", UP)):
        for name in names:
            if match := re.match(rf"(.+)\.{re.escape(name)}(?:\.default(?:_\d+)?)?\.weight$", key):
                return match[1], factor
    return key, ""


def _reason(unknown: list[str], holds_factors: bool) -> str:
    kinds = {kind for key in unknown for pattern, kind in OTHERS.items() if re.search(pattern, key)}
    if kinds:
        problem = f"its layers are of kind {', '.join(sorted(kinds))}, and only pairs of low rank are read"
    elif holds_factors:
        problem = "it has keys that belong to no pair of factors"
    else:
        problem = "it holds no pairs of factors; it is a checkpoint, or a file of another kind"
    return f"{problem}: {', '.join(sorted(unknown)[:3])}{' …' if len(unknown) > 3 else ''}"


def find_adapter_file(folder: Path) -> Path:
    """Find the weights in a folder written by peft. Raises ``ValueError``."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"'{folder}' holds no adapter_model.safetensors: peft did not write this folder")
