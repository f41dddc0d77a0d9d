"""The patch-adversarial term of an autoencoder's loss (Esser et al. 2021; Rombach et al. 2022, appendix G).

Nodes that teach a denoiser's features the classes in a picture, next to the loss of its prediction.

A denoiser learns late that its features have to name objects: most of its error is detail. Features that are aligned
with the features of a network that knows pictures train it many times as fast (Yu et al. 2024, REPA). Drawn scenes come
with their classes, so the features are aligned with these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.models.model_nodes import Count, build_untrained
from guidegraph.nodes.training.losses import Weight
from guidegraph.nodes.types import Autoencoder, Discriminator, Image, SemanticMap

LossKind = Literal["hinge", "vanilla"]
StepIndex = Annotated[int, Ge(0)]


def _find_missing_index(start: int, wired: Collection[str]) -> dict[str, str]:
    """A problem of the port ``index`` if it is not linked, and so never reaches the start."""
    if start == 0 or "index" in wired:
        return {}
    return {"index": f"without it, step {start} never comes: in: {{index: loop.index}}"}


@node("model.discriminator")
def new_discriminator(*, seed: int = 0, channels: Count = 32, layers: Count = 2) -> Discriminator:
    """An untrained patch discriminator (Isola et al. 2017); 2 layers judge patches of 34 pixels, 3 of 70.

    seed: of the initial weights. channels: width of the first layer.
    """
    from guidegraph.nodes.models.own.classifier import DiscriminatorConfig, PatchDiscriminator

    config = DiscriminatorConfig(channels=channels, layers=layers)
    return build_untrained(lambda: PatchDiscriminator(config), seed)


@node("loss.discriminator", check=_find_missing_index)
def discriminator_loss(
    discriminator: Discriminator,
    real: Image,
    fake: Image,
    index: int = 0,
    *,
    kind: LossKind = "hinge",
    start: StepIndex = 0,
) -> Tensor:
    """A discriminator's loss on real and generated pictures, a number (); 0 before step `start`.

    kind: hinge, ½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(x̂))] (Lim & Ye 2017), or vanilla, the mean of the two
    cross-entropies (Goodfellow et al. 2014). No gradient goes to `fake`. index: the loop's; set `start` in its `train`
    too.
    """
    if index < start:
        return real.new_zeros(())
    of_real, of_fake = discriminator(real).float(), discriminator(fake.detach()).float()
    if kind == "hinge":
        return 0.5 * (torch.nn.functional.relu(1 - of_real).mean() + torch.nn.functional.relu(1 + of_fake).mean())
    return 0.5 * (torch.nn.functional.softplus(-of_real).mean() + torch.nn.functional.softplus(of_fake).mean())


@node("loss.generator", check=_find_missing_index)
def generator_loss(
    discriminator: Discriminator, image: Image, index: int = 0, *, kind: LossKind = "hinge", start: StepIndex = 0
) -> Tensor:
    """A generator's loss against a discriminator, a number (); 0 before step `start`, when nothing is computed.

    kind: hinge, −E[D(x̂)], or vanilla, −E[log sigmoid D(x̂)], the non-saturating form (Goodfellow et al. 2014,
    section 3). The code of Esser et al. uses the first with both.
    """
    if index < start:
        return image.new_zeros(())
    logits = discriminator(image).float()
    return -logits.mean() if kind == "hinge" else torch.nn.functional.softplus(-logits).mean()


class Balanced(NamedTuple):
    """loss: factor · weight · the generator's loss. weight: λ, a number () without gradient, 0 before the start."""

    loss: Tensor
    weight: Tensor


@node("loss.adaptive_weight", check=_find_missing_index)
def adaptive_weight(
    reconstruction: Tensor,
    generator: Tensor,
    autoencoder: Autoencoder,
    index: int = 0,
    *,
    factor: Weight = 0.8,
    start: StepIndex = 0,
    delta: Annotated[float, Gt(0)] = 1e-6,
    largest: Annotated[float, Gt(0)] = 1e4,
) -> Balanced:
    """Balance the generator's loss with the reconstruction's at the decoder's last layer L (Esser et al. 2021, eq. 7).

    λ = ‖∇_L reconstruction‖ / (‖∇_L generator‖ + δ), at most `largest`, and 0 before step `start`, so that the
    autoencoder first learns without an opponent. reconstruction, generator: losses () of the autoencoder. index: the
    loop's. delta: δ. The paper has δ = 1e-6 and no bound; its code has 1e-4 and 1e4, and a factor as here.
    Raises an error for losses without a gradient, such as a generator's before its own start.
    """
    if index < start:
        return Balanced(torch.zeros_like(generator), torch.zeros_like(generator))
    for name, loss in (("reconstruction", reconstruction), ("generator", generator)):
        if not loss.requires_grad:
            raise ValueError(
                f"'{name}' has no gradient at step {index}: loss.generator and loss.adaptive_weight need one 'start', "
                "in the body of a loop that trains the autoencoder"
            )
    network: Any = autoencoder
    last = getattr(network, "last_layer", None)
    if last is None:
        raise ValueError(f"{type(network).__name__} does not say which its last layer is: give it a 'last_layer'")
    reconstruction_norm, generator_norm = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].float().norm() for loss in (reconstruction, generator)
    )
    weight = (reconstruction_norm / (generator_norm + delta)).clamp(max=largest).detach()
    return Balanced(factor * weight * generator, weight)


@node("loss.sum")
def sum_losses(losses: Sequence[Tensor], *, weights: list[Weight] | None = None) -> Tensor:
    """The weighted sum of losses (), by default with weights of 1.

    Raises an error for another number of weights, and for losses that are not a single number.
    """
    if not losses:
        raise ValueError("there are no losses to add: list at least one")
    if any(loss.numel() != 1 for loss in losses):
        raise ValueError(f"a loss is one number; found shapes {[tuple(loss.shape) for loss in losses]}")
    factors = [1.0] * len(losses) if weights is None else weights
    if len(factors) != len(losses):
        raise ValueError(f"{len(losses)} losses need as many weights; found {len(factors)}")
    return torch.stack([factor * loss.float().reshape(()) for factor, loss in zip(factors, losses, strict=True)]).sum()


@node("model.feature_classifier")
def new_feature_classifier(*, seed: int = 0, channels: Count = 192, classes: Count = 76, width: Count = 192) -> Any:
    """An untrained classifier of each cell of features (B, channels, h, w), for `loss.feature_classes`.

    seed: of the initial weights. channels: of the features; classes: 76 for `data.scene_map`, 12 for
    `data.colour_map`; width: of the layer between.
    """
    from guidegraph.nodes.models.own.classifier import FeatureClassifier, FeatureClassifierConfig

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
    logits = classifier(features)
    if logits.shape != share.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} of features {tuple(features.shape)} and shares {tuple(share.shape)} must "
            "have one shape: set 'classes' of the classifier and 'size' of the map"
        )
    # cross_entropy of shares exports as an operator of ONNX that takes classes alone
    error = -(share.float() * torch.nn.functional.log_softmax(logits.float(), 1)).sum(1)
    if focus is None:
        return error.mean()
    if focus.shape != (share.shape[0], 1, *share.shape[2:]):
        raise ValueError(f"expected a focus (B, 1, h, w) for shares {tuple(share.shape)}; found {tuple(focus.shape)}")
    weight = 1 + focus_weight * focus[:, 0].float()
    return (weight * error).sum() / weight.sum()
