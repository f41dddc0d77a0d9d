"""Nodes that build untrained detectors, which judge pictures of scenes.

Settings that they share:
seed: of the initial weights. channels: the width at the finest resolution.
"""

from __future__ import annotations

from typing import Any

from guidegraph.graph.node import node
from guidegraph.nodes.models.model_nodes import Count, build_untrained


@node("model.detector")
def new_detector(*, seed: int = 0, channels: Count = 32) -> Any:
    """An untrained detector of the objects, skies and grounds of scenes."""
    from guidegraph.nodes.models.own.box_detector import Detector, DetectorConfig

    return build_untrained(lambda: Detector(DetectorConfig(channels=channels)), seed)


@node("model.box_detector")
def new_box_detector(*, seed: int = 0, channels: Count = 32) -> Any:
    """An untrained detector of the objects of scenes of 128 pixels, with their boxes and colours."""
    from guidegraph.nodes.models.own.box_detector import BoxDetector, BoxDetectorConfig

    return build_untrained(lambda: BoxDetector(BoxDetectorConfig(channels=channels)), seed)
