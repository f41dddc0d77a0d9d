"""Nodes and a registry for exports that trace nothing large."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from guidegraph.graph.ir import Graph
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.resolution.load import build
from guidegraph.graph.types import Tensor
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.types import Condition, Denoiser, Prediction, Sample, Score
from guidegraph.plugins import builtin


class State(NamedTuple):
    x: Sample
    average: Tensor


@node("plan.halve")
def halve(x: Sample) -> Sample:
    """Half of it."""
    return x / 2


@node("plan.scale")
def scale(x: Sample, *, factor: float = 1.0) -> Sample:
    """Times a factor."""
    return x * factor


@node("plan.times")
def times(x: Sample, *, count: int = 1) -> Sample:
    """Several of them in a row, as many as a Python number says."""
    return torch.cat([x] * count, dim=1)


@node("plan.mix")
def mix(x: Sample, average: Tensor) -> State:
    """Toward a running average."""
    average = 0.5 * average + 0.5 * x
    return State(x - 0.1 * average, average)


@node("plan.secret", host=True)
def secret(x: Sample) -> Sample:
    """Something that only Python can do."""
    return torch.from_numpy(x.numpy() * 2)


@node("plan.read", host=True)
def read(*, word: str) -> Tensor:
    """A number for a word, which only Python can know."""
    return torch.tensor([float(len(word))])


@node("plan.pull")
def pull(x: Sample) -> Score:
    """The gradient of −‖x‖²/2."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-(at**2).sum() / 2, at)
    return gradient


@node("plan.fold")
def fold(x: Tensor, *, factor: float = 1.0) -> Sample:
    """The second half of the channels plus a multiple of the first."""
    first, second = x.unflatten(1, (2, -1)).unbind(1)
    return factor * first + second


@node("plan.spell")
def spell(x: Sample, *, word: str = "") -> Sample:
    """Plus as much as a word is long: what is traced with one word is wrong for another."""
    return x + len(word)


@node("plan.flag")
def flag(x: Sample, *, up: float | bool = 1.0) -> Sample:
    """Doubled where a flag says so."""
    return x * 2 if up is True else x


@node("plan.model")
def model(*, factor: float = 1.0) -> Denoiser:
    """A denoiser that is made of a number."""
    return lambda x, t, condition: Prediction(factor * x, "eps")


@node("plan.unet")
def make_unet() -> Denoiser:
    """A U-Net of two levels with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = UNetDenoiser(UNet(UNetConfig(2, 2, channels=8, multipliers=(1, 2), blocks=1, attention=(), heads=1)))
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval().requires_grad_(False)


@node("plan.ask")
def ask(denoiser: Denoiser, x: Sample) -> Sample:
    """What a denoiser says."""
    return denoiser(x, torch.zeros(x.shape[0]), Condition()).value


@node("plan.above")
def above(x: Sample, *, bound: float = 0.0) -> Tensor:
    """Whether the mean is above a bound, as a tensor of one element."""
    return (x.mean() > bound).reshape(1)


@node("plan.is_long", host=True)
def is_long(*, word: str) -> bool:
    """Whether a word has more than two letters, which only Python can know."""
    return len(word) > 2


@node("plan.fail", host=True)
def fail() -> Tensor:
    """A model that is not there."""
    raise FileNotFoundError("no such model")


@node("plan.vector")
def vector(x: Sample) -> Condition:
    """A condition with a vector."""
    return Condition(vector=x.flatten(1))


@node("plan.tokens")
def tokens(x: Sample) -> Condition:
    """A condition with tokens."""
    return Condition(tokens=x.flatten(2))


@node("plan.told")
def told(x: Sample, condition: Condition) -> Sample:
    """Plus the mean of a condition."""
    arguments = condition.vector if condition.tokens is None else condition.tokens
    assert arguments is not None
    return x + arguments.mean()


@node("plan.attend", batchable=("x", "condition"))
def attend(x: Sample, condition: Condition) -> Sample:
    """Plus the mean of each sample's tokens."""
    assert condition.tokens is not None
    return x + condition.tokens.mean((1, 2)).reshape(-1, 1, 1, 1)


CHOOSING = [above, is_long, fail, vector, tokens, told]

NODES = [*CHOOSING, attend, model, make_unet, ask, spell, flag, halve, scale, times, fold, mix, secret, read, pull]


def registry() -> Registry:
    """The built-in nodes and those above."""
    nodes = {get_spec(each).id: get_spec(each) for each in (*builtin.guidegraph_nodes(), *NODES)}
    types = {kind.__name__: kind for kind in builtin.guidegraph_types()}
    return Registry(nodes=nodes, types=types)


def graph_of(text: str, folder: Path) -> Graph:
    """The validated graph of a workflow's text."""
    file = folder / "workflow.yaml"
    file.write_text("guidegraph: 1\n" + text)
    return build(file, registry())
