"""The names in LoRA files of the layers of a denoiser and a text encoder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.models.networks.low_rank import LAYERS, low_rank_layers
from guidegraph_runtime.lora.pairs import find_adapter_file, pair_factors
from guidegraph_runtime.lora.peft_settings import METADATA, read_folder_settings, read_header_settings


def denoiser_layers(network: nn.Module, prefix: str = "network.") -> dict[str, str]:
    """Map all names in LoRA files of a network's linear and convolutional layers to the denoiser's weights.

    prefix: of the network's names in the denoiser.

    These are diffusers' name with or without the prefix `unet.`, the canonical name with the prefix `diffusion_model.`,
    as in single files, and kohya's: diffusers' or the canonical name with underscores. The layers of a transformer,
    and of a network of `model.load`, have only the canonical name.
    """
    published = map_file_names(network, [name for name, _ in _layers(network)])
    names: dict[str, str] = {}
    for canonical, theirs in published.items():
        kohya = (kohya_name("unet", theirs), kohya_name("unet", canonical))
        aliases = (theirs, f"unet.{theirs}", f"diffusion_model.{canonical}", *kohya)
        names.update(dict.fromkeys(aliases, f"{prefix}{canonical}.weight"))
    return names


def denoiser_rows(network: nn.Module, prefix: str = "network.") -> dict[str, LayerRows]:
    """Map all names in LoRA files of a network's layers to the denoiser's weights, or to some rows of one.

    Beside `denoiser_layers`: layers with the prefix `transformer.`, and those of a transformer that diffusers has
    apart, such as queries, keys and values, with `transformer.`, without it, and in kohya's form.
    """
    rows = {name: LayerRows(weight) for name, weight in denoiser_layers(network, prefix).items()}
    published = transformer_layers(network)
    own = [canonical for canonical, _ in _layers(network)]
    for canonical in own:
        rows[f"transformer.{canonical}"] = LayerRows(f"{prefix}{canonical}.weight")
    for theirs, part in published.items():
        if part.layer not in own:
            continue
        weight = replace(part, layer=f"{prefix}{part.layer}.weight")
        kohya = (kohya_name("transformer", theirs), kohya_name("unet", theirs))
        rows |= dict.fromkeys((theirs, f"transformer.{theirs}", f"diffusion_model.{theirs}", *kohya), weight)
    return rows


def transformer_layers(network: nn.Module) -> dict[str, LayerRows]:
    """A transformer's layers by their names in diffusers, where these are others; empty for other networks.

    A network says so by its method ``list_lora_layers()``.
    """
    layers: dict[str, LayerRows] = published() if (published := getattr(network, "list_lora_layers", None)) else {}
    return layers


def map_file_names(network: nn.Module, canonical: Iterable[str]) -> dict[str, str]:
    """Map canonical names of layers to those in files, which a network gives by its method ``name_in_files(name)``."""
    published = getattr(network, "name_in_files", str)
    return {name: published(name) for name in canonical}


def lora_tensors(network: nn.Module, layout: Literal["kohya", "peft"], dtype: torch.dtype) -> dict[str, Tensor]:
    """The factors of a network's low-rank changes as the tensors of a LoRA file, on the CPU.

    kohya's layout stores α as a tensor; peft's has α and the rank in its settings: see `peft_settings`.
    """
    changes = dict(low_rank_layers(network))
    tensors: dict[str, Tensor] = {}
    if layout == "kohya":
        names = map_file_names(network, changes)
        layers = {kohya_name("unet", theirs): LayerRows(canonical) for canonical, theirs in names.items()}
        for name, rows in layers.items():
            tensors[f"{name}.alpha"] = torch.tensor(changes[rows.layer].alpha, dtype=torch.float32)
    else:
        layers = peft_layers(network, changes)
    down, up = ("lora_down", "lora_up") if layout == "kohya" else ("lora_A", "lora_B")
    for name, rows in layers.items():
        change = changes[rows.layer]
        factors = {down: change.lora_A, up: rows.arrange(rows.select(change.lora_B))}  # swapping twice changes nothing
        for part, factor in factors.items():
            tensors[f"{name}.{part}.weight"] = factor.detach().to("cpu", dtype, copy=True).contiguous()
    return tensors


def peft_layers(network: nn.Module, canonical: Collection[str]) -> dict[str, LayerRows]:
    """Map diffusers' names, with the network's prefix, to layers with canonical names, or to the rows of one.

    A pipeline of diffusers calls a network `transformer` if its class has that in its name, and else `unet`.
    """
    published = transformer_layers(network)
    if not published:
        prefix = "transformer" if "Transformer" in type(network).__name__ else "unet"
        return {f"{prefix}.{theirs}": LayerRows(name) for name, theirs in map_file_names(network, canonical).items()}
    renamed = {rows.layer for rows in published.values()}
    layers = {theirs: rows for theirs, rows in published.items() if rows.layer in canonical}
    layers |= {name: LayerRows(name) for name in canonical if name not in renamed}
    return {f"transformer.{theirs}": rows for theirs, rows in layers.items()}


def peft_settings(network: nn.Module) -> dict[str, str]:
    """The header of a file in peft's layout, as diffusers writes it: rank, α and the layers of `lora.new`."""
    changes = dict(low_rank_layers(network))
    first = next(iter(changes.values()))
    names = [name.partition(".") for name in peft_layers(network, changes)]
    prefix = names[0][0]
    settings = {
        f"{prefix}.r": first.rank,
        f"{prefix}.lora_alpha": first.alpha,
        f"{prefix}.target_modules": sorted(layer for _, _, layer in names),
    }
    return {"format": "pt", METADATA: json.dumps(settings)}


def text_layers(models: Sequence[nn.Module]) -> dict[str, str]:
    """Map all names in LoRA files of the layers of a text encoder's CLIP models to the encoder's weights.

    The prefixes are `text_encoder` and `text_encoder_2`, or kohya's `te`, `te1` and `te2`; its `te3` is T5, also
    in Flux.1, whose second encoder is T5.
    """
    names: dict[str, str] = {}
    for number, model in enumerate(models):
        suffix = "" if number == 0 else f"_{number + 1}"
        short = [f"te{number + 1}", "te"][: 2 if len(models) == 1 else 1]
        if getattr(getattr(model, "config", None), "model_type", None) == "t5":
            short.append("te3")
        for name, _ in _layers(model):
            bare = name.removeprefix("text_model.")
            with_prefix = bare if bare.startswith("text_projection") else f"text_model.{bare}"
            aliases = [f"text_encoder{suffix}.{word}" for word in (bare, with_prefix)]
            aliases += [kohya_name(te, word) for te in short for word in (bare, with_prefix)]
            aliases += [bare, with_prefix] if number == 0 else []
            names.update(dict.fromkeys(aliases, f"towers.{number}.model.{name}.weight"))
    return names


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LAYERS))


def kohya_name(network: str, name: str) -> str:
    """The name of a layer in kohya's files."""
    return f"lora_{network}_{name.replace('.', '_')}"


@dataclass(frozen=True)
class Factors:
    """The change of one layer's weight: scale · up · down, with up (out, r, …) and down (r, in, …)."""

    down: Tensor
    up: Tensor
    scale: float

    def difference(self, weight: Tensor) -> Tensor | None:
        """The change as float32 with the shape and device of a weight, or None if the shapes do not fit."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        if up.shape[0] != weight.shape[0] or down.shape[1] != weight[0].numel() or up.shape[1] != down.shape[0]:
            return None
        product = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
        return self.scale * product.reshape(weight.shape)


def read_lora(path: Path) -> dict[str, Factors]:
    """Read the factors of a LoRA file or a peft folder, by its names of the layers.

    Raises one ``ValueError`` that names the file for unpaired keys, for settings of wrong types, and for other kinds of
    adapters.
    """
    if path.is_dir():
        settings, file = read_folder_settings(path), find_adapter_file(path)
    else:
        settings, file = read_header_settings(path), path
    pairs = pair_factors(read_tensors(file), settings, file)
    return {layer: Factors(pair.down, pair.up, pair.scale) for layer, pair in pairs.items()}
