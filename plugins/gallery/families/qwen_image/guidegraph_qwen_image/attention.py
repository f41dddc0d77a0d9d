"""Qwen-Image's joint attention in real numbers. That of diffusers turns complex ones, which ONNX does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

THETA = 10000


def use_real_numbers(network: Any) -> None:
    """Replace the positions and the attention of a transformer by those of this module, which have no weights."""
    network.pos_embed = Positions(network.config.axes_dims_rope)
    for block in network.transformer_blocks:
        block.attn.set_processor(JointAttention())


class Positions(nn.Module):
    """The angles of a picture's tokens and of a text's: (frame, row, column), with the picture around the origin.

    The text follows on the diagonal, from half of the picture's longer side on (Qwen-Image, section 2.4).
    """

    def __init__(self, widths: list[int]) -> None:
        """widths: the features of a head that each of the three axes turns."""
        super().__init__()
        self.widths = widths

    def forward(self, sizes: Any, *, max_txt_seq_len: int, device: Any) -> tuple[Tensor, Tensor]:
        """Angles (h · w, D / 2) and (M, D / 2) for sizes [[(1, h, w)], …], all alike."""
        _, height, width = sizes[0][0]
        rows = torch.arange(height, device=device) - (height - height // 2)
        columns = torch.arange(width, device=device) - (width - width // 2)
        start = torch.cat([rows, columns]).max() + 1
        grid = torch.stack(torch.meshgrid(0 * rows[:1], rows, columns, indexing="ij"), dim=-1).flatten(0, 2)
        diagonal = start + torch.arange(max_txt_seq_len, device=device)
        return self._angles(grid), self._angles(diagonal[:, None].expand(-1, 3))

    def _angles(self, positions: Tensor) -> Tensor:
        """Positions (N, 3) to angles (N, D / 2)."""
        angles = []
        for axis, width in enumerate(self.widths):
            speeds = 1 / THETA ** (torch.arange(0, width, 2, device=positions.device).float() / width)
            angles.append(positions[:, axis, None].float() * speeds)
        return torch.cat(angles, dim=1)


class JointAttention:
    """A processor of diffusers' `Attention`: the tokens of a text and of a picture attend to each other."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Results for the picture (B, N, D) and for the text (B, M, D); the mask (B, M) is of the text."""
        assert image_rotary_emb is not None
        picture, text = image_rotary_emb
        heads = (attn.heads, -1)
        layers = (
            (attn.add_q_proj, attn.norm_added_q, attn.to_q, attn.norm_q),
            (attn.add_k_proj, attn.norm_added_k, attn.to_k, attn.norm_k),
        )
        query, key = (
            torch.cat(
                [
                    rotate(norm_text(of_text(encoder_hidden_states).unflatten(2, heads)), text),
                    rotate(norm_picture(of_picture(hidden_states).unflatten(2, heads)), picture),
                ],
                dim=1,
            )
            for of_text, norm_text, of_picture, norm_picture in layers
        )
        value = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], 1).unflatten(2, heads)
        mask = None
        if encoder_hidden_states_mask is not None:
            seen = encoder_hidden_states_mask.new_ones(hidden_states.shape[:2])
            mask = torch.cat([encoder_hidden_states_mask, seen], dim=1)[:, None, None]
        joint = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        joint = joint.transpose(1, 2).flatten(2)
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](joint[:, length:]), attn.to_add_out(joint[:, :length])


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring features of x (B, N, heads, D) by its angle (N, D / 2)."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    even, odd = x.float().unflatten(3, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(3).to(x.dtype)
