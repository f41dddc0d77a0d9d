"""The detector of scenes' objects, skies and grounds: its calls, and the evaluation of its logits against labels."""

from __future__ import annotations

from typing import Any, NamedTuple

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image


class Detections(NamedTuple):
    """For each picture (B), bool: whether all objects of its label are found, and whether sky and ground are right."""

    objects: Tensor
    background: Tensor


@node("detector.predict")
def detect(detector: Any, image: Image) -> Tensor:
    """Logits (B, K) of pictures (B, 3, 64, 64) in [-1, 1]: independent objects, then skies, then grounds."""
    logits: Tensor = detector(image)
    return logits


@node("detector.finds")
def finds(logits: Tensor, label: Tensor) -> Detections:
    """Whether a detector's logits (B, K) agree with the labels (B, K) of scenes.

    An object is found if its logit is above 0; sky and ground are those with the largest logits. Additional objects do
    not count against a picture.
    """
    from guidegraph.nodes.data.scene_sprites import CLASSES, OBJECTS, SKIES

    if logits.ndim != 2 or logits.shape != label.shape or logits.shape[1] != len(CLASSES):
        raise ValueError(
            f"expected logits and labels (B, {len(CLASSES)}) of scenes, found shapes {tuple(logits.shape)} and "
            f"{tuple(label.shape)}"
        )
    sizes = [len(OBJECTS), len(SKIES), len(CLASSES) - len(OBJECTS) - len(SKIES)]
    predicted, expected = logits.split(sizes, 1), label.to(logits.device).split(sizes, 1)
    objects = ((predicted[0] > 0) | (expected[0] == 0)).all(1)
    sky, ground = (a.argmax(1) == b.argmax(1) for a, b in zip(predicted[1:], expected[1:], strict=True))
    return Detections(objects, sky & ground)
