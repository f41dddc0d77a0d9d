"""Nodes for VQ-regularised autoencoders: build one, its loss, and the usage of its codebook."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Lt

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.models.model_nodes import Count, Multipliers, build_untrained
from guidegraph.nodes.shape_checks import check_sides
from guidegraph.nodes.training.losses import Weight
from guidegraph.nodes.types import Autoencoder, Image


@node("model.vq_autoencoder")
def new_vq_autoencoder(
    *,
    seed: int = 0,
    channels: Count = 48,
    multipliers: Multipliers = (1, 2),
    blocks: Count = 1,
    patch: Count = 2,
    latent_channels: Count = 4,
    codes: Annotated[int, Ge(2)] = 1024,
    decay: Annotated[float, Gt(0), Lt(1)] | None = None,
) -> Autoencoder:
    """An untrained VQ autoencoder with f = patch · 2^(levels − 1); its `codes` are vectors of `latent_channels`.

    seed, channels, multipliers, blocks and patch are those of `model.autoencoder`.
    decay: with a number, codes are moving averages of the vectors they quantise, and unused codes start over (van den
    Oord et al. 2017, appendix A); without one they are trained by gradient.
    """
    from guidegraph.nodes.models.own.autoencoder import VQAutoencoder, VQConfig

    config = VQConfig(
        latent_channels=latent_channels,
        channels=channels,
        multipliers=multipliers,
        blocks=blocks,
        patch=patch,
        codes=codes,
        decay=decay,
    )
    return build_untrained(lambda: VQAutoencoder(config), seed)


class VQLoss(NamedTuple):
    """The training loss and its terms.

    loss = reconstruction + quantisation. reconstruction: L1 + L2 + edges. quantisation: the codebook term, if codes are
    trained by gradient, plus β times the commitment. image: the reconstructed pictures (B, 3, H, W), for more losses.
    share and perplexity: the fraction of codes that this batch uses, and how evenly; without gradient.
    """

    loss: Tensor
    reconstruction: Tensor
    quantisation: Tensor
    image: Image
    share: Tensor
    perplexity: Tensor


@node("loss.vq_autoencoder")
def vq_autoencoder_loss(
    autoencoder: Autoencoder, image: Image, *, beta: Weight = 0.25, gradient: Weight = 0.5
) -> VQLoss:
    """L1 + L2 + edges + ‖sg(z_e) − e‖² + β‖z_e − sg(e)‖² of a VQ autoencoder (van den Oord et al. 2017, eq. 3).

    beta: weight of the commitment, which keeps the encoder near the codes. The first of the two terms moves the codes;
    it is left out with moving averages. Both are means over elements. gradient: weight of the error in differences of
    neighbouring pixels.
    Raises an error for another kind of autoencoder, and for pictures whose sides are not multiples of its factor.
    """
    from guidegraph.nodes.models.own.autoencoder import gradient_loss, measure_usage

    network = vq_network(autoencoder)
    check_sides(image, network.config.factor, "the autoencoder")
    terms = network(image)
    picture = terms.image.float()
    error = picture - image
    reconstruction = error.abs().mean() + error.square().mean() + gradient * gradient_loss(picture, image)
    quantisation = beta * terms.commitment
    if network.config.decay is None:
        quantisation = quantisation + terms.codebook
    used = measure_usage(terms.codes, network.config.codes)
    return VQLoss(reconstruction + quantisation, reconstruction, quantisation, picture, used.share, used.perplexity)


class CodebookUsage(NamedTuple):
    """share: fraction of the codes that occur. perplexity: exp of the entropy of their frequencies, 1 … codes."""

    share: float
    perplexity: float


@node("autoencoder.codebook_usage")
def codebook_usage(autoencoder: Autoencoder, image: Image, *, chunk: Annotated[int, Ge(1)] = 64) -> CodebookUsage:
    """The usage of a VQ autoencoder's codebook by pictures (B, 3, H, W), encoded `chunk` at a time."""

    from guidegraph.nodes.models.own.autoencoder import measure_usage

    network = vq_network(autoencoder)
    with torch.no_grad():
        check_sides(image, network.config.factor, "the autoencoder")
        pictures = image.to(network.scale.device, network.scale.dtype).split(chunk)
        indices = [
            network.quantiser.nearest(network.latent(chunk_of_pictures)).flatten() for chunk_of_pictures in pictures
        ]
    used = measure_usage(torch.cat(indices), network.config.codes)
    return CodebookUsage(float(used.share), float(used.perplexity))


def vq_network(autoencoder: Autoencoder) -> Any:
    """The autoencoder, if it has a codebook. Raises ``ValueError`` otherwise."""
    from guidegraph.nodes.models.own.autoencoder import VQAutoencoder

    if not isinstance(autoencoder, VQAutoencoder):
        raise ValueError(f"expected a VQ autoencoder, which has a codebook; found {type(autoencoder).__name__}")
    return autoencoder
