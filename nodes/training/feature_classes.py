"""Nodes that teach a denoiser's features the classes in a picture, next to the loss of its prediction.

A denoiser learns late that its features have to name objects: most of its error is detail. Features that are aligned
with the features of a network that knows pictures train it many times as fast (Yu et al. 2024, REPA). Drawn scenes come
with their classes, so the features are aligned with these.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.models.model_nodes import Count, build_untrained
from guidegraph.nodes.types import SemanticMap


@node("model.feature_classifier")
def new_feature_classifier(*, seed: int = 0, channels: Count = 192, classes: Count = 76, width: Count = 192) -> Any:
    """An untrained classifier of each cell of features (B, channels, h, w), for `loss.feature_classes`.

    seed: of the initial weights. channels: of the features; classes: 76 for `data.scene_map`, 12 for
    `data.colour_map`; width: of the layer between.
    """
    from guidegraph.nodes.models.own.feature_classifier import FeatureClassifier, FeatureClassifierConfig

    config = FeatureClassifierConfig(channels=channels, classes=classes, width=width)
    return build_untrained(lambda: FeatureClassifier(config), seed)


@node("loss.feature_classes")
def feature_classes_loss(
    classifier: Any,
    features: Tensor,
    share: SemanticMap,
    focus: Tensor | None = None,
    *,
    focus_weight: Annotated[float, Ge(0)] = 0.0,
) -> Tensor:
    """Mean cross-entropy of the classes of features (B, C, h, w) and the shares (B, K, h, w) of classes in each cell.

    The gradient goes to the classifier and, through the features, to the denoiser and its text encoder.
    focus: where a cell counts more, (B, 1, h, w) in [0, 1]: by 1 + focus_weight · focus; the weights have a mean of 1.
    Raises an error unless the shapes of the logits and the shares match, and the shapes of the shares and the focus.
    """
    from torch.nn import functional

    logits = classifier(features)
    if logits.shape != share.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} of features {tuple(features.shape)} and shares {tuple(share.shape)} must "
            "have one shape: set 'classes' of the classifier and 'size' of the map"
        )
    # cross_entropy of shares exports as an operator of ONNX that takes classes alone
    error = -(share.float() * functional.log_softmax(logits.float(), 1)).sum(1)
    if focus is None:
        return error.mean()
    if focus.shape != (share.shape[0], 1, *share.shape[2:]):
        raise ValueError(f"expected a focus (B, 1, h, w) for shares {tuple(share.shape)}; found {tuple(focus.shape)}")
    weight = 1 + focus_weight * focus[:, 0].float()
    return (weight * error).sum() / weight.sum()
