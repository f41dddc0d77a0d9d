"""Nodes that prepare an autoencoder for training: the scale of its latents, and a decoder to train alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes.models.model_nodes import build_untrained
from guidegraph.nodes.types import Autoencoder

if TYPE_CHECKING:
    from guidegraph.nodes.models.own.autoencoder import KLAutoencoder


@node("autoencoder.measure_scale")
def measure_scale(
    autoencoder: Autoencoder,
    batches: Sequence[Any],
    *,
    count: Annotated[int, Ge(1)] = 16,
) -> Autoencoder:
    """A copy of an autoencoder with a scale that gives latents unit variance, measured on the first `count` batches.

    batches: of a data set with pictures `image` (B, C, H, W). Raises an error for batches without them.
    """
    if unfit := next((batch for batch in batches[:1] if not hasattr(batch, "image")), None):
        raise ValueError(f"expected batches with pictures, in a field `image`; found {type(unfit).__name__}")

    measured: Any = copy.deepcopy(autoencoder)
    with torch.no_grad():
        measured.scale.fill_(1.0)
        device = measured.scale.device
        latents = [measured.encode(batches[i].image.to(device)).float() for i in range(min(count, len(batches)))]
        measured.scale.fill_(1 / torch.cat(latents).std())
    result: Autoencoder = measured
    return result


@node("autoencoder.freeze_encoder")
def freeze_encoder(autoencoder: Autoencoder) -> Autoencoder:
    """A copy of a KL autoencoder of which a training changes only the decoder, so its latents and their denoisers stay.

    Raises an error for another kind of autoencoder.
    """
    from guidegraph.nodes.models.own import autoencoder as networks

    network = _check_kind(autoencoder)
    return build_untrained(lambda: networks.freeze_encoder(network), seed=0)


@node("autoencoder.renew_decoder")
def renew_decoder(
    autoencoder: Autoencoder,
    *,
    seed: int = 0,
    channels: Annotated[int, Ge(0)] = 0,
    blocks: Annotated[int, Ge(0)] = 0,
) -> Autoencoder:
    """A copy of a KL autoencoder with an untrained decoder, the only part that a training changes.

    channels: width of the decoder's finest level. blocks: residual blocks per level, and one more. 0 stands for those
    of the encoder. seed: of the initial weights.
    Raises an error for another kind of autoencoder.
    """
    from guidegraph.nodes.models.own import autoencoder as networks

    network = _check_kind(autoencoder)
    return build_untrained(lambda: networks.renew_decoder(network, channels=channels, blocks=blocks), seed)


def _check_kind(autoencoder: Autoencoder) -> KLAutoencoder:
    """The autoencoder. Raises ``ValueError`` if it is not a `model.autoencoder`."""
    from guidegraph.nodes.models.own.autoencoder import KLAutoencoder

    if not isinstance(autoencoder, KLAutoencoder):
        raise ValueError(
            f"only the decoder of a model.autoencoder can be trained alone; found {type(autoencoder).__name__}"
        )
    return autoencoder
