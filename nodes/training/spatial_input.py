"""Input channels that a trained denoiser did not have, to train: of a condition, or of where each pixel is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes.types import Denoiser

if TYPE_CHECKING:
    from guidegraph.nodes.models.own.unet import UNet, UNetDenoiser


@node("denoiser.add_spatial_channels")
def add_spatial_channels(denoiser: Denoiser, *, channels: Annotated[int, Ge(1)]) -> Denoiser:
    """A U-Net that also takes a spatial condition of `channels` channels, to fine-tune a trained model on it.

    The weights of the new channels are zero, so that predictions are unchanged at first, whatever the condition (Brooks
    et al. 2023, section 3.2). All other tensors are shared, and the input does not change.
    denoiser: of `model.load` or `model.unet`; its own spatial condition, if it has one, comes first.
    Raises an error for a denoiser that is not a U-Net of `model.unet`, or has a LoRA that is not merged.
    """
    widened = copy_to_widen(denoiser)
    network = widened.network
    widen_stem(network, channels, after=network.stem.in_channels)
    network.config = replace(network.config, spatial_channels=network.config.spatial_channels + channels)
    return widened


@node("denoiser.add_coordinates")
def add_coordinates(denoiser: Denoiser) -> Denoiser:
    """A U-Net that also sees where each pixel is, as `model.unet` with `coordinates` makes it, to train it further.

    The weights of the new channels are zero, so that predictions are unchanged at first. All other tensors are shared,
    and the input does not change. A U-Net that has coordinates is returned as it is.
    Raises an error for a denoiser that is not a U-Net of `model.unet`, or has a LoRA that is not merged.
    """
    from guidegraph.nodes.models.own.unet import COORDINATES

    widened = copy_to_widen(denoiser)
    network = widened.network
    if network.config.coordinates:
        return denoiser
    widen_stem(network, COORDINATES, after=network.config.in_channels * network.config.patch**2)
    network.config = replace(network.config, coordinates=True)
    return widened


def copy_to_widen(denoiser: Denoiser) -> UNetDenoiser:
    """A copy of a U-Net that shares its tensors. Raises ``ValueError`` for other denoisers, and for one with a LoRA."""
    from guidegraph.nodes.models.networks.low_rank import low_rank_layers
    from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
    from guidegraph.nodes.models.own.unet import UNetDenoiser

    if not isinstance(denoiser, UNetDenoiser):
        raise ValueError(f"expected a U-Net of model.load or model.unet; found {type(denoiser).__name__}")
    if any(low_rank_layers(denoiser)):
        raise ValueError("this denoiser has a LoRA: wire lora.merge's, or widen its input before lora.new")
    return copy_sharing_tensors(denoiser)


def widen_stem(network: UNet, channels: int, after: int) -> None:
    """Add `channels` input channels with zero weights to the first convolution, behind the first `after`."""

    from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d

    old = network.stem
    added = channels * network.config.patch**2
    with torch.device("meta"):  # random weights would be discarded, and take numbers of torch's generator
        stem = PackedConv2d(old.in_channels + added, old.out_channels, 3, padding=1)
    zeros = old.weight.new_zeros(old.out_channels, added, *old.weight.shape[2:])
    weight = torch.cat([old.weight[:, :after], zeros, old.weight[:, after:]], dim=1)
    stem.weight = torch.nn.Parameter(weight, requires_grad=False)
    stem.bias = old.bias
    network.stem = stem.train(network.training)
