"""Builds first stages from tensors under CompVis names: infers the shape and fills the module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import numbers_in_names
from guidegraph.nodes.checkpoints.filling import check_axes, fill
from guidegraph.nodes.checkpoints.folders import FIRST_STAGE
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph_families.networks.autoencoder import FirstStageShape, ReleasedFirstStage, ReleasedKL, ReleasedVQ


def infer_first_stage_shape(tensors: Mapping[str, Tensor], source: str, groups: int = 32) -> FirstStageShape:
    """Infer the shape of a first stage from its tensors. Raises ``ValueError`` for other tensors.

    groups: of GroupNorm, which tensors do not show; 32 in all releases of latent diffusion.
    """
    missing = [name for name in FIRST_STAGE if name not in tensors]
    if missing:
        raise ValueError(f"'{source}' holds no first stage: {', '.join(missing)} is missing")
    for name, tensor in tensors.items():
        if name in FIRST_STAGE or name.endswith((".block.0.conv1.weight", "quant_conv.weight")):
            check_axes(tensor, source, name, 4)
        elif name == "quantize.embedding.weight":
            check_axes(tensor, source, name, 2)
    levels = 1 + max(numbers_in_names(tensors, r"encoder\.down\.(\d+)\."), default=-1)
    try:
        widths = tuple(tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
    except KeyError as error:
        raise ValueError(f"'{source}' holds no whole first stage: {error.args[0]} is missing") from None
    if not widths:
        raise ValueError(f"'{source}' holds no whole first stage: encoder.down.0.block.0.conv1.weight is missing")
    codes = tensors.get("quantize.embedding.weight")
    moments = 1 if codes is not None else 2
    z_channels = tensors["decoder.conv_in.weight"].shape[1]
    post = tensors.get("post_quant_conv.weight")
    return FirstStageShape(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        out_channels=tensors["decoder.conv_out.weight"].shape[0],
        widths=widths,
        blocks=len(numbers_in_names(tensors, r"encoder\.down\.0\.block\.(\d+)\.")),
        encoder_attention=tuple(sorted(numbers_in_names(tensors, r"encoder\.down\.(\d+)\.attn\."))),
        decoder_attention=tuple(sorted(numbers_in_names(tensors, r"decoder\.up\.(\d+)\.attn\."))),
        middle="encoder.mid.attn_1.q.weight" in tensors,
        z_channels=z_channels,
        latent_channels=_latent_channels(tensors, moments, z_channels if post is None else post.shape[1]),
        quant="quant_conv.weight" in tensors,
        post_quant=post is not None,
        codes=0 if codes is None else codes.shape[0],
        groups=groups,
    )


def build_first_stage(
    tensors: Mapping[str, Tensor], source: str, scale: float, groups: int = 32, shift: float = 0.0
) -> ReleasedFirstStage:
    """Build a frozen first stage from tensors under CompVis names, on the run's device and in its dtype.

    scale: factor that gives the latent unit variance. shift: its mean before that. Raises one ``ValueError`` that names
    `source` and the keys that are missing, left over or of another shape.
    """
    shape = infer_first_stage_shape(tensors, source, groups)
    try:
        with torch.device("meta"):
            module = (ReleasedVQ if shape.codes else ReleasedKL)(shape, scale, shift)
    except ValueError as error:
        raise ValueError(f"'{source}' holds no first stage that is known: {error}") from None
    fill(module, tensors, source)
    return module


FLOW_STAGE = FirstStageShape(z_channels=16, latent_channels=16, quant=False, post_quant=False)
"""The shape of the first stages of Stable Diffusion 3, Flux and Z-Image, which differ in scale and shift."""


def build_flow_first_stage(
    tensors: Mapping[str, Tensor], source: str, options: LoadOptions, released: tuple[float, float]
) -> ReleasedFirstStage:
    """Build the first stage in the file of a flow's transformer; `released` are the family's scale and shift.

    Raises ``ValueError`` that names `source` for another shape than the released one if the options do not set both,
    and for keys that are missing, left over or of another shape.
    """
    groups = options.groups or 32
    scale, shift = options.scale, options.shift
    if infer_first_stage_shape(tensors, source) == FLOW_STAGE:
        scale, shift = released[0] if scale is None else scale, released[1] if shift is None else shift
    if scale is None or shift is None:
        unset = [name for name, value in (("scale", scale), ("shift", shift)) if value is None]
        raise ValueError(
            f"'{source}' holds a first stage that was not released, and does not tell the {' and '.join(unset)} of its "
            "latents: set them on checkpoint.load as it was trained"
        )
    return build_first_stage(tensors, source, scale, groups, shift)


def _latent_channels(tensors: Mapping[str, Tensor], moments: int, default: int) -> int:
    quant = tensors.get("quant_conv.weight")
    return default if quant is None else quant.shape[0] // moments
