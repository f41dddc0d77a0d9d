"""The transformer of Flux.1 in the layout of Black Forest Labs' single files (flux1-dev, flux1-schnell and others).

The model predicts u = ε − x0 of a flow, at t = 1000 σ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import numbers_in_names
from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling.schedule import flow
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.flux.network import PATCH, Flux, FluxConfig, FluxDenoiser
from guidegraph_families.parts.measure import (
    PREFIX,
    build_config,
    measure_shape,
    refuse_settings,
    strip_transformer,
)

OTHER_PARTS = ("vae.", "text_encoders.")
"""Beginnings of the names of the autoencoder and the text encoders in the same file, which are not loaded."""

MARK = "double_blocks.0.img_attn.qkv.weight"
HEAD_NORM = "double_blocks.0.img_attn.norm.query_norm.scale"
GUIDANCE = "guidance_in.in_layer.weight"

FLOW: PredictionKind = "flow"
"""The kind of prediction of the released models."""

AXES = {128: (16, 56, 56)}
"""The axes of the rotation by the width of a head: all releases have the same."""


def is_flux(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of Flux.1."""
    return MARK in tensors or PREFIX + MARK in tensors


def load_flux(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the `denoiser` and the `schedule` of a single file of Flux.1, frozen, on the run's device and in its dtype.

    The schedule has no shift, which depends on the size of the picture and on the model. The file's autoencoder and
    text encoders are not loaded. Raises ``ValueError`` that names the file for settings that it does not use, heads
    of a width that was not released, and keys that are missing, left over or of another shape.
    """
    source = str(path)
    refuse_settings(source, "a transformer of Flux.1", options)
    if options.heads is not None or options.head_channels is not None:
        raise ValueError(f"'{source}' is Flux.1, whose norms tell its heads: leave heads and head_channels out")
    if options.noise_schedule != "auto":
        raise ValueError(f"'{source}' is Flux.1, a flow, which has no β: leave noise_schedule out")
    weights = strip_transformer(tensors, MARK, OTHER_PARTS, source)
    settings = measure_flux(weights, source)
    if options.prediction != "auto":
        settings["kind"] = options.prediction
    config = build_config(FluxConfig, "Flux", source, **settings)
    return build_flux(config, weights, source) | {"schedule": flow()}


def measure_flux(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Measure the hyper-parameters that the tensors show; the axes are as in the releases.

    Raises ``ValueError`` if a tensor is missing or misshapen, and for heads of another width than the releases have.
    """
    area = PATCH**2
    width, inputs = measure_shape(tensors, "img_in.weight", 2, source)
    outputs = measure_shape(tensors, "final_layer.linear.weight", 2, source)[0]
    head = measure_shape(tensors, HEAD_NORM, 1, source)[0]
    if head not in AXES:
        raise ValueError(
            f"'{source}' is a Flux with heads of width {head}, which was not released, and a single file does not tell "
            "the axes of its rotation: give it as a diffusers folder, whose config.json has axes_dims_rope"
        )
    return {
        "in_channels": outputs // area,
        "spatial_channels": (inputs - outputs) // area,
        "patch": PATCH,
        "width": width,
        "depth": 1 + max(numbers_in_names(tensors, r"double_blocks\.(\d+)\."), default=-1),
        "single_depth": 1 + max(numbers_in_names(tensors, r"single_blocks\.(\d+)\."), default=-1),
        "heads": width // head,
        "hidden": measure_shape(tensors, "double_blocks.0.img_mlp.0.weight", 2, source)[0],
        "context_dim": measure_shape(tensors, "txt_in.weight", 2, source)[1],
        "vector_dim": measure_shape(tensors, "vector_in.in_layer.weight", 2, source)[1],
        "axes": AXES[head],
        "guidance": GUIDANCE in tensors,
    }


def build_flux(config: FluxConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` from tensors under the names of the single file.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape.
    """
    network = build_filled(lambda: Flux(config), tensors, source)
    return {"denoiser": FluxDenoiser(network).eval()}
