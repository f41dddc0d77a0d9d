"""Networks as a `Denoiser`: the adapter between tensors and predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from guidegraph.nodes.models.networks.hooks import HookedModel, Hooks
from guidegraph.nodes.models.own.unet import UNet, UNetConfig
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction, PredictionKind


class NetworkPorts(Protocol):
    """The part of a network's config that describes its inputs and its output: channels, sides, widths, the kind."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def spatial_channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def vector_dim(self) -> int | None: ...
    @property
    def context_dim(self) -> int | None: ...
    @property
    def kind(self) -> PredictionKind: ...


class NetworkDenoiser(HookedModel, ABC):
    """`(x, t, condition) -> Prediction` of a network, computed in the network's dtype and given in the dtype of x.

    Twice the channels of x in the output means a learned variance in the second half, raw, in [-1, 1] (Nichol &
    Dhariwal 2021, eq. 15).
    """

    @property
    @abstractmethod
    def config(self) -> NetworkPorts:
        """The config of the network."""

    @property
    def kind(self) -> PredictionKind:
        """The kind of every prediction."""
        return self.config.kind

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` for a shape of x that the network does not take."""
        check_shape(self.config, shape)

    def extra_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs that only this network takes, by name; x (B, C, H, W)."""
        return {}

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        Raises ``ValueError`` for a size of x, or a condition, that the network does not take. A vector given with
        tokens may be left unused, as Stable Diffusion leaves the pooled one of CLIP.
        """
        network = self.network
        config, dtype = self.config, network.dtype
        self.check_shape(x.shape)
        check_spatial(config, x, condition.spatial)
        check_fields(config, condition)

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        out = network(
            x.to(dtype),
            t,
            vector=None if config.vector_dim is None else cast(condition.vector),
            tokens=cast(condition.tokens),
            mask=condition.mask,
            spatial=cast(condition.spatial),
            hooks=hooks or self.hooks,
            **self.extra_inputs(x),
        ).to(x.dtype)
        if config.out_channels == 2 * config.in_channels:
            return Prediction(out[:, : config.in_channels], config.kind, out[:, config.in_channels :])
        return Prediction(out, config.kind)


class UNetDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a UNet."""

    network: UNet

    @property
    def config(self) -> UNetConfig:
        return self.network.config


def check_shape(config: NetworkPorts, shape: Sequence[int]) -> None:
    """Raise ``ValueError`` if a network does not take x (B, C, H, W) of this shape."""
    if len(shape) != 4 or shape[1] != config.in_channels:
        raise ValueError(
            f"this denoiser takes x (B, C, H, W) of {config.in_channels} channels; found x of shape {tuple(shape)}"
        )
    if shape[2] % config.factor or shape[3] % config.factor:
        raise ValueError(
            f"this denoiser takes sides that are multiples of {config.factor}; found x of shape {tuple(shape)}"
        )


def check_spatial(config: NetworkPorts, x: Tensor, spatial: Tensor | None) -> None:
    """Raise ``ValueError`` if a network does not take the spatial condition, at the size of x (B, C, H, W)."""
    if (0 if spatial is None else spatial.shape[1]) != config.spatial_channels:
        got = "none" if spatial is None else f"one of {spatial.shape[1]}"
        raise ValueError(
            f"this denoiser takes a spatial condition of {config.spatial_channels} channels, and got {got}: see "
            "condition.spatial, and condition.null for the null condition"
            if config.spatial_channels
            else f"this denoiser takes no spatial condition, and got {got} channels"
        )
    if spatial is not None and spatial.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"the spatial condition must have the size of x, {tuple(x.shape[2:])}; found {tuple(spatial.shape[2:])}: "
            "set the size of condition.spatial"
        )


def drop_full_mask(condition: Condition) -> Condition:
    """The condition without a mask that leaves nothing out: attention without one has faster kernels.

    A mask that is traced stays, since its values are unknown.
    """
    mask = condition.mask
    return replace(condition, mask=None) if mask is not None and has_values(mask) and bool(mask.all()) else condition


def check_fields(config: NetworkPorts, condition: Condition) -> None:
    """Raise ``ValueError`` if the vector or the tokens do not have the widths that a network takes."""
    unused = condition.tokens is not None and config.context_dim is not None and config.vector_dim is None
    vector, tokens = None if unused else _find_width(condition.vector), _find_width(condition.tokens)
    if (vector, tokens) == (config.vector_dim, config.context_dim):
        return
    for name, actual, width, null in (
        ("a vector", vector, config.vector_dim, "label.embed without a label"),
        ("tokens", tokens, config.context_dim, "text.encode with an empty prompt"),
    ):
        if actual == width:
            continue
        if width is None:
            raise ValueError(f"this denoiser takes no {name.removeprefix('a ')} in its condition, and got {name}")
        got = "none" if actual is None else f"width {actual}"
        raise ValueError(f"this denoiser takes {name} of width {width}, and got {got}: the null condition is {null}")


def _find_width(value: Tensor | None) -> int | None:
    """The size of the last axis; None for an absent field."""
    return None if value is None else value.shape[-1]
