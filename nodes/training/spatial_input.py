"""A condition that a trained denoiser did not have: more channels of its input, to train."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from guidegraph.graph.node import node
from guidegraph.nodes.types import Denoiser

if TYPE_CHECKING:
    from guidegraph.nodes.models.own.unet import UNet


@node("denoiser.add_spatial_channels")
def add_spatial_channels(denoiser: Denoiser, *, channels: Annotated[int, Ge(1)]) -> Denoiser:
    """A U-Net that also takes a spatial condition of `channels` channels, to fine-tune a trained model on it.

    The weights of the new channels are zero, so that predictions are unchanged at first, whatever the condition (Brooks
    et al. 2023, section 3.2). All other tensors are shared, and the input does not change.
    denoiser: of `model.load` or `model.unet`; its own spatial condition, if it has one, comes first.
    Raises an error for a denoiser that is not a U-Net of `model.unet`, or has a LoRA that is not merged.
    """
    from guidegraph.nodes.models.networks.low_rank import low_rank_layers
    from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
    from guidegraph.nodes.models.own.denoiser import UNetDenoiser

    if not isinstance(denoiser, UNetDenoiser):
        raise ValueError(f"expected a U-Net of model.load or model.unet; found {type(denoiser).__name__}")
    if any(low_rank_layers(denoiser)):
        raise ValueError("this denoiser has a LoRA: wire lora.merge's, or widen its input before lora.new")
    widened = copy_sharing_tensors(denoiser)
    widen_stem(widened.network, channels)
    return widened


def widen_stem(network: UNet, channels: int) -> None:
    """Replace the first convolution by one with input channels of weight zero for `channels` more of the condition."""
    import torch
    from torch.nn import functional

    from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d

    old = network.stem
    added = channels * network.config.patch**2
    with torch.device("meta"):  # random weights would be discarded, and take numbers of torch's generator
        stem = PackedConv2d(old.in_channels + added, old.out_channels, 3, padding=1)
    stem.weight = torch.nn.Parameter(functional.pad(old.weight, (0, 0, 0, 0, 0, added)), requires_grad=False)
    stem.bias = old.bias
    network.stem = stem.train(network.training)
    network.config = replace(network.config, spatial_channels=network.config.spatial_channels + channels)
