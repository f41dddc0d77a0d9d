"""What the layers of a denoiser and of a text encoder are called in LoRA files."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from guidegraph.nodes.checkpoints.diffusers_unet import unet_layout
from guidegraph.nodes.checkpoints.diffusers_unet_names import to_diffusers
from guidegraph.nodes.models.released_denoiser import ReleasedDenoiser
from guidegraph.nodes.models.released_text import ReleasedText

LAYERS = (nn.Linear, nn.Conv2d)


def denoiser_layers(denoiser: ReleasedDenoiser) -> dict[str, str]:
    """The weights of a U-Net's linear and convolutional layers by all the names that LoRA files have for them.

    diffusers' name with `unet.` before it or bare, and kohya's: diffusers' or the canonical one with underscores.
    """
    layout = unet_layout(denoiser.network.shape)
    names: dict[str, str] = {}
    for canonical, _ in _layers(denoiser.network):
        theirs = to_diffusers(canonical, layout)
        aliases = (theirs, f"unet.{theirs}", _kohya("unet", theirs), _kohya("unet", canonical))
        names.update(dict.fromkeys(aliases, f"network.{canonical}.weight"))
    return names


def text_layers(text: ReleasedText) -> dict[str, str]:
    """The same for the towers of a text encoder: `text_encoder` and `text_encoder_2`, kohya's `te`, `te1` and `te2`."""
    names: dict[str, str] = {}
    for number, tower in enumerate(text.towers):
        suffix = "" if number == 0 else f"_{number + 1}"
        short = [f"te{number + 1}", "te"][: 2 if len(text.towers) == 1 else 1]
        for name, _ in _layers(tower.model):  # type: ignore[arg-type]
            bare = name.removeprefix("text_model.")
            old = bare if bare.startswith("text_projection") else f"text_model.{bare}"
            aliases = [f"text_encoder{suffix}.{word}" for word in (bare, old)]
            aliases += [_kohya(te, word) for te in short for word in (bare, old)]
            aliases += [bare, old] if number == 0 else []
            names.update(dict.fromkeys(aliases, f"towers.{number}.model.{name}.weight"))
    return names


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LAYERS))


def _kohya(network: str, name: str) -> str:
    return f"lora_{network}_{name.replace('.', '_')}"
