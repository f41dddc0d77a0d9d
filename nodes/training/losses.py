"""Losses of training loops."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import first_row
from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import check_compatible, check_sides, expand_to_batch
from guidegraph.nodes.types import (
    Autoencoder,
    Condition,
    Image,
    Label,
    Noise,
    Prediction,
    Sample,
    Schedule,
    SemanticMap,
    Timesteps,
)
from guidegraph_runtime.noise import gaussian
from guidegraph_runtime.tables.form import Form

Weight = Annotated[float, Ge(0)]
Weighting = Literal["uniform", "min_snr", "truncated", "flow"]


def snr_weight(snr: Tensor, kind: str, weighting: Weighting, gamma: float, power: Tensor | float = 1.0) -> Tensor:
    """The weight (B) of the squared error of a prediction of a kind at signal-to-noise ratios (B), (α/σ)².

    In terms of x0, min_snr weights by min(SNR, γ) (Hang et al. 2023) and truncated by min(SNR + 1, γ + 1), which is the
    plain v loss with bounded weight at low noise. flow gives every kind the loss of u = ε − x0, the one of flow
    matching: ((α + σ)/σ)² in terms of x0, ((α + σ)/α)² of ε. power: α² + σ², (1) or (B).
    The squared errors of ε, v and u are SNR, (SNR + 1)(α² + σ²) and (√SNR + 1)² times the error of x0.
    """
    if weighting == "uniform" or weighting == kind:
        return torch.ones_like(snr)
    of_flow = (snr.sqrt() + 1).square()
    of_x0 = {
        "min_snr": snr.clamp(max=gamma),
        "truncated": (snr + 1).clamp(max=gamma + 1),
        "flow": of_flow,
    }[weighting]
    scale = {"eps": snr.clamp(min=1e-8), "x0": torch.ones_like(snr), "v": (snr + 1) * power, "flow": of_flow}[kind]
    return of_x0 / scale


def mean_error(
    prediction: Prediction,
    target: Tensor,
    level: tuple[Tensor, Tensor],
    weighting: Weighting,
    gamma: float,
    form: Form,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean over the batch of the squared error to a target (B, C, H, W), weighted by `snr_weight` of level, α and σ.

    weight: of each element too, as a tensor that broadcasts to the target.
    """
    alpha, sigma = level
    squares = (prediction.value.float() - target).square()
    error = (squares if weight is None else squares * weight).flatten(1).mean(1)
    power = (alpha.square() + sigma.square()).flatten() if form == "flow" else 1.0
    return (snr_weight((alpha / sigma).square().flatten(), prediction.kind, weighting, gamma, power) * error).mean()


@node("loss.denoising")
def denoising_loss(
    prediction: Prediction,
    x0: Sample,
    noise: Noise,
    t: Timesteps,
    schedule: Schedule,
    focus: Tensor | None = None,
    *,
    weighting: Weighting = "uniform",
    gamma: Annotated[float, Ge(0)] = 5.0,
    focus_weight: Weight = 0.0,
) -> Tensor:
    """Mean squared error of a prediction at x_t = α_t x0 + σ_t noise (Ho et al. 2020, eq. 14), in its own kind.

    For the kind flow it is the conditional flow matching loss ‖û − (noise − x0)‖² (Lipman et al. 2023, eq. 23).
    weighting: of noise levels, min_snr, truncated or, for any kind, the flow matching loss's; gamma bounds the
    signal-to-noise ratio. `timesteps.logit_normal` and others weight by how often they draw a level.
    focus: where the error counts more, (B, 1, H, W) in [0, 1]: by 1 + focus_weight · α_t · focus. The factor α_t is for
    high noise, where the place is unknown: errors that count more where x0 has an object would make objects likelier.
    Raises an error unless the shapes of prediction, x0 and noise match, and the shapes of t and focus.
    """
    check_compatible("the prediction, x0 and noise", prediction.value, x0, noise)
    batch = max(value.shape[0] for value in (prediction.value, x0, noise))
    alpha, sigma = schedule.along(x0, expand_to_batch(t, batch, "t"))
    targets = {"eps": noise, "x0": x0, "v": alpha * noise - sigma * x0, "flow": noise - x0}
    weight = None if focus is None else focus_weights(focus, x0, alpha, focus_weight)
    return mean_error(prediction, targets[prediction.kind], (alpha, sigma), weighting, gamma, schedule.form, weight)


def focus_weights(focus: Tensor, x0: Sample, alpha: Tensor, weight: float) -> Tensor:
    """1 + weight · α · focus, (B, 1, H, W). Raises ``ValueError`` unless focus has one channel of x0's sides."""
    expected = (x0.shape[0], 1, *x0.shape[2:])
    if tuple(focus.shape) != expected:
        raise ValueError(f"expected a focus {expected} for x0 {tuple(x0.shape)}; found {tuple(focus.shape)}")
    return 1 + weight * alpha * focus.float()


@node("loss.distillation")
def distillation_loss(
    prediction: Prediction,
    teacher: Prediction,
    t: Timesteps,
    schedule: Schedule,
    *,
    weighting: Weighting = "uniform",
    gamma: Annotated[float, Ge(0)] = 5.0,
) -> Tensor:
    """Mean squared difference of two predictions of one kind, made at the same x_t and t.

    weighting and gamma are as for `loss.denoising`. The teacher is a target: no gradient goes to it. Unlike a sampled
    target it is free of noise, so a student needs fewer steps.
    """
    if prediction.kind != teacher.kind:
        raise ValueError(f"expected predictions of one kind; found '{prediction.kind}' and teacher '{teacher.kind}'")
    check_compatible("the prediction and the teacher's", prediction.value, teacher.value)
    batch = max(prediction.value.shape[0], teacher.value.shape[0])
    level = schedule.along(prediction.value, expand_to_batch(t, batch, "t"))
    return mean_error(prediction, teacher.value.detach().float(), level, weighting, gamma, schedule.form)


@node("loss.vector")
def vector_loss(condition: Condition, target: Condition) -> Tensor:
    """Mean squared difference of the vectors (B, D) of two conditions. No gradient goes to the target."""
    if condition.vector is None or target.vector is None:
        raise ValueError("expected two conditions with a vector (of a text, a label or a picture); one has none")
    check_compatible("the vectors", condition.vector, target.vector)
    return (condition.vector.float() - target.vector.detach().float()).square().mean()


@node("loss.cross_entropy")
def cross_entropy(logits: Tensor, label: Label) -> Tensor:
    """Mean cross-entropy of logits (B, K) and labels (B); for maps see `loss.segmentation`."""
    return torch.nn.functional.cross_entropy(logits.float(), label)


@node("loss.segmentation")
def segmentation_loss(logits: Tensor, semantic: SemanticMap) -> Tensor:
    """Mean cross-entropy over the pixels of logits (B, K, H, W) and a one-hot map of the same shape."""
    if logits.shape != semantic.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and the map {tuple(semantic.shape)} must have one shape")
    return torch.nn.functional.cross_entropy(logits.float(), semantic.argmax(1))


@node("loss.detector")
def detector_loss(detector: Any, image: Image, label: Tensor) -> Tensor:
    """Cross-entropy of a detector: of each object separately, and of the choice of a sky and of a ground.

    label (B, K) in {0, 1}, as from `data.scenes`.
    """
    from guidegraph.nodes.models.own.box_detector import detector_loss as loss

    return loss(detector(image).float(), label, detector.config)


@node("loss.box_detector")
def box_detector_loss(detector: Any, image: Image, object: Tensor, colour: Tensor, box: Tensor) -> Tensor:
    """The loss of a detector with boxes: a focal loss of the objects' centres, L1 of their boxes, and their colours.

    object (B, R), colour (B, R) and box (B, R, 4), as from `data.scenes_128`. Zhou et al. 2019, eq. 1 and 4.
    """
    from guidegraph.nodes.models.own.box_detector import box_detector_loss as loss
    from guidegraph.nodes.models.own.box_detector import make_targets

    maps = detector(image)
    shape = tuple(maps.kinds.shape[1:])
    return loss(maps, make_targets(object, colour, box, shape, detector.config.colours))


class AutoencoderLoss(NamedTuple):
    """The training loss, two of its terms for monitoring, and the reconstructed pictures (B, 3, H, W)."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    image: Image


@node("loss.kl_autoencoder")
def kl_autoencoder_loss(
    autoencoder: Autoencoder,
    image: Image,
    index: int = 0,
    *,
    kl: Weight = 1e-6,
    gradient: Weight = 0.5,
    seed: Annotated[int, Ge(0)] = 0,
) -> AutoencoderLoss:
    """L1 + L2 + edges + KL of a KL autoencoder, from one sample of the posterior (Rombach et al. 2022, section 3.1).

    kl: weight of the divergence, summed over the latent's elements and averaged over the batch. gradient: weight of the
    error in differences of neighbouring pixels. The posterior's noise depends on (seed, index) alone; `index` is the
    loop's.
    Raises an error for another kind of autoencoder, and for pictures whose sides are not multiples of its factor.
    """

    from guidegraph.nodes.models.own.autoencoder import KLAutoencoder, gradient_loss, kl_divergence

    network: Any = autoencoder
    if not isinstance(network, KLAutoencoder):
        raise ValueError(f"this loss trains a KL autoencoder; found {type(network).__name__}")
    check_sides(image, network.config.factor, "the autoencoder")
    shape = (network.config.latent_channels, *(side // network.config.factor for side in image.shape[2:]))
    batch = image.shape[0]
    noise = torch.from_numpy(gaussian(seed + first_row(batch), shape, batch, index)).to(image)
    reconstruction, mean, log_variance = network(image, noise)
    picture = reconstruction.float()
    error = picture - image
    pixels = error.abs().mean() + error.square().mean()
    divergence = kl_divergence(mean.float(), log_variance.float())
    edges = gradient_loss(picture, image)
    return AutoencoderLoss(pixels + gradient * edges + kl * divergence, pixels, divergence, picture)
