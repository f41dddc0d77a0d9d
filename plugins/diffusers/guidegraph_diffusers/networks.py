"""Networks of diffusers as modules with guidegraph's conventions: variance-preserving x, latents of unit scale."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from guidegraph import Condition, Prediction, Schedule
from guidegraph_diffusers.denoiser_calls import Family


class DiffusersDenoiser(nn.Module):
    """`(x, t, condition) -> Prediction` of a network of diffusers, computed in the network's dtype and returned in the
    dtype of x.

    Twice the channels of x in the output means a learned variance in the second half (Nichol & Dhariwal 2021).
    """

    def __init__(self, network: Any, family: Family, kind: str, schedule: Schedule, guidance: float) -> None:
        super().__init__()
        self.network = network
        self.family = family
        self.kind = kind
        self.schedule = schedule
        self.guidance = guidance
        self.honours_mask = family.honours_mask

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        Raises ``ValueError`` for a size of x, or a condition, that the network does not take.
        """
        if self.kind != "flow":
            return self._split(x, self._call(x, t, condition).to(x.dtype))
        alpha, sigma = self.schedule.along(x, t)
        s = sigma / (alpha + sigma)
        flow = x / (alpha + sigma)  # (1 − s) x0 + s ε
        time = s.reshape(-1).float() * self.schedule.train_steps
        u = self._call(flow, time, condition).to(x.dtype)
        return Prediction((flow - s * u).to(x.dtype), "x0")

    def _call(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        import torch

        self.family.check_size(self.network.config, x, condition.spatial)
        if condition.spatial is not None:
            x = torch.cat([x, condition.spatial.to(x)], dim=1)
        return self.family.call(self.network, x.to(self.network.dtype), time, condition, self.guidance)

    def _split(self, x: Tensor, out: Tensor) -> Prediction:
        channels, kind = x.shape[1], cast(Literal["eps", "x0", "v"], self.kind)
        if out.shape[1] == 2 * channels:
            return Prediction(out[:, :channels], kind, out[:, channels:])
        return Prediction(out, kind)


def check_sides(image: Tensor, channels: int, factor: int) -> None:
    """Raise ``ValueError`` for pictures (B, C, H, W) of other channels, or whose sides are no multiples of a factor."""
    if image.shape[1] != channels or image.shape[2] % factor or image.shape[3] % factor:
        raise ValueError(
            f"this autoencoder takes pictures of {channels} channels whose sides are multiples of {factor}; "
            f"found shape {tuple(image.shape)}: resize them with image.resize"
        )


class DiffusersAutoencoder(nn.Module):
    """An `Autoencoder` of diffusers: latents are (z − shift_factor) · scaling_factor, as its pipelines have them."""

    def __init__(self, network: Any, field: str, factor: int) -> None:
        """field: field of `encode`'s output with the latents. factor: the pictures' sides are multiples of it."""
        super().__init__()
        self.network = network
        self.field = field
        self.factor = factor
        self.scale = float(network.config.get("scaling_factor") or 1.0)
        self.shift = float(network.config.get("shift_factor") or 0.0)

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w): the mode of the posterior, if it has one."""
        check_sides(image, self.network.config.in_channels, self.factor)
        encoded = getattr(self.network.encode(image.to(self.network.dtype)), self.field)
        z: Tensor = encoded.mode() if self.field == "latent_dist" else encoded
        return ((z - self.shift) * self.scale).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, H, W)."""
        z = latent.to(self.network.dtype) / self.scale + self.shift
        image: Tensor = self.network.decode(z).sample
        return image.to(latent.dtype)


class FrameAutoencoder(nn.Module):
    """An `Autoencoder` of an autoencoder for videos, such as `AutoencoderKLQwenImage`, for videos of one frame.

    Latents are (z − latents_mean) / latents_std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, config = network, network.config
        self.factor: int = network.spatial_compression_ratio
        for name, values in (("mean", config.latents_mean), ("std", config.latents_std)):
            value = torch.tensor(values, dtype=network.dtype, device=network.device).reshape(1, -1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w): the mode of the posterior.

        Raises ``ValueError`` for sides that are not multiples of the factor.
        """
        check_sides(image, self.network.config.input_channels, self.factor)
        frames = image.to(self.network.dtype).unsqueeze(2)
        z: Tensor = self.network.encode(frames).latent_dist.mode().squeeze(2)
        return ((z - self.mean) / self.std).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, H, W)."""
        z = latent.to(self.network.dtype) * self.std + self.mean
        image: Tensor = self.network.decode(z.unsqueeze(2)).sample.squeeze(2)
        return image.to(latent.dtype)
