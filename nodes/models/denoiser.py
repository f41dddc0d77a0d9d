"""A U-Net as a `Denoiser`: the adapter between tensors and predictions."""

from __future__ import annotations

from torch import Tensor, nn

from guidegraph.nodes.models.unet import UNet
from guidegraph.nodes.types import Condition, Prediction


class UNetDenoiser(nn.Module):
    """`(x, t, condition) -> Prediction` of a UNet, computed in the network's dtype and given in that of x.

    Twice the channels of x in the output means a learned variance in the second half (Nichol & Dhariwal 2021).
    """

    honours_mask = True

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B."""
        dtype = self.network.stem.weight.dtype

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        config = self.network.config
        out = self.network(
            x.to(dtype),
            t,
            vector=cast(condition.vector),
            tokens=cast(condition.tokens),
            mask=condition.mask,
            spatial=cast(condition.spatial),
        ).to(x.dtype)
        if config.out_channels == 2 * config.in_channels:
            return Prediction(out[:, : config.in_channels], config.kind, out[:, config.in_channels :])
        return Prediction(out, config.kind)
