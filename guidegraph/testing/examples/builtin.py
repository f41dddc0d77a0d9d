"""Examples of the built-in port types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from guidegraph.nodes import types
from guidegraph.nodes.guidance.hooks import HookedDenoiser, MemoryDenoiser, OpaqueDenoiser, select_sites
from guidegraph.nodes.guidance.rule_memory import RuleMemory, RuleWithMemory
from guidegraph.nodes.guidance.step_context import StepContext, context
from guidegraph.nodes.models.model_nodes import new_unet
from guidegraph.nodes.sampling.levels import levels_at_timesteps
from guidegraph.nodes.sampling.schedule import linear
from guidegraph.nodes.sampling.scheduler import ddim
from guidegraph.testing.examples.models import (
    Autoencoder,
    Classifier,
    ConditionAdapter,
    Denoiser,
    Discriminator,
    FeatureExtractor,
    ImageEmbedder,
    LabelEmbedder,
    Segmenter,
    SemanticEmbedder,
    TextEmbedder,
)
from guidegraph.testing.examples.sizes import BATCH, SIZES, TEXTS, Maker, draw_normal, make_integers

SAMPLE = ("B", "C", "H", "W")


def image(seed: int) -> torch.Tensor:
    value: torch.Tensor = draw_normal(("B", 3, "H", "W"), seed).tanh()
    return value


def mask(seed: int) -> torch.Tensor:
    value: torch.Tensor = (draw_normal(("B", 1, "H", "W"), seed) > 0).float()
    return value


def semantic(seed: int) -> torch.Tensor:
    classes = draw_normal(("B", "K", "H", "W"), seed).argmax(1, keepdim=True)
    return torch.zeros(BATCH, SIZES["K"], SIZES["H"], SIZES["W"]).scatter_(1, classes, 1)


def timesteps(seed: int) -> torch.Tensor:
    """Fractional timesteps, one per sample, within the example schedule."""
    return torch.tensor([61.5, 24.25]) + seed % 3


def condition(seed: int) -> types.Condition:
    counts = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return types.Condition(
        vector=draw_normal(("B", "D"), seed), tokens=draw_normal(("B", "M", "D"), seed + 1), mask=counts
    )


def schedule(seed: int) -> types.Schedule:
    """100 steps, with a final ᾱ of about 0.01."""
    return linear(train_steps=SIZES["T"], beta_start=0.001, beta_end=0.09 + 0.005 * (seed % 3))


def levels(seed: int) -> types.Levels:
    """Three falling levels, then σ = 0."""
    falling = torch.tensor([80.0, 50.0, 20.0], dtype=torch.float64) + seed % 3
    return levels_at_timesteps(schedule(seed), falling.tolist())


def scheduler(seed: int) -> types.Scheduler:
    return ddim(schedule(seed), steps=SIZES["R"]).scheduler


def state(seed: int) -> types.SchedulerState:
    """After the first step, with full slots."""
    return types.SchedulerState(torch.tensor([1]), draw_normal((4, *SAMPLE), seed))


def step_context(seed: int) -> StepContext:
    """At the second row of the example sampler."""
    sampler = scheduler(seed)
    return context(sampler, draw_normal(SAMPLE, seed), state(seed), sampler.t[1:2].float())


def table(seed: int) -> types.Table:
    return types.Table({"x": [0.0, 1.0, 2.0], "y": [0.5 + seed, 0.25, 1.0], "name": ["a", "b", "c"]})


def hooked_denoiser(seed: int) -> HookedDenoiser:
    """A U-Net with a few thousand weights, all nonzero, for 4 channels, and tokens and a vector of width 6."""
    width = SIZES["D"]
    unet: Any = new_unet(channels=8, multipliers=(1, 2), attention=(1,), heads=2, context_dim=width, vector_dim=width)
    generator = torch.Generator().manual_seed(9000 + seed)
    for parameter in unet.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    denoiser: HookedDenoiser = unet
    return denoiser


MEMORY_SITE = "deep.up.3"
"""The site of the example rule with a memory; its features have 8 channels and the size of x."""


def memory_denoiser(seed: int) -> MemoryDenoiser:
    """The same U-Net with one rule that has a memory: a running average of the features that enter the last block."""

    def average(compute: Callable[[], torch.Tensor], memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = 0.75 * compute() + 0.25 * memory
        return mixed, mixed

    hooked = hooked_denoiser(seed)
    (site,) = select_sites(hooked, MEMORY_SITE)
    return cast(MemoryDenoiser, hooked.with_rules({site: RuleWithMemory(average)}))


def rule_memory(seed: int) -> RuleMemory:
    """The memory of the example's rule."""
    return RuleMemory({MEMORY_SITE: draw_normal(("B", 8, "H", "W"), seed)})


MAKERS: Mapping[type, Maker] = cast(
    "Mapping[type, Maker]",
    {
        types.Image: image,
        types.Mask: mask,
        types.SemanticMap: semantic,
        types.Label: lambda seed: make_integers(("B",), seed),
        types.Timesteps: timesteps,
        types.Score: lambda seed: draw_normal(SAMPLE, seed),
        types.Prediction: lambda seed: types.Prediction(draw_normal(SAMPLE, seed), "eps"),
        types.Condition: condition,
        types.Schedule: schedule,
        types.Levels: levels,
        types.Scheduler: scheduler,
        types.SchedulerState: state,
        types.Table: table,
        StepContext: step_context,
        types.Denoiser: Denoiser,
        HookedDenoiser: hooked_denoiser,
        MemoryDenoiser: memory_denoiser,
        RuleMemory: rule_memory,
        OpaqueDenoiser: Denoiser,
        types.Classifier: Classifier,
        types.TextEmbedder: TextEmbedder,
        types.LabelEmbedder: LabelEmbedder,
        types.ImageEmbedder: ImageEmbedder,
        types.SemanticEmbedder: SemanticEmbedder,
        types.ConditionAdapter: ConditionAdapter,
        types.Segmenter: Segmenter,
        types.FeatureExtractor: FeatureExtractor,
        types.Discriminator: Discriminator,
        types.Autoencoder: Autoencoder,
        str: lambda seed: TEXTS[seed % len(TEXTS)],
        float: lambda seed: 0.5 + seed / 8,
        int: lambda seed: 2 + seed,
        bool: lambda seed: seed % 2 == 0,
    },
)
