"""DiT's `.pt` files (Peebles & Xie 2023), and DiTs of any layout under their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.filling import build_filled, check_axes
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.own.text_encoder import LabelConfig, LabelModel
from guidegraph.nodes.models.transformers.denoiser import DiTDenoiser
from guidegraph.nodes.models.transformers.dit import DiT, DiTConfig
from guidegraph.nodes.models.transformers.layers import sincos_positions
from guidegraph_families.guided_diffusion import build_schedule
from guidegraph_families.parts.measure import (
    PATCHES,
    POSITIONS,
    build_config,
    measure_patches,
    measure_side,
    refuse_settings,
    resolve_heads_and_schedule,
)

LABELS = "y_embedder.embedding_table.weight"
FIRST_BLOCK = "blocks.0.adaLN_modulation.1.weight"
HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
"""Heads by width and depth: the models S, B, L and XL of the authors' software. XL with patches of 2 is released."""

SCHEDULE = "linear"
"""β of the training of those models: 1000 steps."""

POSITION_TOLERANCE = 2**-8
"""Largest difference of stored positions from the sines and cosines; bfloat16 rounds by half of it."""


def is_dit(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of DiT's authors."""
    return all(name in tensors for name in (PATCHES, POSITIONS, FIRST_BLOCK))


def load_dit(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a DiT's `.pt`, frozen: `denoiser`, `label` and `schedule`.

    They are on the run's device and in its dtype. Raises ``ValueError`` that names the file for a size that the
    authors' software does not name if the options do not set its heads and its schedule, and for keys that are missing,
    left over or of another shape.
    """
    source = str(path)
    refuse_settings(source, "a DiT", options)
    measured = measure_patches(tensors, "blocks", "blocks.0.mlp.fc1.weight", source)
    size = (measured["width"], measured["depth"])
    heads, schedule = resolve_heads_and_schedule(source, "DiT", size, HEADS, SCHEDULE, options)
    kind = "eps" if options.prediction == "auto" else options.prediction
    config = build_config(
        DiTConfig, "DiT", source, **measured, grid=measure_side(tensors, source), heads=heads, kind=kind
    )
    return build_dit(config, tensors, source) | {"schedule": build_schedule(schedule)}


def build_dit(config: DiTConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` and `label` from tensors under the authors' names.

    The last row of the table of labels is the null class. Raises one ``ValueError`` that names `source` and all keys
    that are missing, left over or of another shape, and one for positions that are not the sines and cosines.
    """
    weights = dict(tensors)
    if POSITIONS in weights:
        check_positions(weights.pop(POSITIONS), config.width, config.grid, config.grid, source)
    if LABELS not in weights:
        raise ValueError(f"'{source}' holds no {LABELS}: it is incomplete, nothing was loaded")
    table = check_axes(weights.pop(LABELS), source, LABELS, 2)
    labels = LabelConfig(classes=table.shape[0] - 1, width=config.width)
    label = build_filled(lambda: LabelModel(labels), {"embedding.weight": table}, source)
    network = build_filled(lambda: DiT(config), weights, source)
    return {"label": label, "denoiser": DiTDenoiser(network).eval()}


def check_positions(stored: Tensor, width: int, side: int, grid: float, source: str) -> None:
    """Raise ``ValueError`` for stored positions (1, side², width) that are not those that the network computes."""
    expected = sincos_positions(width, (side, side), grid, torch.device("cpu"))[None]
    if stored.shape != expected.shape:
        raise ValueError(f"'{source}' does not fit: {POSITIONS} has the shape {tuple(stored.shape)}")
    if not stored.is_meta and not ((stored.float() - expected).abs() <= POSITION_TOLERANCE).all():
        raise ValueError(
            f"'{source}' holds other positions than the sines and cosines of its family: it is of another "
            "architecture, nothing was loaded"
        )
