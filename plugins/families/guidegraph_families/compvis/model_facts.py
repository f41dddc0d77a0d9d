"""Facts about a latent diffusion model that are not in its tensors: from settings, a config.yaml or a table."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import PredictionKind, Schedule
from guidegraph_families.parts.infer_unet import GROUPS, Heads, Structure

BetaKind: TypeAlias = Literal["scaled_linear", "linear"]


@dataclass(frozen=True)
class BetaSchedule:
    """β from `start` to `end` in `steps` steps, linear in √β (`scaled_linear`) or in β (`linear`)."""

    start: float
    end: float
    kind: BetaKind = "scaled_linear"
    steps: int = 1000

    def build(self) -> Schedule:
        make = schedules.scaled_linear if self.kind == "scaled_linear" else schedules.linear
        return make(train_steps=self.steps, beta_start=self.start, beta_end=self.end)


@dataclass(frozen=True)
class Rescaler:
    """How `SpatialRescaler` shrinks a map before its 1 × 1 convolution: `stages` times by `factor`, with `mode`."""

    stages: int
    factor: float = 0.5
    mode: str = "bilinear"


@dataclass(frozen=True)
class Facts:
    """The facts that one source gives about a model; None for those that it does not give.

    heads, head_channels, upsample_heads, order: of attention; see `Heads`. groups: of GroupNorm. scale: factor that
    gives latents unit variance. schedule: of its training. prediction: the output of the network. rescaler: of a model
    conditioned on maps. null_label: the label that means none, of a model with classes. takes_text: its transformer
    encodes words, not the boxes of a layout. unsettled: facts that this source declares specific to the model but does
    not give, so that later sources cannot supply them.
    """

    heads: int | None = None
    head_channels: int | None = None
    upsample_heads: int | None = None
    order: Literal["legacy", "new"] | None = None
    groups: int | None = None
    scale: float | None = None
    schedule: BetaSchedule | None = None
    prediction: PredictionKind | None = None
    rescaler: Rescaler | None = None
    null_label: int | None = None
    takes_text: bool | None = None
    unsettled: tuple[str, ...] = ()

    @property
    def layout(self) -> Heads:
        """The layout of the attention heads."""
        return Heads(self.heads, self.head_channels, self.order or "legacy", self.upsample_heads)

    @property
    def norm_groups(self) -> int:
        return self.groups or GROUPS


def facts_from_options(options: LoadOptions) -> Facts:
    """The facts in the settings of `checkpoint.load`, without the noise schedule, which is only a name there."""
    return Facts(
        heads=options.heads,
        head_channels=options.head_channels,
        upsample_heads=options.upsample_heads,
        order=None if options.attention == "auto" else options.attention,
        groups=options.groups,
        scale=options.scale,
        prediction=None if options.prediction == "auto" else options.prediction,
    )


def merge_facts(*sources: Facts) -> Facts:
    """Take each fact from the first source that has it, unless an earlier source declares it unsettled.

    The number of heads and the width of a head count as one fact.
    """
    merged = Facts()
    for source in sources:
        if merged.heads is None and merged.head_channels is None:
            upsample = merged.upsample_heads if merged.upsample_heads is not None else source.upsample_heads
            merged = replace(merged, heads=source.heads, head_channels=source.head_channels, upsample_heads=upsample)
        for field in fields(Facts):
            settled = field.name in ("heads", "head_channels", "upsample_heads", "unsettled", *merged.unsettled)
            if not settled and getattr(merged, field.name) is None:
                merged = replace(merged, **{field.name: getattr(source, field.name)})
        merged = replace(merged, unsettled=merged.unsettled + source.unsettled)
    return merged


def list_unknown_settings(facts: Facts, measured: Structure, *, latents: bool, maps: bool, schedule: bool) -> list[str]:
    """The settings of `checkpoint.load` that this network needs and no source gives.

    latents: there is a first stage, which needs a scale. maps: there is a SpatialRescaler. schedule: the file lacks it.
    """
    attends = bool(measured.middle_depth or measured.attention_levels)
    unknown = {
        "heads or head_channels": attends and facts.heads is None and facts.head_channels is None,
        "attention": attends and measured.context_dim is None and facts.order is None,
        "scale": latents and facts.scale is None,
        "noise_schedule": schedule and facts.schedule is None,
        "prediction": facts.prediction is None,
        "config": maps and facts.rescaler is None,
    }
    return [name for name, missing in unknown.items() if missing]
