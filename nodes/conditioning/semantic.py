"""Semantic maps: from files, as pictures, and from a segmenter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_for, node_from_operation, to_engine, to_runtime
from guidegraph.nodes.shape_checks import check_finite
from guidegraph.nodes.types import Condition, Image, Segmenter, SemanticEmbedder, SemanticMap
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.pictures.semantic_maps import COLOURS

GOLDEN = 0.6180339887498949
"""Steps of the golden ratio keep any number of hues far apart."""

load_map: Callable[..., SemanticMap] = node_from_operation("semantic.load", __name__, name="load_map")


class MapObjects(NamedTuple):
    """Objects in maps: their classes (B, N), int64, and their boxes (B, N, 4), −1 for none."""

    object: Tensor
    box: Tensor


@node_for("semantic.boxes", host=True, shape=port_shapes.map_object_rows)
def find_boxes(semantic: SemanticMap, *, objects: int | None, most: int) -> MapObjects:
    values = OPERATIONS["semantic.boxes"](semantic=to_runtime(semantic), objects=objects, most=most)
    kind, box = (to_engine(values[name], None) for name in MapObjects._fields)
    return MapObjects(kind, box.to(semantic.dtype) if semantic.is_floating_point() else box)


@node("semantic.picture")
def picture_of_map(semantic: SemanticMap) -> Image:
    """Paint a map (B, K, H, W) of the classes of scenes as pictures (B, 3, H, W) in the classes' colours."""
    if semantic.shape[1] != len(COLOURS):
        raise ValueError(f"there are colours for the {len(COLOURS)} classes of scenes; the map has {semantic.shape[1]}")
    dtype = semantic.dtype if semantic.is_floating_point() else torch.float32
    colours = torch.tensor(COLOURS, dtype=dtype, device=semantic.device) / 127.5 - 1
    return colours[semantic.argmax(1)].permute(0, 3, 1, 2).contiguous()


@node("semantic.hues")
def hues_of_map(semantic: SemanticMap) -> Image:
    """Paint a map (B, K, H, W) of any classes as pictures (B, 3, H, W): class 0 grey, the others in distinct hues."""
    import colorsys

    dtype = semantic.dtype if semantic.is_floating_point() else torch.float32
    hues = [colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.65, 0.9) for k in range(1, semantic.shape[1])]
    colours = torch.tensor([(0.75, 0.75, 0.75), *hues], dtype=dtype, device=semantic.device) * 2 - 1
    return colours[semantic.argmax(1)].permute(0, 3, 1, 2).contiguous()


@node("semantic.embed", shape=port_shapes.semantic_rows)
def embed_map(embedder: SemanticEmbedder, semantic: SemanticMap) -> Condition:
    """The condition of semantic maps (B, K, H, W), of the picture's size, for a denoiser trained with it."""
    return embedder(semantic)


@node("segmenter.predict", batchable=("image",))
def segment(segmenter: Segmenter, image: Image) -> Tensor:
    """Logits (B, K, H, W) of the class of every pixel of pictures (B, 3, H, W) in [-1, 1]."""
    return segmenter(image)


@node("semantic.from_logits")
def map_from_logits(logits: Tensor) -> SemanticMap:
    """The one-hot map (B, K, H, W) of the most likely class of every pixel; logits (B, K, H, W).

    Raises an error for logits that are not finite.
    """
    if logits.ndim != 4:
        raise ValueError(f"expected logits (B, K, H, W); found shape {tuple(logits.shape)}")
    check_finite("the logits", logits)
    return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)
