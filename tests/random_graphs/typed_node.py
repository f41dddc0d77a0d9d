"""The decorator of random nodes, and their own types.

The nodes check their inputs and outputs: a value of another type is a ``Misfit``. They never fail for values of the
right type, so any failure in a graph of them is an error of a link.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from annotated_types import Ge, Le

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, capability, structured
from guidegraph.nodes.types import Label, Sample
from tests.random_graphs.annotations import is_a

SIDE = 4
Scale = float | Tensor
Small = Annotated[int, Ge(-3), Le(9)]


class Misfit(TypeError):
    """An input or output of a node is not of the type in its signature."""


NODES: list[Callable[..., Any]] = []
KEEPS: dict[str, str] = {}
"""By node id, the port whose narrower type the output keeps: any type, or that of a sample."""


def register_checked(id: str, *, keeps: str = "", **traits: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a node that checks its inputs and output against its annotations."""

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(function, include_extras=True)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Any:
            bound = signature.bind(*args, **keywords)
            bound.apply_defaults()
            skipped = unneeded_ports(traits, bound.arguments)
            for name, value in bound.arguments.items():
                if name not in skipped and not is_a(value, hints[name]):
                    raise Misfit(f"{id}: '{name}' is {hints[name]}, found {value!r:.80}")
            result = function(*args, **keywords)
            if not is_a(result, hints["return"]):
                raise Misfit(f"{id}: the output is {hints['return']}, found {result!r:.80}")
            return result

        NODES.append(node(f"rand.{id}", **traits)(wrapper))
        if keeps:
            KEEPS[f"rand.{id}"] = keeps
        return wrapper

    return make


def unneeded_ports(traits: Any, values: Any) -> set[str]:
    """The ports that a node does not need for these values, by its ``needs``."""
    needs = traits.get("needs")
    if needs is None:
        return set()
    names = inspect.signature(needs).parameters
    return {"a", "b", "cond", "uncond"} - needs(**{name: values[name] for name in names})


def draw(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def number(x: torch.Tensor) -> float:
    """A number that depends on all elements of a tensor of any shape and dtype; 0 for an empty one."""
    return float(x.double().mean().tanh()) if x.numel() else 0.0


def small(value: float) -> int:
    return int(abs(value) * 7) % 4


class Halves(NamedTuple):
    low: Sample
    high: Sample
    ratio: float


class Facts(NamedTuple):
    mean: float
    count: int
    word: str | None


class Row(NamedTuple):
    x: Sample
    label: Label
    name: str
    weight: float


@structured
@dataclass(frozen=True)
class Bounds:
    """A structured type of these tests."""

    low: Tensor
    high: Tensor


class Affine(Protocol):
    """x (…) -> a x + b."""

    def __call__(self, x: Tensor) -> Tensor: ...


@capability("rand.linear gives one")
@typing.runtime_checkable
class Invertible(Affine, Protocol):
    """An affine map that can be undone."""

    def undo(self, x: Tensor) -> Tensor: ...


class Linear(torch.nn.Module):
    def __init__(self, slope: float, shift: float) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.slope + self.shift

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.shift) / self.slope


class Rows(Sequence[Row]):
    """Rows that are created on access."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: Any) -> Any:
        if i >= self.count:
            raise IndexError(i)
        return Row(draw((2, 3, SIDE, SIDE), self.seed + i), torch.tensor([i, 1]), f"row {i}", 0.5 * i)

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(self.count))
