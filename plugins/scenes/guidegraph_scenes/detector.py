"""The detectors of scenes: their calls, and the evaluation of logits against labels."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image
from guidegraph_scenes.scene_sprites import CLASSES, OBJECTS, SKIES

Threshold: TypeAlias = Annotated[float, Gt(0), Lt(1)]
MOST_OBJECTS = 256
"""Objects of a picture that are compared with each other, which takes memory for each pair of them."""


class Detections(NamedTuple):
    """For each picture (B), bool: whether all objects of its label are found, and whether sky and ground are right.

    recall (B): the share of the objects of its label that are found, 1 if it has none.
    """

    objects: Tensor
    background: Tensor
    recall: Tensor


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
    if logits.ndim != 2 or logits.shape != label.shape or logits.shape[1] != len(CLASSES):
        raise ValueError(
            f"expected logits and labels (B, {len(CLASSES)}) of scenes, found shapes {tuple(logits.shape)} and "
            f"{tuple(label.shape)}"
        )
    sizes = [len(OBJECTS), len(SKIES), len(CLASSES) - len(OBJECTS) - len(SKIES)]
    predicted, expected = logits.split(sizes, 1), label.to(logits.device).split(sizes, 1)
    present = expected[0] != 0
    missed = present & ~(predicted[0] > 0)  # NaN finds nothing
    recall = 1 - missed.sum(1).to(logits.dtype) / present.sum(1).clamp(min=1)
    sky, ground = (a.argmax(1) == b.argmax(1) for a, b in zip(predicted[1:], expected[1:], strict=True))
    return Detections(~missed.any(1), sky & ground, recall)


class SceneObjects(NamedTuple):
    """Objects in pictures, best first, with up to N in each: object (B, N) and colour (B, N), int64, −1 for none.

    box (B, N, 4): left, top, right and lower edge in units of the sides; score (B, N) in [0, 1].
    """

    object: Tensor
    colour: Tensor
    box: Tensor
    score: Tensor


@node("detector.boxes")
def detect_boxes(
    detector: Any,
    image: Image,
    *,
    threshold: Threshold = 0.3,
    most: Annotated[int, Ge(1), Le(MOST_OBJECTS)] = 16,
    overlap: Threshold = 0.5,
    inside: bool = False,
) -> SceneObjects:
    """The objects that a detector of `model.box_detector` finds in pictures (B, 3, 128, 128), best first.

    threshold: the lowest score. most: objects in a picture. overlap: of two objects of one kind whose boxes overlap by
    more (intersection over union), only the better one counts. inside: boxes end at the edges of the picture, as
    `layout.encode` takes them.
    Raises an error for a detector without boxes.
    """

    from guidegraph.nodes.models.own.box_detector import BoxDetector, find_objects

    if not isinstance(detector, BoxDetector):
        raise ValueError(
            f"detector.boxes takes a detector of model.box_detector, such as one trained by "
            f"workflows/train/detector_128.yaml; found {type(detector).__name__}"
        )
    with torch.no_grad():
        maps = detector(image.to(detector.head.weight.dtype))
    objects = find_objects(maps, threshold=threshold, most=most, overlap=overlap)
    box = torch.where((objects.object >= 0)[..., None], objects.box.clamp(0, 1), objects.box) if inside else objects.box
    return SceneObjects(objects.object, objects.colour, box.to(image.dtype), objects.score.to(image.dtype))
