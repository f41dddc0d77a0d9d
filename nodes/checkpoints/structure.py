"""The hyper-parameters of a U-Net in the canonical layout, told from the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import with_axes
from guidegraph.nodes.models.released_config import ClassifierShape, UNetShape, heads_of
from guidegraph.nodes.types import PredictionKind


@dataclass(frozen=True)
class Structure:
    """What the tensors tell; see UNetShape. How the heads are laid out they do not tell.

    inputs: channels of the first convolution. outputs: of the last, 0 where there is none (a classifier).
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

    @property
    def attention_levels(self) -> tuple[int, ...]:
        return tuple(level for level, depth in enumerate(self.depths) if depth)


@dataclass(frozen=True)
class Heads:
    """How the attention's heads are laid out: their number, or the width of each, and the order of q, k and v."""

    heads: int | None = None
    head_channels: int | None = None
    order: Literal["legacy", "new"] = "legacy"


@dataclass(frozen=True)
class Stage:
    """One of the input blocks: a strided convolution, or a residual block with attention of some depth, or none."""

    convolution: bool
    changes: bool
    width: int
    depth: int


def unet_shape(
    tensors: Mapping[str, Tensor], where: str, *, samples: int, heads: Heads, kind: PredictionKind = "eps"
) -> UNetShape:
    """The shape of the U-Net that tensors belong to.

    samples: channels of x; those of the first convolution beyond it are the spatial condition's. Raises ``ValueError``
    that names `where` for tensors that belong to no such U-Net.
    """
    found = measure(tensors, where)
    try:
        return _trunk(found, samples, found.outputs, heads, kind)
    except ValueError as error:
        raise ValueError(f"'{where}': {error}") from None


def classifier_shape(
    tensors: Mapping[str, Tensor], where: str, *, heads: Heads, pool_head_channels: int
) -> ClassifierShape:
    """The shape of the classifier of noisy samples that tensors belong to; see unet_shape."""
    found = measure(tensors, where)
    positions = _needed(tensors, where, "out.2.positional_embedding", 2).shape
    classes = _needed(tensors, where, "out.2.c_proj.weight", 3).shape[0]
    side = math.isqrt(positions[-1] - 1)
    if side * side != positions[1] - 1:
        raise ValueError(f"'{where}': out.2.positional_embedding {tuple(positions)} is of no square of pixels")
    try:
        trunk = _trunk(found, found.inputs, found.inputs, heads, "eps")
    except ValueError as error:
        raise ValueError(f"'{where}': {error}") from None
    if positions[0] % pool_head_channels:
        raise ValueError(f"'{where}': heads of {pool_head_channels} channels do not share {positions[0]}")
    return ClassifierShape(trunk, classes, side * trunk.factor, positions[0] // pool_head_channels)


def _trunk(found: Structure, samples: int, outputs: int, heads: Heads, kind: PredictionKind) -> UNetShape:
    return UNetShape(
        in_channels=samples,
        spatial_channels=found.inputs - samples,
        out_channels=outputs,
        channels=found.channels,
        widths=found.widths,
        blocks=found.blocks,
        depths=found.depths,
        heads=heads_of(found.widths, heads=heads.heads, head_channels=heads.head_channels),
        middle_depth=found.middle_depth,
        context_dim=found.context_dim,
        linear_projections=found.linear_projections,
        new_attention_order=heads.order == "new",
        scale_shift=found.scale_shift,
        resblock_updown=found.resblock_updown,
        classes=found.classes,
        adm_channels=found.adm_channels,
        kind=kind,
    )


def measure(tensors: Mapping[str, Tensor], where: str) -> Structure:
    """What the names and shapes of tensors tell. Raises ``ValueError`` that names `where` and what is missing."""
    stem = _needed(tensors, where, "input_blocks.0.0.weight", 4).shape
    count = 1 + max(_numbers(tensors, r"input_blocks\.(\d+)\."))
    stages = [_stage(tensors, where, index) for index in range(1, count)]
    blocks = _blocks(tensors, stages, where)
    levels = _levels(stages, blocks)
    if levels is None:
        raise ValueError(
            f"'{where}': its {count} input blocks are no levels of {blocks} residual blocks that have one width and "
            "one attention each; only such U-Nets are read"
        )
    first = _needed(tensors, where, "input_blocks.1.0.emb_layers.1.weight", 2).shape[0]
    projection = next((t for name, t in tensors.items() if name.endswith(".1.proj_in.weight")), None)
    key = next((name for name in tensors if name.endswith(".transformer_blocks.0.attn2.to_k.weight")), None)
    outputs = 0
    if any(name.startswith("output_blocks.") for name in tensors):
        outputs = _needed(tensors, where, "out.2.weight", 4).shape[0]
    return Structure(
        inputs=stem[1],
        outputs=outputs,
        channels=_needed(tensors, where, "time_embed.0.weight", 2).shape[1],
        widths=tuple(level[0].width for level in levels),
        blocks=blocks,
        depths=tuple(level[0].depth for level in levels),
        middle_depth=_depth(tensors, "middle_block."),
        context_dim=None if key is None else _needed(tensors, where, key, 2).shape[1],
        linear_projections=projection is not None and projection.ndim == 2,
        scale_shift=first == 2 * levels[0][0].width,
        resblock_updown=len(levels) > 1 and not any(stage.convolution for stage in stages),
        classes=_length(tensors, where, "label_emb.weight", 0),
        adm_channels=_length(tensors, where, "label_emb.0.0.weight", 1),
    )


def _stage(tensors: Mapping[str, Tensor], where: str, index: int) -> Stage:
    prefix = f"input_blocks.{index}."
    if f"{prefix}0.op.weight" in tensors:
        return Stage(True, False, _needed(tensors, where, f"{prefix}0.op.weight", 4).shape[0], 0)
    width = _needed(tensors, where, f"{prefix}0.in_layers.2.weight", 4).shape[0]
    return Stage(False, f"{prefix}0.skip_connection.weight" in tensors, width, _depth(tensors, prefix))


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Of the attention that comes after the first residual block, 0 where there is none."""
    if f"{prefix}1.qkv.weight" in tensors:
        return 1
    pattern = re.escape(prefix) + r"1\.transformer_blocks\.(\d+)\."
    return 1 + max(_numbers(tensors, pattern), default=-1)


def _blocks(tensors: Mapping[str, Tensor], stages: list[Stage], where: str) -> int:
    """Residual blocks of each level.

    A convolution that halves the resolution tells it, or the first output block that doubles it. A classifier with
    residual blocks for both has neither; there it is the only number that makes levels of one width and one attention.
    """
    if (strided := next((i for i, stage in enumerate(stages) if stage.convolution), None)) is not None:
        return strided
    if any(name.startswith("output_blocks.") for name in tensors):
        doubling = r"output_blocks\.(\d+)\.[12]\.(?:in_layers|conv)\."
        return min(_numbers(tensors, doubling), default=len(stages))
    fitting = [blocks for blocks in range(1, len(stages) + 1) if _levels(stages, blocks) is not None]
    if len(fitting) != 1:
        raise ValueError(
            f"'{where}': its {len(stages) + 1} input blocks do not tell where a level ends: "
            f"{' or '.join(map(str, fitting)) or 'no number of'} residual blocks for each level would do"
        )
    return fitting[0]


def _levels(stages: list[Stage], blocks: int) -> list[list[Stage]] | None:
    """The residual blocks of each level, or None where so many for each do not make levels."""
    period = blocks + 1
    if blocks < 1 or (len(stages) + 1) % period:
        return None
    levels = [stages[start : start + blocks] for start in range(0, len(stages), period)]
    between = stages[blocks::period]
    alike = all(
        stage.width == level[0].width
        and stage.depth == level[0].depth
        and not stage.convolution
        and (stage is level[0] or not stage.changes)
        for level in levels
        for stage in level
    )
    plain = all(
        stage.width == level[0].width and not stage.depth and not stage.changes
        for stage, level in zip(between, levels, strict=False)
    )
    same = len({stage.convolution for stage in between}) <= 1
    return levels if alike and plain and same else None


def _needed(tensors: Mapping[str, Tensor], where: str, name: str, axes: int) -> Tensor:
    """A tensor by its name, with so many axes. Raises ``ValueError``."""
    if name not in tensors:
        raise ValueError(f"'{where}' holds no whole U-Net: {name} is missing; fetch or save it again")
    return with_axes(tensors[name], where, name, axes)


def _length(tensors: Mapping[str, Tensor], where: str, name: str, axis: int) -> int | None:
    """Of an axis of a matrix that may be missing."""
    return _needed(tensors, where, name, 2).shape[axis] if name in tensors else None


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    """The numbers that a pattern's only group takes in the beginnings of names."""
    expression = re.compile(pattern)
    return {int(found[1]) for name in names if (found := expression.match(name))}
