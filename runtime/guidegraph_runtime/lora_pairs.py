"""LoRA files (Hu et al. 2022) in the layouts of peft, diffusers and kohya: pairs of factors for named layers.

The tensors are arrays of NumPy or of torch: nothing here looks inside of them, but for α.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

Array = TypeVar("Array")

METADATA = "lora_adapter_metadata"
"""Where diffusers writes peft's settings in a safetensors header."""

DOWN, UP = (
    ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down"),
    ("lora_B", "lora_up", "lora.up", "lora_linear_layer.up"),
)
UNET_NAMES = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
TEXT_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""The layers of attention by the names that diffusers gave them in LoRA files before it used peft."""

OTHERS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w": "LoHa", "lokr_w": "LoKr", "lora_mid": "Tucker",
    "oft_": "OFT", "diff": "whole differences", "lora_embedding": "embedding", "glora": "GLoRA",
}  # fmt: skip
"""Kinds of adapters that are not low-rank pairs, by what their keys have in them."""


@dataclass(frozen=True)
class Pair(Generic[Array]):
    """The change of one layer's weight: scale · up · down, with up (out, r, …) and down (r, in, …)."""

    down: Array
    up: Array
    scale: float


@dataclass(frozen=True)
class Alphas:
    """peft's settings of one network: α and the rank's part in the scale; α is the rank where nothing is said."""

    alpha: float | None = None
    patterns: Mapping[str, float] | None = None
    square_root: bool = False

    def scale(self, layer: str, rank: int, alpha: float | None) -> float:
        """α/r of a layer, or α/√r (Kalajdzievski 2023); a number in the file itself comes before the settings."""
        if alpha is None:
            matching = [value for key, value in (self.patterns or {}).items() if re.match(rf"(.*\.)?({key})$", layer)]
            alpha = float(matching[0]) if matching else self.alpha
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.square_root else rank)


def pairs_of(tensors: Mapping[str, Any], settings: Mapping[str, Any], where: Path) -> dict[str, Pair[Any]]:
    """The factors among the tensors of a file, by the names that it gives the layers. settings: peft's, of the file.

    Raises one ``ValueError`` that names the file for keys that belong to no pair, and for other kinds of adapters.
    """
    down: dict[str, Any] = {}
    up: dict[str, Any] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, tensor in tensors.items():
        layer, part = _split(key)
        if part == "alpha":
            alphas[layer] = float(tensor)
        elif part in ("down", "up"):
            (down if part == "down" else up)[layer] = tensor
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f"'{where}' is no LoRA that can be applied: {_reason(unknown)}")
    alone = sorted(({*down} ^ {*up}) | ({*alphas} - {*down}))
    if alone or not down:
        named = f"{', '.join(alone[:4])} lacks a factor" if alone else "it holds no factors"
        raise ValueError(f"'{where}' is no whole LoRA: {named}; fetch or save it again")
    scales = {
        layer: _alphas(settings, layer, where).scale(layer, factor.shape[0], alphas.get(layer))
        for layer, factor in down.items()
    }
    return {layer: Pair(down[layer], up[layer], scale) for layer, scale in scales.items()}


def _split(key: str) -> tuple[str, str]:
    """A key as the layer that it changes and "down", "up", "alpha" or "" for what is none of these."""
    key = key.removeprefix("base_model.model.")
    if key.endswith(".alpha"):
        return key.removesuffix(".alpha"), "alpha"
    if found := re.match(r"(.+?)(\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$", key):
        layers = TEXT_NAMES if found[1].endswith(".self_attn") else UNET_NAMES
        return f"{found[1]}.{layers[found[3]]}", found[4]
    for part, names in (("down", DOWN), ("up", UP)):
        for name in names:
            if found := re.match(rf"(.+)\.{re.escape(name)}(?:\.default(?:_\d+)?)?\.weight$", key):
                return found[1], part
    return key, ""


def _reason(unknown: list[str]) -> str:
    kinds = {kind for key in unknown for mark, kind in OTHERS.items() if mark in key}
    what = (
        f"its layers are of kind {', '.join(sorted(kinds))}, and only pairs of low rank are read"
        if kinds
        else ("it has keys that belong to no pair of factors")
    )
    return f"{what}: {', '.join(sorted(unknown)[:3])}{' …' if len(unknown) > 3 else ''}"


def adapter_file(folder: Path) -> Path:
    """The file of a folder that peft wrote. Raises ``ValueError``."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"'{folder}' holds no adapter_model.safetensors: it is no folder that peft wrote")


def metadata(path: Path) -> dict[str, Any]:
    """peft's settings in the header of a safetensors file that diffusers wrote; none in other files."""
    from safetensors import safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA)
        found = json.loads(text) if text else {}
    except Exception:  # a damaged file: reading its tensors says so
        return {}
    return found if isinstance(found, dict) else {}


def _alphas(settings: Mapping[str, Any], layer: str, path: Path) -> Alphas:
    """The settings for a layer: those under the name of its network, or those of a folder for one network."""
    prefix = next((p for p in ("unet.", "text_encoder.", "text_encoder_2.") if layer.startswith(p)), "")
    mine = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if mine.get("use_dora"):
        raise ValueError(f"'{path}' is no LoRA that can be applied: it is a DoRA, and only pairs of low rank are read")
    alpha = mine.get("lora_alpha")
    return Alphas(
        None if alpha is None else float(alpha), mine.get("alpha_pattern") or {}, bool(mine.get("use_rslora"))
    )
