"""The detector of scenes' objects, skies and grounds: its calls, and what it says of pictures with known labels."""

from __future__ import annotations

from typing import Any, NamedTuple

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image


class Found(NamedTuple):
    """Of each picture (B), bool: whether all objects of its label are found, and whether sky and ground are."""

    objects: Tensor
    background: Tensor


@node("detector.predict")
def detect(detector: Any, image: Image) -> Tensor:
    """Logits (B, K) of pictures (B, 3, 64, 64) in [-1, 1]: objects, each for itself, then skies, then grounds."""
    logits: Tensor = detector(image)
    return logits


@node("detector.finds")
def finds(logits: Tensor, label: Tensor) -> Found:
    """Whether logits (B, K) of a detector show what the labels (B, K) of scenes name.

    An object is found where its logit is above 0; sky and ground are those of the largest logits. Objects that are not
    named do not count against a picture.
    """
    from guidegraph.nodes.data.sprites import CLASSES, OBJECTS, SKIES

    if logits.ndim != 2 or logits.shape != label.shape or logits.shape[1] != len(CLASSES):
        raise ValueError(
            f"expected logits and labels (B, {len(CLASSES)}) of scenes, found shapes {tuple(logits.shape)} and "
            f"{tuple(label.shape)}"
        )
    sizes = [len(OBJECTS), len(SKIES), len(CLASSES) - len(OBJECTS) - len(SKIES)]
    said, asked = logits.split(sizes, 1), label.to(logits.device).split(sizes, 1)
    objects = ((said[0] > 0) | (asked[0] == 0)).all(1)
    sky, ground = (a.argmax(1) == b.argmax(1) for a, b in zip(said[1:], asked[1:], strict=True))
    return Found(objects, sky & ground)
