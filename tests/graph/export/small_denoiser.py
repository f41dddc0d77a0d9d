"""A small text-conditioned denoiser with learned variance, and a condition for it, as nodes of a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from guidegraph import Condition, Denoiser, Sample, Schedule, Score, Timesteps, hookimpl, node
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser

CONFIG = UNetConfig(
    in_channels=3,
    out_channels=6,
    channels=16,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    heads=2,
    context_dim=32,
    kind="v",
)


@node("small.denoiser")
def denoiser() -> Denoiser:
    """Random weights, none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNetDenoiser(UNet(CONFIG))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return model


@node("small.condition")
def condition(*, seed: int = 0, tokens: int = 5) -> Condition:
    """Random tokens, the last of which does not count."""
    mask = torch.ones(1, tokens, dtype=torch.bool)
    mask[:, -1] = False
    return Condition(tokens=torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(seed)), mask=mask)


@node("small.pull")
def pull(
    denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition, schedule: Schedule, *, scale: float = 1.0
) -> Score:
    """The gradient of −‖x̂0‖² with respect to x, through the denoiser."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        actual = denoiser(at, t, condition)
        loss = (schedule.to_x0(actual, at, t) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, at)
    return -scale * gradient


@node("small.decode")
def decode(x: Sample) -> Sample:
    """Samples between -1 and 1."""
    return torch.tanh(x)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [denoiser, condition, pull, decode]
