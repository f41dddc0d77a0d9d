"""Single files of Stable Diffusion 3 and 3.5 (Esser et al. 2024): transformer, autoencoder and text encoders.

The model predicts u = ε − x0 of a flow, at t = 1000 σ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import numbers_in_names, strip_prefix
from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.transformers.denoiser import MMDiTDenoiser
from guidegraph.nodes.models.transformers.mmdit import MMDiT, MMDiTConfig
from guidegraph.nodes.sampling.schedule import flow
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.parts.first_stage import build_flow_first_stage
from guidegraph_families.parts.joined_text import load_sd3_text
from guidegraph_families.parts.measure import (
    PREFIX,
    build_config,
    measure_patches,
    measure_shape,
    measure_side,
    read_heads,
    refuse_settings,
    strip_transformer,
)

FIRST, TEXTS = "first_stage_model.", "text_encoders."
"""Beginnings of the names of the autoencoder and the text encoders in the same file."""

MARK = "joint_blocks.0.context_block.attn.qkv.weight"
HEADS = {(1536, 24): 24, (2432, 38): 38}
"""Heads by width and depth: Stable Diffusion 3 and 3.5 medium, and 3.5 large."""

FLOW: PredictionKind = "flow"
"""The kind of prediction of the released models."""

SHIFT = 3.0
"""The shift of the levels of all released models."""

LATENTS = (1.5305, 0.0609)
"""Scale and shift of the latents of the released autoencoder, whose shape others have as well."""


def is_sd3(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have the layout of Stable Diffusion 3."""
    return MARK in tensors or PREFIX + MARK in tensors


def load_sd3(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions) -> dict[str, Any]:
    """Load the parts of a file of Stable Diffusion 3 or 3.5, frozen, on the run's device and in its dtype.

    The parts are `denoiser`, `schedule`, and `autoencoder` and `text`, if present. Raises ``ValueError`` that names the
    file for a size that was not released if the options do not set its heads, or the scale and shift of its latents,
    and for keys that are missing, left over or of another shape.
    """
    source = str(path)
    weights, first, texts = _split(tensors, source)
    used = (*(("scale", "shift", "groups") if first else ()), *(("tokenizer", "t5") if texts else ()))
    refuse_settings(source, "a transformer of Stable Diffusion 3", options, used)
    if options.noise_schedule != "auto":
        raise ValueError(f"'{source}' is Stable Diffusion 3, a flow, which has no β: leave noise_schedule out")
    measured = measure_mmdit(weights, source)
    heads = resolve_heads(weights, measured["width"], measured["depth"], source, options)
    kind = FLOW if options.prediction == "auto" else options.prediction
    config = build_config(MMDiTConfig, "MMDiT", source, **measured, heads=heads, kind=kind)
    parts: dict[str, Any] = {"schedule": flow(shift=SHIFT)}
    if first:
        parts["autoencoder"] = build_flow_first_stage(first, source, options, LATENTS)
    if texts:
        parts["text"] = load_sd3_text(texts, path, options, config)
    return parts | build_mmdit(config, weights, source)


def _split(
    tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the transformer, the autoencoder and the text encoders, without the prefixes of their names.

    Raises ``ValueError`` for others.
    """
    transformer = strip_transformer(tensors, MARK, (FIRST, TEXTS), source)
    if PREFIX + MARK not in tensors:
        return transformer, {}, {}
    return transformer, strip_prefix(tensors, FIRST), strip_prefix(tensors, TEXTS)


def resolve_heads(weights: Mapping[str, Tensor], width: int, depth: int, source: str, options: LoadOptions) -> int:
    """The heads: from the norm of queries, the options, or else the release of this size.

    Raises ``ValueError`` if none of these has them, the first two differ, or the options do not divide the width.
    """
    heads = read_heads(source, width, options)
    norm = weights.get("joint_blocks.0.x_block.attn.ln_q.weight")
    if norm is not None and norm.numel():
        measured = width // norm.numel()
        if measured == 0:
            raise ValueError(
                f"'{source}' does not fit: queries are normalised in {norm.numel()} channels, and tokens have {width}: "
                "it is of another architecture, nothing was loaded"
            )
        if heads not in (None, measured):
            raise ValueError(f"'{source}' has {measured} heads by its norms: leave heads and head_channels out")
        return measured
    if heads is not None:
        return heads
    if (width, depth) in HEADS:
        return HEADS[width, depth]
    raise ValueError(
        f"'{source}' is an MMDiT of width {width} with {depth} blocks, which was not released, and its tensors do not "
        "tell heads or head_channels: set one on checkpoint.load as it was trained"
    )


def measure_mmdit(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Measure the hyper-parameters that the tensors show. Raises ``ValueError`` if one is missing or misshapen."""
    return {
        **measure_patches(tensors, "joint_blocks", "joint_blocks.0.x_block.mlp.fc1.weight", source),
        "context_dim": measure_shape(tensors, "context_embedder.weight", 2, source)[1],
        "vector_dim": measure_shape(tensors, "y_embedder.mlp.0.weight", 2, source)[1],
        "side": measure_side(tensors, source),
        "qk_norm": any(name.endswith(".ln_q.weight") for name in tensors),
        "dual": tuple(numbers_in_names(tensors, r"joint_blocks\.(\d+)\.x_block\.attn2\.")),
    }


def build_mmdit(config: MMDiTConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` from tensors under the names of the single file.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape.
    """
    network = build_filled(lambda: MMDiT(config), tensors, source)
    return {"denoiser": MMDiTDenoiser(network).eval()}
