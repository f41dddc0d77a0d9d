"""Nodes that build, drop and merge conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from guidegraph.graph.device_context import current_device
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.condition_fields import BASIC_NAMES, find_field
from guidegraph.nodes.images.image import resize_antialiased
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, ConditionAdapter
from guidegraph.nodes.uniforms import DROPS, uniforms

Pixels = Annotated[int, Gt(0)]
Size = Pixels | tuple[Pixels, Pixels]
Probability = Annotated[float, Ge(0), Le(1)]
Mode = Literal["area", "bilinear", "nearest"]


@node("condition.spatial", shape=port_shapes.part_rows)
def spatial_condition(parts: Sequence[Tensor], *, size: Size | None = None, mode: Mode = "area") -> Condition:
    """One condition from maps, masks, pictures and latents (B, C, H, W), which the U-Net concatenates to x.

    The parts are resized to `size`, a side or [height, width] (by default the first part's), and concatenated along
    the channels, in order (Rombach et al. 2022, section 4.3.2). A leading axis of 1 broadcasts to the batch; integer
    and bool parts become floats. mode: area averages when a part shrinks, and repeats pixels when it grows.
    Raises an error for a part without 4 axes, or for different batches.
    """
    if not parts:
        raise ValueError("there are no parts: list at least one map, mask, picture or latent")
    for part in parts:
        if part.ndim != 4:
            raise ValueError(f"expected parts of 4 axes (B, C, H, W); found one of shape {tuple(part.shape)}")
    first = parts[0]
    target_size = first.shape[2:] if size is None else (size, size) if isinstance(size, int) else size
    batch = max(part.shape[0] for part in parts)
    if any(part.shape[0] not in (1, batch) for part in parts):
        raise ValueError(f"expected parts of one batch, or of 1 sample; found {[part.shape[0] for part in parts]}")
    like = next((part for part in parts if part.is_floating_point()), first.float())
    scaled = [
        _resize(part.to(like), (target_size[0], target_size[1]), mode).expand(batch, -1, -1, -1) for part in parts
    ]
    return Condition(spatial=torch.cat(scaled, dim=1))


def _resize(part: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    if tuple(part.shape[2:]) == size:
        return part
    if mode == "bilinear":
        return resize_antialiased(part, size)
    if mode == "area" and not has_values(part):
        part = part.reshape(
            *part.shape[:2], *map(int, part.shape[2:])
        )  # a traced graph averages over a fixed number of pixels
    return torch.nn.functional.interpolate(part, size, mode="nearest-exact" if mode == "nearest" else mode)


@node("condition.vector", shape=port_shapes.vector_rows)
def vector_condition(
    values: Tensor | None = None, *, number: float | Annotated[list[float], MinLen(1)] | None = None
) -> Condition:
    """Numbers as a condition's vector, such as labels for an external network that embeds them itself.

    values: (B, D), or (B) for a vector of one number each, as from label.constant. number: instead of values, one
    number for all samples, or a list with one for each. Integers become float32.
    Raises an error unless exactly one of values and number is set, and for values with other axes.
    """
    if (values is None) == (number is None):
        raise ValueError("expected either values or a number: wire one of them, or set `number`")
    if values is None:
        values = torch.tensor(number if isinstance(number, list) else [number], dtype=torch.float32)
        values = values.to(current_device())
    if values.ndim not in (1, 2):
        raise ValueError(f"expected values (B) or (B, D); found shape {tuple(values.shape)}")
    vector = values if values.is_floating_point() else values.float()
    return Condition(vector=vector[:, None] if vector.ndim == 1 else vector)


@node("condition.adapt", shape=port_shapes.condition_rows)
def adapt_condition(adapter: ConditionAdapter, condition: Condition) -> Condition:
    """Convert another encoder's condition to one of the encoder that the denoiser was trained with."""
    return adapter(condition)


@node("condition.pooled", shape=port_shapes.condition_rows)
def pool_condition(condition: Condition) -> Condition:
    """The vector (B, D) of a condition without its tokens, as for a DiT, which takes a vector alone.

    The other fields stay. Raises an error for a condition without a vector.
    """
    if condition.vector is None:
        raise ValueError("expected a condition with a vector; this one has none: take that of another text encoder")
    return condition.with_fields(tokens=None, mask=None)


@node("condition.null", shape=port_shapes.like_rows)
def null_condition(like: Condition) -> Condition:
    """The null condition of a model trained with `condition.drop`: zeros in the shape of `like`, with its mask.

    A field that a plugin declared has the null that it declared.
    """
    fills = {name: fill for name in like.fields if (fill := find_field(name).fill) is not None}
    nulls = {name: like.fields[name].new_full(like.fields[name].shape, fill) for name, fill in fills.items()}
    return Condition.of({**like.fields, **nulls})


@node("condition.drop", shape=port_shapes.condition_rows)
def drop_condition(
    condition: Condition, index: int = 0, *, p: Probability = 0.1, seed: Annotated[int, Ge(0)] = 0
) -> Condition:
    """Replace a condition by the null condition in a fraction p of samples, so that the model learns it too.

    Ho & Salimans 2022, algorithm 1. The null is zeros, or of a plugin's field the one that it declared; a mask stays.
    All fields of a sample are dropped together. The choice depends on (seed, index) alone; `index` is the loop's.
    Every field must have the batch's leading axis. Two nodes with one seed, also `data.drop_captions`, drop the same
    samples: to drop conditions apart from each other, give each its own seed.
    """
    fills = {name: fill for name in condition.fields if (fill := find_field(name).fill) is not None}
    batches = {condition.fields[name].shape[0] for name in fills}
    if len(batches) > 1:
        raise ValueError(f"expected every field with the batch's leading axis; found {sorted(batches)}")
    if not fills:
        return condition
    is_kept = local_rows(batches.pop(), lambda batch: uniforms(seed, index, batch, DROPS)) >= p

    def fill_dropped(value: Tensor, fill: float) -> Tensor:
        keep_row = torch.from_numpy(is_kept).to(value.device).reshape(-1, *(1,) * (value.ndim - 1))
        return torch.where(keep_row, value, torch.full((), fill, dtype=value.dtype, device=value.device))

    dropped = {name: fill_dropped(condition.fields[name], fill) for name, fill in fills.items()}
    return Condition.of({**condition.fields, **dropped})


@node("condition.merge", shape=port_shapes.merge_rows)
def merge_conditions(conditions: Sequence[Condition]) -> Condition:
    """Merge conditions, for example of a text and of a map, into one with the fields of all.

    Spatial fields are concatenated along the channels and tokens along the sequence, in order; a leading axis of 1
    broadcasts to the batch. Raises an error if two of them have a vector, or the same field of a plugin, because a
    condition has only one.
    """
    if not conditions:
        raise ValueError("there are no conditions to merge: list at least one")
    sizes = [value.shape[0] for condition in conditions for name, value in condition.fields.items() if name != "mask"]
    batch = max(sizes, default=1)
    if any(size not in (1, batch) for size in sizes):
        raise ValueError(f"expected conditions of one batch, or of 1 sample; found {sorted(set(sizes))}")

    def all_of(name: str) -> list[Tensor]:
        values = [condition.fields[name] for condition in conditions if name in condition.fields]
        return [value.expand(batch, *value.shape[1:]) for value in values]

    vectors, tokens, spatial = all_of("vector"), all_of("tokens"), all_of("spatial")
    if len(vectors) > 1:
        raise ValueError(f"{len(vectors)} conditions have a vector, and a condition holds one: merge one of them")
    if any(value.shape[2] != tokens[0].shape[2] for value in tokens):
        raise ValueError(f"tokens of one width can be merged; found {[value.shape[2] for value in tokens]}")
    if any(value.shape[2:] != spatial[0].shape[2:] for value in spatial):
        raise ValueError(f"spatial conditions of one size can be merged; found {[tuple(v.shape[2:]) for v in spatial]}")
    masks = [_mask_of(condition, batch) for condition in conditions if condition.tokens is not None]
    masked = any(condition.mask is not None for condition in conditions if condition.tokens is not None)
    return Condition(
        vector=vectors[0] if vectors else None,
        tokens=torch.cat(tokens, dim=1) if tokens else None,
        mask=torch.cat(masks, dim=1) if masked else None,
        spatial=torch.cat(spatial, dim=1) if spatial else None,
        more={name: all_of(name)[0] for name in _find_holders(conditions)},
    )


def _find_holders(conditions: Sequence[Condition]) -> dict[str, int]:
    """The index of the condition that has each field but the basic ones. Raises an error if two have the same."""
    holders: dict[str, int] = {}
    for i, condition in enumerate(conditions):
        for name in condition.fields.keys() - set(BASIC_NAMES):
            if name in holders:
                raise ValueError(
                    f"conditions.{holders[name]} and conditions.{i} both have the field '{name}', and a condition "
                    f"holds one: merge one of them, or leave it out of one with with_fields({name}=None)"
                )
            holders[name] = i
    return holders


def _mask_of(condition: Condition, batch: int) -> Tensor:
    """The mask (batch, M) of a condition with tokens, true everywhere if the condition lacks one."""
    tokens, mask = condition.tokens, condition.mask
    assert tokens is not None
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return mask.expand(batch, -1)
