"""PixArt-Σ in its authors' files (Chen et al. 2024), and PixArts of any layout under their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph_families.dit.single_file import check_positions
from guidegraph_families.guided_diffusion import build_schedule
from guidegraph_families.parts.measure import (
    POSITIONS,
    build_config,
    measure_patches,
    measure_shape,
    measure_side,
    refuse_settings,
    resolve_heads_and_schedule,
)
from guidegraph_families.pixart.network import PixArt, PixArtConfig, PixArtDenoiser

CAPTION = "y_embedder.y_proj.fc1.weight"
SHARED = "t_block.1.weight"
FIRST_BLOCK = "blocks.0.scale_shift_table"
NULL_CAPTION = "y_embedder.y_embedding"
"""Embedding of no text in training; drawing takes an empty prompt's."""

SIZES = ("csize_embedder.mlp.0.weight", "ar_embedder.mlp.0.weight")
"""Embeddings of the picture's size, which only PixArt-α at 1024 pixels has."""

HEADS = {(1152, 28): 16}
"""The heads of all released models, by width and depth."""

SCHEDULE = "linear"
SIGMA_TOKENS = 300
"""Tokens of the embedding of no text in PixArt-Σ; PixArt-α has 120."""

SIGMA_GRID = 32.0
"""The largest position of every released PixArt-Σ: the patches of a side over its `pe_interpolation`."""


def is_pixart(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of PixArt's authors."""
    return all(name in tensors for name in (CAPTION, SHARED, FIRST_BLOCK))


def load_pixart(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the `denoiser` and the `schedule` of a PixArt's file, frozen, on the run's device and in its dtype.

    Raises ``ValueError`` that names the file for a size that was not released if the options do not set its heads and
    its schedule, for positions that the file does not show, and for keys that are missing, left over or of another
    shape.
    """
    source = str(path)
    refuse_settings(source, "a PixArt", options)
    if any(name in tensors for name in SIZES):
        raise ValueError(
            f"'{source}' is PixArt-α with embeddings of the picture's size, which is not supported: use PixArt-Σ"
        )
    measured = measure_pixart(tensors, source)
    size = (measured["width"], measured["depth"])
    heads, schedule = resolve_heads_and_schedule(source, "PixArt", size, HEADS, SCHEDULE, options)
    kind = "eps" if options.prediction == "auto" else options.prediction
    config = build_config(
        PixArtConfig, "PixArt", source, **measured, heads=heads, grid=resolve_grid(tensors, source), kind=kind
    )
    weights = {name: tensor for name, tensor in tensors.items() if name != NULL_CAPTION}
    return build_pixart(config, weights, source) | {"schedule": build_schedule(schedule)}


def measure_pixart(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Measure the hyper-parameters that the tensors show. Raises ``ValueError`` if one is missing or misshapen."""
    return {
        **measure_patches(tensors, "blocks", "blocks.0.mlp.fc1.weight", source),
        "context_dim": measure_shape(tensors, CAPTION, 2, source)[1],
    }


def resolve_grid(tensors: Mapping[str, Tensor], source: str) -> float:
    """The largest position: from stored positions, else PixArt-Σ's, known by its embedding of no text.

    Raises ``ValueError`` if the file holds neither.
    """
    if POSITIONS in tensors:
        side = measure_side(tensors, source)
        width = tensors[POSITIONS].shape[2]
        if side < 2 or width < 4 or tensors[POSITIONS].is_meta:
            return SIGMA_GRID
        sine, cosine = (float(tensors[POSITIONS][0, 1, index]) for index in (0, width // 4))
        step = math.atan2(sine, cosine)  # between neighbouring positions; the first frequency is 1
        return side * 2.0 ** round(math.log2(step)) if step > 0 else SIGMA_GRID
    if NULL_CAPTION in tensors and measure_shape(tensors, NULL_CAPTION, 2, source)[0] == SIGMA_TOKENS:
        return SIGMA_GRID
    raise ValueError(
        f"'{source}' is a PixArt that does not tell its positions: it holds no {POSITIONS}, and no {NULL_CAPTION} of "
        f"{SIGMA_TOKENS} tokens as PixArt-Σ. Load the folder that diffusers wrote instead, whose config.json tells them"
    )


def build_pixart(config: PixArtConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` from tensors under the authors' names.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape, and one
    for stored positions that are not the sines and cosines.
    """
    weights = dict(tensors)
    if POSITIONS in weights:
        side = measure_side(weights, source)
        check_positions(weights.pop(POSITIONS), config.width, side, config.grid, source)
    network = build_filled(lambda: PixArt(config), weights, source)
    return {"denoiser": PixArtDenoiser(network).eval()}
