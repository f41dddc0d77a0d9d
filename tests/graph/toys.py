"""Trivial nodes for tests of workflow checks; they import no torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from annotated_types import Ge

from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.types import Tensor
from guidegraph.plugins.hookspecs import hookimpl


class Picture(Tensor):
    """(B, 3, H, W)."""

    axes = ("B", 3, "H", "W")


class Sound(Tensor):
    """(B, L)."""

    axes = ("B", "L")


class Model(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...


class Judge(Protocol):
    def __call__(self, x: Tensor) -> float: ...


class Pair(NamedTuple):
    first: float
    second: float


class Batch(NamedTuple):
    x: Tensor
    y: Sound


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@node("toy.number")
def number(*, value: float = 0.0) -> float:
    """A number."""
    return value


@node("toy.count")
def count(*, value: Annotated[int, Ge(0)] = 1) -> int:
    """A whole number."""
    return value


@node("toy.add")
def add(a: float, b: float = 1.0) -> float:
    """a + b."""
    return a + b


@node("toy.scale")
def scale(a: float, *, by: Annotated[float, Ge(0)] = 2.0) -> float:
    """a times by."""
    return a * by


@node("toy.total")
def total(values: Sequence[float]) -> float:
    """The sum of a list."""
    return sum(values)


@node("toy.pair")
def pair(a: float) -> Pair:
    """a and its negative."""
    return Pair(a, -a)


@node("toy.shout")
def shout(text: str, *, times: Annotated[int, Ge(1)] = 1) -> str:
    """Text with exclamation marks."""
    return text + "!" * times


@node("toy.read")
def read(*, path: Path) -> str:
    """A file's text."""
    return path.read_text()


@node("toy.read_all")
def read_all(*, paths: list[Path]) -> str:
    """The text of several files."""
    return "".join(p.read_text() for p in paths)


@node("toy.paint")
def paint(
    *, colour: Colour = Colour.RED, mode: Literal["fill", "line"] = "fill", size: tuple[int, int] = (1, 1)
) -> Picture:
    """A picture."""
    raise NotImplementedError


@node("toy.play")
def play() -> Sound:
    """A sound."""
    raise NotImplementedError


@node("toy.look")
def look(picture: Picture) -> Picture:
    """The same picture."""
    return picture


@node("toy.hear")
def hear(sound: Sound) -> Sound:
    """The same sound."""
    return sound


@node("toy.blur")
def blur(x: Tensor) -> Tensor:
    """Any tensor."""
    return x


@node("toy.weigh")
def weigh(x: Tensor, *, weight: float | Tensor = 1.0) -> Tensor:
    """x times a weight."""
    return x * weight


@node("toy.same")
def same(x: Any) -> Any:
    """x."""
    return x


@node("toy.effect", pure=False)
def effect(x: Any) -> None:
    """An effect."""


@node("toy.model")
def model(*, seed: int = 0) -> Model:
    """A model."""
    raise NotImplementedError


@node("toy.judge")
def judge() -> Judge:
    """Another kind of model."""
    raise NotImplementedError


@node("toy.loss")
def loss(model: Model, x: Tensor) -> Tensor:
    """The loss of a model."""
    raise NotImplementedError


@node("toy.batches")
def batches(*, size: int = 4) -> Sequence[Batch]:
    """Batches."""
    raise NotImplementedError


NODES = (
    number, count, add, scale, total, pair, shout, read, read_all, paint, play, look, hear, blur, weigh, same, effect,
    model, judge, loss, batches,
)  # fmt: skip
TYPES: tuple[type, ...] = (Tensor, Picture, Sound, Model, Judge)

REGISTRY = Registry(
    {get_spec(f).id: get_spec(f) for f in NODES},
    {cls.__name__: cls for cls in TYPES},
    {"sag": "ImportError: no module named 'sag_core' (plugin 'sag' of guidegraph-sag 0.2)"},
    {"guidegraph": "0.1.0", "guidegraph-toys": "1.2"},
)


@hookimpl
def guidegraph_nodes() -> list[Any]:
    return list(NODES)


@hookimpl
def guidegraph_types() -> list[type]:
    return list(TYPES)
