"""Examples of the built-in port types.

Small models that satisfy the protocols: each output depends smoothly on every input, sample by sample.

They compute in the dtype of their inputs, so that one model serves every dtype.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes import types
from guidegraph.nodes.guidance.hooks import HookedDenoiser, MemoryDenoiser, OpaqueDenoiser, select_sites
from guidegraph.nodes.guidance.step_context import RuleMemory, RuleWithMemory, StepContext, context
from guidegraph.nodes.models.model_nodes import new_unet
from guidegraph.nodes.sampling.levels import levels_at_timesteps
from guidegraph.nodes.sampling.schedule import linear
from guidegraph.nodes.sampling.scheduler import ddim
from guidegraph.nodes.shape_checks import check_sides
from guidegraph.nodes.types import Condition, Prediction
from guidegraph_testing.examples.sizes import BATCH, SIZES, TEXTS, Maker, draw_normal, make_integers

WIDTH, CLASSES = SIZES["D"], SIZES["K"]


class Model(nn.Module):
    """A frozen model: one 3 × 3 kernel for all channels, and a row of weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(64, generator=torch.Generator().manual_seed(7000 + seed))
        self.kernel = nn.Parameter(drawn[:9].reshape(1, 1, 3, 3) / 3, requires_grad=False)
        self.weights = nn.Parameter(drawn[9:], requires_grad=False)
        self.eval()

    def filter(self, x: Tensor) -> Tensor:
        """Bounded features in the shape of x (B, C, H, W)."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, -1, -1, -1), padding=1, groups=channels).tanh()

    def row(self, pooled: Tensor, width: int) -> Tensor:
        """(B) as (B, width)."""
        return (pooled.unsqueeze(1) + self.weights[:width].to(pooled.dtype)).sin()


class Denoiser(Model):
    """x (B, C, H, W), t (B) and any condition to an ε prediction."""

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        shift = (t.to(x.dtype) / SIZES["T"]).cos()
        if condition.vector is not None:
            shift = shift + condition.vector.to(x.dtype).mean(1)
        if condition.tokens is not None:
            shift = shift + masked_mean(condition.tokens.to(x.dtype), condition.mask)
        value = self.filter(x) + shift.reshape(-1, 1, 1, 1)
        if condition.spatial is not None:
            value = value + condition.spatial.to(x.dtype).mean(1, keepdim=True)
        return Prediction(value, "eps")


class Classifier(Model):
    """x (B, C, H, W) and t (B) to logits (B, 7)."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.row(self.filter(x).mean((1, 2, 3)) + t.to(x.dtype) / SIZES["T"], CLASSES)


class Segmenter(Model):
    """Pictures (B, 3, H, W) to logits (B, 7, H, W)."""

    def forward(self, image: Tensor) -> Tensor:
        grey = self.filter(image).mean(1, keepdim=True)
        return (grey + self.weights[:CLASSES].to(image.dtype).reshape(1, -1, 1, 1)).sin()


class Discriminator(Model):
    """Pictures (B, 3, H, W) to logits (B, 1, H/2, W/2)."""

    def forward(self, image: Tensor) -> Tensor:
        return halve(self.filter(image).mean(1, keepdim=True))


class FeatureExtractor(Model):
    """Pictures (B, 3, H, W) to a map (B, 3, H/2, W/2) and a pooled row (B, 6)."""

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        features = self.filter(image)
        return [halve(features), self.row(features.mean((1, 2, 3)), WIDTH)]


class Autoencoder(Model):
    """Pictures (B, 3, H, W) to latents (B, 4, H/2, W/2) and back."""

    def encode(self, image: Tensor) -> Tensor:
        return F.conv2d(halve(image), self.weights[:12].to(image.dtype).reshape(4, 3, 1, 1))

    def decode(self, latent: Tensor) -> Tensor:
        colours = F.conv2d(latent, self.weights[12:24].to(latent.dtype).reshape(3, 4, 1, 1)).tanh()
        return colours.repeat_interleave(2, 2).repeat_interleave(2, 3)


class ImageEmbedder(Model):
    """Pictures (B, 3, H, W) to a vector (B, 6)."""

    def forward(self, image: Tensor) -> Condition:
        return Condition(vector=self.row(self.filter(image).mean((1, 2, 3)), WIDTH))


class SemanticEmbedder(Model):
    """Maps (B, K, H, W) to a spatial condition (B, 1, H/2, W/2)."""

    def forward(self, semantic: Tensor) -> Condition:
        weights = self.weights[torch.arange(semantic.shape[1], device=semantic.device) % len(self.weights)]
        mixed = (semantic.to(weights.dtype) * weights[:, None, None]).sum(1, keepdim=True)
        return Condition(spatial=halve(mixed))


class LabelEmbedder(Model):
    """Labels (B) to a vector (B, 6); label 7 means none."""

    classes = CLASSES

    def forward(self, labels: Tensor) -> Condition:
        return Condition(vector=self.row(labels.to(self.weights.dtype), WIDTH))


class TextEmbedder(Model):
    """Texts to a vector (B, 6) and 5 tokens (B, 5, 6), one per word."""

    def forward(self, texts: Sequence[str]) -> Condition:
        words = [text.split()[: SIZES["M"]] for text in texts]
        ids = [[zlib.crc32(word.encode()) % 97 for word in line] + [0] * (SIZES["M"] - len(line)) for line in words]
        numbers = torch.tensor(ids, device=self.weights.device, dtype=self.weights.dtype)
        tokens = (numbers.unsqueeze(2) + self.weights[:WIDTH]).sin()
        mask = torch.tensor([[i < len(line) for i in range(SIZES["M"])] for line in words], device=tokens.device)
        return Condition(vector=tokens.mean(1), tokens=tokens, mask=mask)


class ConditionAdapter(Model):
    """Transforms the tokens and the vector of a condition."""

    def forward(self, condition: Condition) -> Condition:
        def rotate(value: Tensor) -> Tensor:
            return (value * self.weights[: value.shape[-1]].to(value.dtype)).sin()

        rotated = {name: rotate(value) for name, value in condition.fields.items() if name in ("vector", "tokens")}
        return Condition.of({**condition.fields, **rotated})


def halve(x: Tensor) -> Tensor:
    """Average pooling 2 × 2, for even sides."""
    check_sides(x, 2, "the example model")
    weight = torch.full((x.shape[1], 1, 2, 2), 0.25, dtype=x.dtype, device=x.device)
    return F.conv2d(x, weight, stride=2, groups=x.shape[1])


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the unmasked tokens (B, M, D) over M and D: (B)."""
    if mask is None:
        return tokens.mean((1, 2))
    weight = mask.to(tokens.dtype).unsqueeze(2)
    return (tokens * weight).mean(2).sum(1) / weight.sum((1, 2)).clamp(min=1)


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
