"""What a checkpoint may leave open, and the node that loads it may say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

AttentionOrder: TypeAlias = Literal["auto", "legacy", "new"]
NoiseSchedule: TypeAlias = Literal["auto", "linear", "scaled_linear", "cosine"]
PredictionChoice: TypeAlias = Literal["auto", "eps", "x0", "v"]


@dataclass(frozen=True)
class LoadOptions:
    """Settings of `checkpoint.load` that no tensor tells; auto and None are what the released models have.

    attention: the order of q, k, v and heads, guided-diffusion's `use_new_attention_order`. heads, head_channels: how
    many heads attention has, or how wide each is. noise_schedule: the β that the model was trained with. prediction:
    what the network gives. tokenizer: the folder of the one that a single file's text encoder was trained with. ema:
    take the moving averages of the weights where the checkpoint has both; without it, a diffusers folder must have the
    others as its variant `non_ema`. upsample_heads: heads on the way up, where they are others. groups: of GroupNorm.
    scale: what a latent is multiplied by to have unit variance. config: the config.yaml of a CompVis file.
    """

    attention: AttentionOrder = "auto"
    heads: int | None = None
    head_channels: int | None = None
    noise_schedule: NoiseSchedule = "auto"
    prediction: PredictionChoice = "auto"
    tokenizer: Path | None = None
    ema: bool = True
    scale: float | None = None
    upsample_heads: int | None = None
    groups: int | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if self.heads is not None and self.head_channels is not None:
            raise ValueError("set heads or head_channels, not both: the one follows from the other")
