"""Settings of `checkpoint.load`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.nodes.types import PredictionKind

AttentionOrder: TypeAlias = Literal["auto", "legacy", "new"]
NoiseSchedule: TypeAlias = Literal["auto", "linear", "scaled_linear", "cosine"]
PredictionChoice: TypeAlias = Literal["auto", PredictionKind]


@dataclass(frozen=True)
class LoadOptions:
    """Settings of `checkpoint.load` that cannot be inferred from tensors; auto and None take the releases' settings.

    attention: the order of q, k, v and heads, guided-diffusion's `use_new_attention_order`. heads, head_channels: the
    number of attention heads, or the width of each. noise_schedule: the β of the training. prediction: the output of
    the network; flow if it lacks β. tokenizer: a folder with the tokenizer of a single file's text encoder. ema: take
    the moving averages of the weights if the checkpoint has both; without it, a diffusers folder must have the variant
    `non_ema`. upsample_heads: heads on the way up, if different. groups: of GroupNorm. scale: factor that gives latents
    unit variance. config: the config.yaml of a CompVis file. shift: the mean of unscaled latents. t5: load T5 as well,
    if a model can do without it. t5_tokenizer: a folder with the tokenizer of a single file's T5. transformer: the file
    or folder of a transformer to take in place of the one in a pipeline's folder.
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
    shift: float | None = None
    t5: bool = True
    t5_tokenizer: Path | None = None
    transformer: Path | None = None

    def __post_init__(self) -> None:
        if self.heads is not None and self.head_channels is not None:
            raise ValueError("set heads or head_channels, not both: the one follows from the other")

    def refuse_t5(self, source: str) -> None:
        """Raise ``ValueError`` that names `source` if a setting is set that only a model with T5 has a use for."""
        is_set = {"t5": not self.t5, "t5_tokenizer": self.t5_tokenizer is not None}
        if unused := [name for name, value in is_set.items() if value]:
            raise ValueError(f"'{source}' has no T5 text encoder: leave {', '.join(unused)} out")

    def refuse_unused(self, source: str, used: Collection[str] = ()) -> None:
        """Raise ``ValueError`` that names `source` if a setting is set that is not among those used."""
        names = [
            each.name for each in fields(self) if each.name not in used and getattr(self, each.name) != each.default
        ]
        if names:
            raise ValueError(
                f"'{source}' has no use for {', '.join(names)}: leave {'these' if names[1:] else 'it'} out"
            )
