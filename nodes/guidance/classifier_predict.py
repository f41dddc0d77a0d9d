"""The node that calls a classifier."""

from __future__ import annotations

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import expand_to_batch
from guidegraph.nodes.types import Classifier, Sample, Timesteps


@node("classifier.predict")
def classify(classifier: Classifier, x: Sample, t: Timesteps) -> Tensor:
    """The logits (B, K) of samples x (B, C, H, W) at t (1) or (B)."""
    return classifier(x, expand_to_batch(t, x.shape[0], "t"))
