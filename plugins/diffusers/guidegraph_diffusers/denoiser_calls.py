"""Calls each denoiser of diffusers: converts x, the time and a condition to the arguments of its `forward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidegraph import Condition

Config = Mapping[str, Any]
Call = Callable[[Any, Tensor, Tensor, Condition, float], Tensor]


def _any_side(config: Config) -> int:
    return 1


def _accept(config: Config) -> None:
    return None


@dataclass(frozen=True)
class Family:
    """A class of denoisers.

    call: (network, x (B, C, H, W) in the network's dtype, time (B) float32, condition, guidance) to the network's
    output. kind: the prediction, if all models of the class have the same. multiple: the factor of the sides of x.
    packed: pixels of x in one channel group of the network's input. check: raises ``ValueError`` for an unsupported
    variant of the class.
    """

    call: Call
    kind: str | None = None
    honours_mask: bool = False
    multiple: Callable[[Config], int] = _any_side
    packed: int = 1
    square: bool = False
    check: Callable[[Config], None] = _accept

    def check_size(self, config: Config, x: Tensor, spatial: Tensor | None) -> None:
        """Raise ``ValueError`` if the network does not take x, or a spatial condition, of this size."""
        spatial_channels = 0 if spatial is None else spatial.shape[1]
        channels = int(config["in_channels"]) // self.packed
        if x.shape[1] + spatial_channels != channels:
            raise ValueError(
                f"this denoiser takes {channels} channels; found {x.shape[1]} of x and {spatial_channels} of a spatial "
                "condition"
            )
        if spatial is not None and spatial.shape[2:] != x.shape[2:]:
            raise ValueError(f"the spatial condition {tuple(spatial.shape)} must have the size of x {tuple(x.shape)}")
        factor = self.multiple(config)
        if x.shape[2] % factor or x.shape[3] % factor or (self.square and x.shape[2] != x.shape[3]):
            kind = "square x" if self.square else "x"
            raise ValueError(
                f"this denoiser takes {kind} whose sides are multiples of {factor}; found shape {tuple(x.shape)}"
            )


def read_tokens(network: Any, condition: Condition, width: int | None) -> Tensor:
    """Read the tokens (B, M, width) in the network's dtype. Raises ``ValueError`` for another width."""
    tokens = condition.tokens
    if tokens is None or (width is not None and tokens.shape[-1] != width):
        got = "none" if tokens is None else f"width {tokens.shape[-1]}"
        raise ValueError(
            f"this denoiser takes tokens of width {width}, and got {got}: the null condition is text.encode with an "
            "empty prompt"
        )
    return tokens.to(network.dtype)


def read_all_tokens(network: Any, condition: Condition, width: int) -> Tensor:
    """Read the tokens of a model that attends to all of them, including padding, as in its training."""
    if condition.mask is not None:
        raise ValueError("this denoiser attends to padding and has no use for a mask: take tokens of `diffusers.text`")
    return read_tokens(network, condition, width)


def read_pooled_vector(network: Any, condition: Condition) -> Tensor:
    """Read the pooled vector (B, D) in the network's dtype. Raises ``ValueError`` for another width."""
    width, vector = int(network.config.pooled_projection_dim), condition.vector
    if vector is None or vector.shape[-1] != width:
        got = "none" if vector is None else f"width {vector.shape[-1]}"
        raise ValueError(f"this denoiser takes a pooled vector of width {width}, and got {got}: see `diffusers.text`")
    return vector.to(network.dtype)


def read_classes(condition: Condition, classes: int, null: int | None) -> Tensor:
    """The labels (B), int64, of a one-hot vector (B, classes); zeros are the null class."""
    vector = condition.vector
    if vector is None or vector.shape[-1] != classes:
        got = "none" if vector is None else f"width {vector.shape[-1]}"
        raise ValueError(
            f"this denoiser takes a class as a vector of width {classes}, and got {got}: see `diffusers.labels`"
        )
    has_class = vector.any(dim=1)
    if null is None and not bool(has_class.all()):
        raise ValueError(f"this denoiser has no null class: give labels 0 … {classes - 1} to label.embed")
    return torch.where(has_class, vector.argmax(dim=1), classes if null is None else null)


def unet(network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float) -> Tensor:
    classes = network.config.num_class_embeds
    labels = None if classes is None else read_classes(condition, classes, None)
    output: Tensor = network(x, time, class_labels=labels).sample
    return output


def conditional_unet(
    network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float, pixels: int = 8
) -> Tensor:
    """pixels: along each side of a latent's cell, which SDXL counts its picture's size by."""
    config = network.config
    width = config.encoder_hid_dim or config.cross_attention_dim
    classes = config.num_class_embeds
    output: Tensor = network(
        x,
        time,
        read_tokens(network, condition, width if isinstance(width, int) else None),
        class_labels=None if classes is None else read_classes(condition, classes, None),
        encoder_attention_mask=condition.mask,
        added_cond_kwargs=_text_and_sizes(network, x, condition, pixels) if config.addition_embed_type else None,
    ).sample
    return output


def _text_and_sizes(network: Any, x: Tensor, condition: Condition, pixels: int) -> dict[str, Tensor]:
    """SDXL's vector (B, P + N): the pooled text P, then the N numbers of sizes and crops (Podell et al. 2023, 2.2).

    The embedding's width is P + N · d, from which N follows. Without numbers, the six are the size of x, uncropped, as
    in diffusers' pipeline by default.
    """
    width, d = network.add_embedding.linear_1.in_features, network.config.addition_time_embed_dim
    vector = condition.vector
    actual = 0 if vector is None else vector.shape[-1]
    if vector is not None and actual == width - 6 * d:
        height, breadth = (side * pixels for side in x.shape[2:])
        numbers = torch.tensor([[height, breadth, 0, 0, height, breadth]], dtype=torch.float32, device=x.device)
        return {"text_embeds": vector.to(network.dtype), "time_ids": numbers.expand(x.shape[0], -1)}
    count, remainder = divmod(width - actual, d - 1)
    if vector is None or remainder or count not in (5, 6):  # the refiner has five
        raise ValueError(
            f"this denoiser takes a vector of the pooled text, of width {width - 6 * d}, or with the six numbers of "
            f"sizes, {width - 6 * (d - 1)}, and got {actual or 'none'}: see `diffusers.text`"
        )
    return {"text_embeds": vector[:, :-count].to(network.dtype), "time_ids": vector[:, -count:]}


def dit(network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float) -> Tensor:
    classes = network.config.num_embeds_ada_norm
    output: Tensor = network(x, timestep=time, class_labels=read_classes(condition, classes, classes)).sample
    return output


def pixart(network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float) -> Tensor:
    """Passes the picture's size in pixels, 8 for each of the latent's, as diffusers' pipelines do."""
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if network.use_additional_conditions:
        height, width = (8.0 * side for side in x.shape[2:])
        numbers = {"resolution": [[height, width]], "aspect_ratio": [[height / width]]}
        sizes |= {name: x.new_tensor(value).expand(x.shape[0], -1) for name, value in numbers.items()}
    output: Tensor = network(
        x,
        encoder_hidden_states=read_tokens(network, condition, network.config.caption_channels),
        timestep=time,
        added_cond_kwargs=sizes,
        encoder_attention_mask=condition.mask,
    ).sample
    return output


def sd3(network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float) -> Tensor:
    output: Tensor = network(
        x,
        encoder_hidden_states=read_all_tokens(network, condition, network.config.joint_attention_dim),
        pooled_projections=read_pooled_vector(network, condition),
        timestep=time,
    ).sample
    return output


def flux(network: Any, x: Tensor, time: Tensor, condition: Condition, guidance: float) -> Tensor:
    """Packs each 2 × 2 pixels of the latent into one token with its position (row, column)."""
    batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    packed = x.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    positions = torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).to(x)
    tokens = read_all_tokens(network, condition, network.config.joint_attention_dim)
    out: Tensor = network(
        hidden_states=packed,
        encoder_hidden_states=tokens,
        pooled_projections=read_pooled_vector(network, condition),
        timestep=time / 1000,
        img_ids=positions,
        txt_ids=x.new_zeros(tokens.shape[1], 3),
        guidance=time.new_full((batch,), guidance) if network.config.guidance_embeds else None,
    ).sample
    return out.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def _check_unet(config: Config) -> None:
    """Raise ``ValueError`` for a conditional U-Net with inputs that a condition does not hold."""
    allowed = {
        "addition_embed_type": (None, "text_time"),
        "encoder_hid_dim_type": (None, "text_proj"),
        "class_embed_type": (None,),
        "time_cond_proj_dim": (None,),
    }
    for name, values in allowed.items():
        if config.get(name) not in values:
            raise ValueError(f"a UNet2DConditionModel with {name} {config.get(name)!r} is not supported")


def _levels(config: Config) -> int:
    return int(2 ** (len(config["down_block_types"]) - 1))


def _patch(config: Config) -> int:
    return int(config["patch_size"])


FAMILIES = {
    "UNet2DModel": Family(unet, multiple=_levels),
    "UNet2DConditionModel": Family(conditional_unet, honours_mask=True, check=_check_unet),
    "DiTTransformer2DModel": Family(dit, "eps", multiple=_patch, square=True),
    "PixArtTransformer2DModel": Family(pixart, "eps", honours_mask=True, multiple=_patch),
    "SD3Transformer2DModel": Family(sd3, "flow", multiple=_patch),
    "FluxTransformer2DModel": Family(flux, "flow", multiple=lambda config: 2, packed=4),
}
