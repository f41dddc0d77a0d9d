"""Group normalisation with less work around the operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, whose check of the size takes longer than the operator needs for a small map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to the same shape. Raises ``ValueError`` if a group is a single value."""
        if x.numel() == self.num_groups:
            return super().forward(x)
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)
