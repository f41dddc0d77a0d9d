"""Autoencoders of diffusers as an `Autoencoder`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidegraph import Autoencoder, current_dtype, node
from guidegraph_diffusers.folders import (
    find_part_folder,
    import_diffusers,
    load_model,
    read_class_name,
    read_json,
)

PARTS = ("vae", "vqvae", "movq")


def _by_blocks(config: Any) -> int:
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _by_encoder_blocks(config: Any) -> int:
    return int(2 ** (len(config["encoder_block_out_channels"]) - 1))


KNOWN: dict[str, tuple[str, Callable[[Any], int]]] = {
    "AutoencoderKL": ("latent_dist", _by_blocks),
    "VQModel": ("latents", _by_blocks),
    "AutoencoderTiny": ("latents", _by_encoder_blocks),
    "AutoencoderDC": ("latent", _by_encoder_blocks),
}
"""The field of `encode`'s output with the latents, and the factor of the pictures' sides."""


@node("diffusers.autoencoder", host=True)
def load_autoencoder(
    *, path: Path, part: str = "auto", variant: str | None = None, tiling: bool = False
) -> Autoencoder:
    """An autoencoder of diffusers, frozen: latents (B, C, h, w) are scaled and shifted as in its configuration.

    With `force_upcast` in its configuration it computes in float32 in a float16 run. path: a pipeline's folder, or
    the autoencoder's own. part: the pipeline's folder to take, by default `vae`, `vqvae` or `movq`. variant: `fp16` for
    files named so. tiling: large pictures in overlapping tiles, for less memory and a slightly different result.

    Raises an error for a class that is not supported, and for weights that are not safetensors or do not fit.
    """
    diffusers = import_diffusers()
    import torch

    from guidegraph_diffusers.networks import DiffusersAutoencoder

    folder = find_part_folder(path, part, PARTS)
    file = folder / "config.json"
    config = read_json(file)
    name = read_class_name(config, file, KNOWN)
    upcast = bool(config.get("force_upcast")) and current_dtype() == torch.float16
    network = load_model(getattr(diffusers, name), folder, variant, in_float32=upcast)
    field, factor = KNOWN[name]
    if tiling:
        if not hasattr(network, "use_tiling"):
            raise ValueError(f"a {name} has no tiling: leave `tiling` out")
        network.enable_tiling()
    autoencoder: Autoencoder = DiffusersAutoencoder(network, field, factor(network.config)).eval()
    return autoencoder
