"""Infers the hyper-parameters of a U-Net in the canonical layout from the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import numbers_in_names
from guidegraph.nodes.checkpoints.filling import build_filled, check_axes
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.networks.config import ClassifierShape, UNetShape, count_heads
from guidegraph_families.networks.denoiser import ReleasedDenoiser, ReleasedLabels
from guidegraph_families.networks.unet import ReleasedUNet

GROUPS = 32
"""Groups of every GroupNorm: a constant in the software of guided-diffusion and latent diffusion."""


@dataclass(frozen=True)
class Structure:
    """Hyper-parameters inferred from tensors, which do not show the layout of the heads; see UNetShape.

    inputs: channels of the first convolution. outputs: of the last, 0 without one (a classifier).
    """

    inputs: int
    outputs: int
    channels: int
    widths: tuple[int, ...]
    blocks: int
    depths: tuple[int, ...]
    middle_depth: int
    context_dim: int | None
    linear_projections: bool
    scale_shift: bool
    resblock_updown: bool
    classes: int | None
    adm_channels: int | None
    resample_convolution: bool = True

    @property
    def attention_levels(self) -> tuple[int, ...]:
        return tuple(level for level, depth in enumerate(self.depths) if depth)


@dataclass(frozen=True)
class Heads:
    """Layout of the attention heads: their number, or the width of each, and the order of q, k and v.

    upsample: their number on the way up (`num_heads_upsample`); None means the same as elsewhere.
    """

    heads: int | None = None
    head_channels: int | None = None
    order: Literal["legacy", "new"] = "legacy"
    upsample: int | None = None


@dataclass(frozen=True)
class InputBlock:
    """An input block: a residual block with attention of depth `depth` (0: none), or a change of the resolution.

    convolution: resamples by a strided convolution. pooled: resamples by a mean, without tensors.
    """

    convolution: bool
    changes: bool
    width: int
    depth: int
    pooled: bool = False

    @property
    def resamples(self) -> bool:
        return self.convolution or self.pooled


def infer_unet_shape(
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    samples: int,
    heads: Heads,
    kind: PredictionKind = "eps",
    groups: int = GROUPS,
) -> UNetShape:
    """Infer the shape of a U-Net from its tensors.

    samples: channels of x; further channels of the first convolution are the spatial condition's. groups: of GroupNorm.
    Raises ``ValueError`` that names `source` for tensors of other networks.
    """
    measured = infer_structure(tensors, source)
    try:
        return _trunk(measured, samples, measured.outputs, heads, kind, groups)
    except ValueError as error:
        raise ValueError(f"'{source}': {error}") from None


def infer_classifier_shape(
    tensors: Mapping[str, Tensor], source: str, *, heads: Heads, pool_head_channels: int, groups: int = GROUPS
) -> ClassifierShape:
    """Infer the shape of a classifier of noisy samples, with its pool, from its tensors; see `infer_unet_shape`."""
    measured = infer_structure(tensors, source)
    try:
        trunk = _trunk(measured, measured.inputs, measured.inputs, heads, "eps", groups)
    except ValueError as error:
        raise ValueError(f"'{source}': {error}") from None
    if "out.2.positional_embedding" in tensors:
        return _attention_pool(tensors, source, trunk, pool_head_channels)
    first = tensors.get("out.0.weight")
    if first is not None and first.ndim == 1:
        return ClassifierShape(trunk, _require(tensors, source, "out.3.weight", 4).shape[0], pool="adaptive")
    hidden = _require(tensors, source, "out.0.weight", 2).shape[0]
    if "out.1.weight" in tensors:
        classes = _require(tensors, source, "out.3.weight", 2).shape[0]
        return ClassifierShape(trunk, classes, pool="spatial_v2", hidden=hidden)
    return ClassifierShape(trunk, _require(tensors, source, "out.2.weight", 2).shape[0], pool="spatial", hidden=hidden)


def _attention_pool(
    tensors: Mapping[str, Tensor], source: str, trunk: UNetShape, head_channels: int
) -> ClassifierShape:
    positions = _require(tensors, source, "out.2.positional_embedding", 2).shape
    classes = _require(tensors, source, "out.2.c_proj.weight", 3).shape[0]
    side = math.isqrt(positions[-1] - 1)
    if side * side != positions[1] - 1:
        raise ValueError(f"'{source}': out.2.positional_embedding {tuple(positions)} is of no square of pixels")
    if positions[0] % head_channels:
        raise ValueError(f"'{source}': heads of {head_channels} channels do not share {positions[0]}")
    return ClassifierShape(trunk, classes, side * trunk.factor, pool_heads=positions[0] // head_channels)


def _trunk(
    measured: Structure, samples: int, outputs: int, heads: Heads, kind: PredictionKind, groups: int
) -> UNetShape:
    _check_head_channels(measured, heads)
    return UNetShape(
        in_channels=samples,
        spatial_channels=measured.inputs - samples,
        out_channels=outputs,
        channels=measured.channels,
        widths=measured.widths,
        blocks=measured.blocks,
        depths=measured.depths,
        heads=count_heads(measured.widths, heads=heads.heads, head_channels=heads.head_channels),
        middle_depth=measured.middle_depth,
        context_dim=measured.context_dim,
        linear_projections=measured.linear_projections,
        new_attention_order=heads.order == "new",
        scale_shift=measured.scale_shift,
        resblock_updown=measured.resblock_updown,
        classes=measured.classes,
        adm_channels=measured.adm_channels,
        groups=groups,
        kind=kind,
        upsample_heads=() if heads.upsample is None else count_heads(measured.widths, heads=heads.upsample),
        resample_convolution=measured.resample_convolution,
    )


def _check_head_channels(measured: Structure, heads: Heads) -> None:
    """Raise ``ValueError`` if the width of a head does not divide the width of a level with attention."""
    depths = (*measured.depths, measured.middle_depth)
    for width, depth in zip((*measured.widths, measured.widths[-1]), depths, strict=True):
        if depth and heads.head_channels is not None and width % heads.head_channels:
            raise ValueError(
                f"a level with attention has {width} channels, which is not a multiple of head_channels = "
                f"{heads.head_channels}: set heads or head_channels as it was trained"
            )


def infer_structure(tensors: Mapping[str, Tensor], source: str) -> Structure:
    """Infer the structure from names and shapes of tensors. Raises ``ValueError`` that names a missing tensor."""
    if tensors and not any(name.startswith("input_blocks.") for name in tensors):
        raise ValueError(
            f"'{source}' is of a family that is not known: its denoiser holds {', '.join(sorted(tensors)[:3])}, and no "
            "input_blocks as the U-Nets of guided-diffusion, latent diffusion, Stable Diffusion 1 and 2, and SDXL do"
        )
    stem = _require(tensors, source, "input_blocks.0.0.weight", 4).shape
    count = 1 + max(numbers_in_names(tensors, r"input_blocks\.(\d+)\."))
    stages = [_input_block(tensors, source, index) for index in range(1, count)]
    blocks = _blocks(tensors, stages, source)
    levels = _levels(stages, blocks)
    if levels is None:
        raise ValueError(
            f"'{source}': its {count} input blocks are no levels of {blocks} residual blocks that have one width and "
            "one attention each; only such U-Nets are read"
        )
    first = _require(tensors, source, "input_blocks.1.0.emb_layers.1.weight", 2).shape[0]
    projection = next((t for name, t in tensors.items() if name.endswith(".1.proj_in.weight")), None)
    key = next((name for name in tensors if name.endswith(".transformer_blocks.0.attn2.to_k.weight")), None)
    outputs = 0
    if any(name.startswith("output_blocks.") for name in tensors):
        outputs = _require(tensors, source, "out.2.weight", 4).shape[0]
    return Structure(
        inputs=stem[1],
        outputs=outputs,
        channels=_require(tensors, source, "time_embed.0.weight", 2).shape[1],
        widths=tuple(level[0].width for level in levels),
        blocks=blocks,
        depths=tuple(level[0].depth for level in levels),
        middle_depth=_depth(tensors, "middle_block."),
        context_dim=None if key is None else _require(tensors, source, key, 2).shape[1],
        linear_projections=projection is not None and projection.ndim == 2,
        scale_shift=first == 2 * levels[0][0].width,
        resblock_updown=len(levels) > 1 and not any(stage.resamples for stage in stages),
        classes=_axis_length(tensors, source, "label_emb.weight", 0),
        adm_channels=_axis_length(tensors, source, "label_emb.0.0.weight", 1),
        resample_convolution=not any(stage.pooled for stage in stages),
    )


def _input_block(tensors: Mapping[str, Tensor], source: str, index: int) -> InputBlock:
    prefix = f"input_blocks.{index}."
    if not any(name.startswith(prefix) for name in tensors):
        return InputBlock(
            False,
            False,
            _require(tensors, source, f"input_blocks.{index - 1}.0.in_layers.2.weight", 4).shape[0],
            0,
            True,
        )
    if f"{prefix}0.op.weight" in tensors:
        return InputBlock(True, False, _require(tensors, source, f"{prefix}0.op.weight", 4).shape[0], 0)
    width = _require(tensors, source, f"{prefix}0.in_layers.2.weight", 4).shape[0]
    return InputBlock(False, f"{prefix}0.skip_connection.weight" in tensors, width, _depth(tensors, prefix))


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Depth of the attention after the first residual block, 0 without one."""
    if f"{prefix}1.qkv.weight" in tensors:
        return 1
    pattern = re.escape(prefix) + r"1\.transformer_blocks\.(\d+)\."
    return 1 + max(numbers_in_names(tensors, pattern), default=-1)


def _blocks(tensors: Mapping[str, Tensor], stages: list[InputBlock], source: str) -> int:
    """Number of residual blocks of each level.

    It follows from the first layer that halves the resolution, or the first output block that doubles it. A classifier
    with residual blocks for both has neither; there it is the only number for which each level has a single width and
    attention depth.
    """
    if (halving := next((i for i, stage in enumerate(stages) if stage.resamples), None)) is not None:
        return halving
    if any(name.startswith("output_blocks.") for name in tensors):
        doubling = r"output_blocks\.(\d+)\.[12]\.(?:in_layers|conv)\."
        return min(numbers_in_names(tensors, doubling), default=len(stages))
    fitting = [blocks for blocks in range(1, len(stages) + 1) if _levels(stages, blocks) is not None]
    if len(fitting) != 1:
        raise ValueError(
            f"'{source}': its {len(stages) + 1} input blocks do not tell where a level ends: "
            f"{' or '.join(map(str, fitting)) or 'no number of'} residual blocks for each level would do"
        )
    return fitting[0]


def _levels(stages: list[InputBlock], blocks: int) -> list[list[InputBlock]] | None:
    """Group the residual blocks by level, or None if `blocks` for each level does not fit."""
    period = blocks + 1
    if blocks < 1 or (len(stages) + 1) % period:
        return None
    levels = [stages[start : start + blocks] for start in range(0, len(stages), period)]
    between = stages[blocks::period]
    alike = all(
        stage.width == level[0].width
        and stage.depth == level[0].depth
        and not stage.resamples
        and (stage is level[0] or not stage.changes)
        for level in levels
        for stage in level
    )
    plain = all(
        stage.width == level[0].width and not stage.depth and not stage.changes
        for stage, level in zip(between, levels, strict=False)
    )
    same = len({(stage.convolution, stage.pooled) for stage in between}) <= 1
    return levels if alike and plain and same else None


def _require(tensors: Mapping[str, Tensor], source: str, name: str, axes: int) -> Tensor:
    """Return a tensor by its name. Raises ``ValueError`` if it is missing or has another number of axes."""
    if name not in tensors:
        raise ValueError(
            f"'{source}' holds no whole U-Net: {name} is missing. It is of a family that is not known, or incomplete: "
            "nothing was loaded"
        )
    return check_axes(tensors[name], source, name, axes)


def _axis_length(tensors: Mapping[str, Tensor], source: str, name: str, axis: int) -> int | None:
    """Length of an axis of a matrix, or None if the matrix is missing."""
    return _require(tensors, source, name, 2).shape[axis] if name in tensors else None


LABELS = "label_emb.weight"


def build_denoiser(shape: UNetShape, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Build the frozen `denoiser` and, for a U-Net with classes, `label`, on the run's device and in its dtype.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over or of another shape.
    """
    parts: dict[str, Any] = {}
    weights = dict(tensors)
    if (classes := shape.classes) is not None:
        labels = {LABELS: weights.pop(LABELS)} if LABELS in weights else {}
        parts["label"] = build_filled(lambda: ReleasedLabels(classes, shape.embedding), labels, source)
    network = build_filled(lambda: ReleasedUNet(shape), weights, source)
    return parts | {"denoiser": ReleasedDenoiser(network).eval()}
