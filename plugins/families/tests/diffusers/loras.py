"""LoRA files of random factors in every layout, and the closed form W + s · α/r · BA applied to diffusers' modules."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 4
Size = tuple[int, float]
CONVOLUTIONS = ("conv_in", "downsamplers.0.conv", "resnets.0.conv1", "conv_shortcut")
LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "time_emb_proj", "linear_1")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
OLD_ATTENTION = {
    **{name: name for name in ("to_q", "to_k", "to_v", "to_out")},
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "out_proj": "to_out",
}
NETWORKS = {"unet": "unet", "text_encoder": "te", "text_encoder_2": "te2"}


class Lora:
    """Factors for layers of a pipeline's networks: {network: {layer: (down, up, alpha)}}.

    sizes: rank and α of a layer by its name and its number; without it, the rank is 4 and α differs between layers.
    """

    def __init__(
        self, pipe: Any, networks: tuple[str, ...], seed: int = 0, sizes: Callable[[str, int], Size] | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.two = getattr(pipe, "text_encoder_2", None) is not None
        self.factors: dict[str, dict[str, tuple[Tensor, Tensor, float]]] = {}
        for network in networks:
            ends = TEXT if network.startswith("text") else (*LINEAR, *CONVOLUTIONS)
            layer_factors = self.factors[network] = {}
            for name, layer in getattr(pipe, network).named_modules():
                if not name.endswith(ends) or not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                    continue
                out, *inside = layer.weight.shape
                rank, alpha = sizes(name, len(layer_factors)) if sizes else (RANK, float(1 + len(layer_factors) % 3))
                up = torch.randn(out, rank, *[1] * (len(inside) - 1), generator=generator)
                down = torch.randn(rank, *inside, generator=generator) * 0.3 / layer.weight[0].numel() ** 0.5
                layer_factors[name] = (down, up, alpha)

    def apply(self, pipe: Any, strength: float, alphas: bool) -> Any:
        """A copy of a pipeline's networks with the closed form in their weights."""
        changed = copy.deepcopy({name: getattr(pipe, name) for name in self.factors})
        for network, layers in self.factors.items():
            for name, (down, up, alpha) in layers.items():
                weight = changed[network].get_submodule(name).weight
                product = torch.einsum("or,r...->o...", up.flatten(1), down)
                weight.data += strength * (alpha / len(down) if alphas else 1.0) * product
        return changed

    def peft(self, path: Path, *, names: tuple[str, str] = ("lora_A", "lora_B"), metadata: bool = False) -> Path:
        """Write a file like diffusers' `save_lora_weights`; with metadata, each layer's alpha is in the header."""
        tensors: dict[str, Tensor] = {}
        header: dict[str, Any] = {}
        for network, layers in self.factors.items():
            for name, (down, up, _) in layers.items():
                layer = f"{network}.{old_name(name) if network.startswith('text') else name}"
                tensors |= {f"{layer}.{names[0]}.weight": down, f"{layer}.{names[1]}.weight": up}
            header |= {f"{network}.r": RANK, f"{network}.lora_alpha": 1.0}
            header[f"{network}.alpha_pattern"] = {name: alpha for name, (_, _, alpha) in layers.items()}
        file_metadata = {"lora_adapter_metadata": json.dumps(header)} if metadata else {"format": "pt"}
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=file_metadata)
        return path

    def before_peft(self, path: Path) -> Path:
        """Write a file like diffusers before it used peft: attention layers have other names."""
        tensors: dict[str, Tensor] = {}
        for network, layers in self.factors.items():
            for name, (down, up, _) in layers.items():
                layer = f"{network}.{old_name(name) if network.startswith('text') else name}"
                owner, _, last = layer.removesuffix(".0").rpartition(".")
                if last in OLD_ATTENTION:
                    layer = f"{owner}{'' if network.startswith('text') else '.processor'}.{OLD_ATTENTION[last]}_lora"
                else:
                    layer = f"{layer}.{'lora_linear_layer' if network.startswith('text') else 'lora'}"
                tensors |= {f"{layer}.down.weight": down, f"{layer}.up.weight": up}
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        return path

    def kohya(self, path: Path, *, unet_names: Any = None) -> Path:
        """Write a file like kohya's scripts: underscores for dots, and an alpha with each pair."""
        tensors: dict[str, Tensor] = {}
        for network, layers in self.factors.items():
            short = "te1" if self.two and network == "text_encoder" else NETWORKS[network]
            for name, (down, up, alpha) in layers.items():
                full = old_name(name) if network.startswith("text") else unet_names(name) if unet_names else name
                layer = f"lora_{short}_{full.replace('.', '_')}"
                tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
                tensors[f"{layer}.alpha"] = torch.tensor(alpha)
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        return path


def old_name(name: str) -> str:
    """The name of a text encoder's layer under `text_model.`, as transformers 4 has it."""
    return name if name.startswith("text_model.") else f"text_model.{name}"
