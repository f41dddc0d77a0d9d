"""A network that is exported in a second, and nodes around it, as nodes of a plugin."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from guidegraph import Sample, Tensor, Timesteps, hookimpl, node
from guidegraph.graph.execution.watched_sizes import watch_size
from guidegraph.graph.types import structured
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.types import Denoiser


class Rows(Tensor):
    """(B, 4)."""

    axes = ("B", 4)


@structured
@dataclass(frozen=True)
class Shape:
    """A tensor with a plain field."""

    leaf_axes: ClassVar = {"weight": ("B", 4)}

    weight: Tensor
    square: bool


@structured
@dataclass(frozen=True)
class Weighted:
    """A tensor with a number."""

    leaf_axes: ClassVar = {"x": ("B", 3, "H", "W")}

    x: Tensor
    weight: float


class Network(torch.nn.Module):
    """x, t and a condition of four numbers to a tensor like x."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
        self.bias = torch.nn.Linear(5, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        described = torch.cat([t.expand(x.shape[0])[:, None], condition.expand(x.shape[0], -1)], dim=1)
        return self.second(torch.nn.functional.silu(self.first(x) + self.bias(described)[:, :, None, None]))


@node("quick.model")
def model(*, seed: int = 0) -> torch.nn.Module:
    """Random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network()


@node("quick.denoiser")
def denoiser() -> Denoiser:
    """A U-Net of random weights, without layers of zeros, which predicts x0 of samples (B, 4, H, W)."""
    config = UNetConfig(
        in_channels=4, out_channels=4, channels=16, multipliers=(1,), attention=(0,), heads=2, context_dim=None,
        vector_dim=None, kind="x0",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return UNetDenoiser(network).eval()


@node("quick.unknown_model", pure=False)
def unknown_model() -> torch.nn.Module:
    """A model that no digest identifies."""
    return model(seed=0)


@node("quick.start")
def start(*, batch: int = 1, size: int = 8) -> Sample:
    """Samples to begin with."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@node("quick.steps")
def steps(*, count: int = 4) -> Timesteps:
    """Falling times, a row for each step."""
    return torch.linspace(1.0, 0.1, count)


@node("quick.condition")
def condition(*, seed: int = 0) -> Rows:
    """(1, 4)."""
    return torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))


@node("quick.shape")
def shape(*, square: bool = False) -> Shape:
    """A weight and a flag."""
    return Shape(torch.full((1, 4), 0.5), square)


@node("quick.predict", batchable=("x", "t", "condition"))
def predict(model: torch.nn.Module, x: Sample, t: Timesteps, condition: Rows) -> Sample:
    """A call of the network."""
    return model(x, t, condition)


@node("quick.show", batchable=("x",))
def show(model: torch.nn.Module, x: Sample) -> Sample:
    """A picture of a sample, by two layers of the network."""
    return torch.tanh(model.second(torch.nn.functional.silu(model.first(x))))


@node("quick.caption")
def caption(model: torch.nn.Module, x: Sample, *, text: str = "") -> Sample:
    """The same, and brighter with a longer text."""
    return show(model, x) + len(text) / 100


@node("quick.captions")
def captions(model: torch.nn.Module, x: Sample, *, texts: list[str]) -> Sample:
    """The same, with several texts."""
    return caption(model, x, text="".join(texts))


@node("quick.thumbnail")
def thumbnail(model: torch.nn.Module, x: Sample, *, least: int = 4) -> Sample | None:
    """The same of large samples alone."""
    return show(model, x) if x.shape[-1] >= least else None


@node("quick.guide")
def guide(a: Sample, b: Sample, *, scale: float = 2.0) -> Sample:
    """b + scale (a − b)."""
    return b + scale * (a - b)


@node("quick.pull")
def pull(model: torch.nn.Module, x: Sample, t: Timesteps, condition: Rows) -> Sample:
    """The gradient of a loss through the network."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((model(at, t, condition) ** 2).sum(), at)
    return gradient


@node("quick.bend")
def bend(x: Sample, shape: Shape) -> Sample:
    """A function that a plain field chooses."""
    return torch.tanh(x) if shape.square else torch.sin(x)


@node("quick.branch")
def branch(x: Sample) -> Sample:
    """A branch on values, which no graph has."""
    return x * 0.5 if x.sum() > 1e9 else x


@node("quick.step")
def step(x: Sample, prediction: Sample, t: Timesteps) -> Sample:
    """A step against the prediction."""
    return x - 0.1 * t.reshape(-1, 1, 1, 1) * prediction


@node("quick.order")
def order(*, numbers: tuple[int, ...] = ()) -> list[int]:
    """Numbers, one for each step."""
    return [*numbers]


@node("quick.shift")
def shift(x: Sample, by: int) -> Sample:
    """A function that an int chooses."""
    return torch.sin(x) + by / 100


@node("quick.watch")
def watch(x: Sample) -> Sample:
    """Watches the largest absolute value."""
    watch_size(x.abs().max(), 1e-6, "x is {size:.3f}", lambda: x.sum() < 1e9)
    return torch.sin(x)


@node("quick.weigh")
def weigh(x: Sample, *, weight: float = 1.0) -> Weighted:
    """A tensor with its weight."""
    return Weighted(x, weight)


@node("quick.weigh_largest")
def weigh_largest(x: Sample) -> Weighted:
    """A tensor with a number that its values decide."""
    return Weighted(x, float(x.abs().max()))


@node("quick.apply", pure=False)
def apply(weighted: Weighted) -> Sample:
    """The tensor times its weight, outside of graphs."""
    return torch.sin(weighted.x * weighted.weight)


@node("quick.count_networks", pure=False)
def count_networks(x: Sample) -> Tensor:
    """How many networks are in memory after x is computed."""
    gc.collect()
    return torch.tensor(sum(type(thing) is Network for thing in gc.get_objects()))


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [
        model,
        unknown_model,
        denoiser,
        start,
        steps,
        condition,
        shape,
        predict,
        show,
        caption,
        captions,
        thumbnail,
        guide,
        pull,
        bend,
        branch,
        step,
        count_networks,
        order,
        shift,
        watch,
        weigh,
        weigh_largest,
        apply,
    ]
