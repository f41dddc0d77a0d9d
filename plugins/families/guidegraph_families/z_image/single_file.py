"""The transformer of Z-Image in the layout of its single files.

The denoiser predicts u = ε − x0 of a flow, at t = 1000 σ; `ZImage` has the network's own convention.
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
from guidegraph_families.parts.measure import (
    PREFIX,
    build_config,
    measure_shape,
    refuse_settings,
    strip_transformer,
)
from guidegraph_families.z_image.network import PATCH, ZImage, ZImageConfig, ZImageDenoiser

MARKS = ("x_pad_token", "cap_pad_token", "noise_refiner.0.attention.qkv.weight")
NO_USE = ("norm_final.weight",)
"""Weights of single files that the model does not use."""

SHIFT = 3.0
"""The shift of the levels of the released Turbo model."""

AXES = {128: (32, 48, 48)}
"""The axes of the rotation by the width of a head, of the releases."""


def is_z_image(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of Z-Image."""
    return any(all(prefix + name in tensors for name in MARKS) for prefix in ("", PREFIX))


def load_z_image(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the `denoiser` and the `schedule` of a single file of Z-Image, frozen, on the run's device and in its dtype.

    The schedule has the shift of Z-Image-Turbo. Raises ``ValueError`` that names the file for settings that it does not
    use, heads of a width that was not released, and keys that are missing, left over or of another shape.
    """
    source = str(path)
    refuse_settings(source, "a transformer of Z-Image", options)
    if options.heads is not None or options.head_channels is not None:
        raise ValueError(f"'{source}' is Z-Image, whose norms tell its heads: leave heads and head_channels out")
    if options.noise_schedule != "auto":
        raise ValueError(f"'{source}' is Z-Image, a flow, which has no β: leave noise_schedule out")
    stripped = strip_transformer(tensors, MARKS[0], (), source)
    weights = {name: tensor for name, tensor in stripped.items() if name not in NO_USE}
    settings = measure_z_image(weights, source)
    if options.prediction != "auto":
        settings["kind"] = options.prediction
    config = build_config(ZImageConfig, "Z-Image", source, **settings)
    return build_z_image(config, weights, source) | {"schedule": flow(shift=SHIFT)}


def measure_z_image(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Measure the hyper-parameters that the tensors show; the axes are as in the releases.

    Raises ``ValueError`` if a tensor is missing or misshapen, and for heads of another width than the releases have.
    """
    width, inputs = measure_shape(tensors, "x_embedder.weight", 2, source)
    head = measure_shape(tensors, "noise_refiner.0.attention.q_norm.weight", 1, source)[0]
    if head not in AXES:
        raise ValueError(
            f"'{source}' is a Z-Image with heads of width {head}, which was not released, and a single file does not "
            "tell the axes of its rotation: give it as a diffusers folder, whose config.json has axes_dims"
        )
    return {
        "in_channels": inputs // PATCH**2,
        "patch": PATCH,
        "width": width,
        "depth": 1 + max(numbers_in_names(tensors, r"layers\.(\d+)\."), default=-1),
        "refiners": 1 + max(numbers_in_names(tensors, r"noise_refiner\.(\d+)\."), default=-1),
        "heads": width // head,
        "hidden": measure_shape(tensors, "noise_refiner.0.feed_forward.w1.weight", 2, source)[0],
        "context_dim": measure_shape(tensors, "cap_embedder.1.weight", 2, source)[1],
        "axes": AXES[head],
    }


def build_z_image(config: ZImageConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` from tensors under the names of the single file.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape.
    """
    network = build_filled(lambda: ZImage(config), tensors, source)
    return {"denoiser": ZImageDenoiser(network).eval()}
