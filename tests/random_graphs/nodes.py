"""Small typed nodes that check their inputs and outputs: a value of another type is a ``Misfit``.

They never fail for a value of the right type, so any failure in a graph of them is the fault of a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le

from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Condition, Image, Label, Latent, Mask, Noise, Prediction, Sample, Score, Timesteps
from tests.random_graphs.typed_node import (
    SIDE,
    Affine,
    Bounds,
    Facts,
    Halves,
    Invertible,
    Linear,
    Row,
    Rows,
    Scale,
    Small,
    draw,
    number,
    register_checked,
    small,
)


@register_checked("int")
def an_int(*, value: Small = 2) -> int:
    return value


@register_checked("float")
def a_float(*, value: float = 0.5) -> float:
    return value


@register_checked("bool")
def a_bool(*, value: bool = True) -> bool:
    return value


@register_checked("word")
def a_word(*, text: str = "a", times: Annotated[int, Ge(0), Le(9)] = 1) -> str:
    return text * times


@register_checked("no_int")
def no_int() -> int | None:
    return None


@register_checked("maybe_int")
def maybe_int(*, value: int = 3) -> int | None:
    return value


@register_checked("maybe_sample")
def maybe_sample(*, seed: int = 0, present: bool = True) -> Sample | None:
    return draw((2, 4, SIDE, SIDE), seed) if present else None


@register_checked("int_or_word")
def int_or_word(*, word: bool = False) -> int | str:
    return "five" if word else 5


@register_checked("scale")
def a_scale(*, value: float = 2.0, rows: bool = False) -> Scale:
    return torch.tensor([value, value + 1]) if rows else value


@register_checked("image")
def an_image(*, seed: int = 0) -> Image:
    return draw((2, 3, SIDE, SIDE), seed).tanh()


@register_checked("latent")
def a_latent(*, seed: int = 1) -> Latent:
    return draw((2, 4, SIDE, SIDE), seed)


@register_checked("mask")
def a_mask(*, seed: int = 2) -> Mask:
    return (draw((2, 1, SIDE, SIDE), seed) > 0).float()


@register_checked("label")
def a_label(*, first: int = 0) -> Label:
    return torch.tensor([first, 1])


@register_checked("times")
def times(*, count: Annotated[int, Ge(1), Le(4)] = 3) -> Timesteps:
    return torch.arange(float(count)) + 1


@register_checked("image_as_tensor")
def image_as_tensor(*, seed: int = 3) -> Tensor:
    return draw((2, 3, SIDE, SIDE), seed).tanh()


@register_checked("latent_as_sample")
def latent_as_sample(*, seed: int = 4) -> Sample:
    return draw((2, 4, SIDE, SIDE), seed)


@register_checked("vector_as_tensor")
def vector_as_tensor(*, size: Annotated[int, Ge(1), Le(4)] = 3) -> Tensor:
    return torch.arange(float(size))


@register_checked("floats")
def floats(*, values: Sequence[float] = (0.5, 2.0)) -> Sequence[float]:
    return tuple(values)


@register_checked("ints")
def ints(*, values: Sequence[int] = (1, 2, 0)) -> Sequence[int]:
    return list(values)


@register_checked("words")
def words(*, count: Annotated[int, Ge(0), Le(4)] = 2) -> Sequence[str]:
    return [f"word {i}" for i in range(count)]


@register_checked("ints_and_words")
def ints_and_words() -> Sequence[int | str]:
    return [1, "two"]


@register_checked("images")
def images(*, count: Annotated[int, Ge(0), Le(3)] = 2) -> Sequence[Image]:
    return [draw((2, 3, SIDE, SIDE), i) for i in range(count)]


@register_checked("rows")
def rows(*, count: Annotated[int, Ge(0), Le(3)] = 2, seed: int = 5) -> Sequence[Row]:
    return Rows(count, seed)


@register_checked("anything")
def anything(*, kind: Literal["int", "word", "image", "list", "none"] = "int") -> Any:
    values = {"int": 4, "word": "four", "image": draw((2, 3, SIDE, SIDE), 6), "list": [1.5, 2.5], "none": None}
    return values[kind]


@register_checked("linear")
def linear(*, slope: float = 2.0, shift: float = 0.25) -> Invertible:
    return Linear(slope or 1.0, shift)


@register_checked("function")
def function(*, slope: float = 0.5) -> Affine:
    return lambda x: x * slope


@register_checked("prediction")
def prediction(*, seed: int = 7, kind: Literal["eps", "v"] = "eps") -> Prediction:
    return Prediction(draw((2, 4, SIDE, SIDE), seed), kind)


@register_checked("condition")
def condition(*, seed: int = 8) -> Condition:
    return Condition(vector=draw((2, 6), seed))


@register_checked("bounds")
def bounds(x: Tensor) -> Bounds:
    return Bounds(x - 1, x + 1)


@register_checked("middle")
def middle(bounds: Bounds) -> Tensor:
    return (bounds.low + bounds.high) / 2


@register_checked("add")
def add(a: float, b: float = 1.0) -> float:
    return float(torch.tensor(float(a) + 0.5 * float(b), dtype=torch.float64).tanh())


@register_checked("floor")
def floor(a: float) -> int:
    return small(a)


@register_checked("count")
def count(values: Sequence[Any]) -> int:
    return len(values) % 4


@register_checked("total")
def total(values: Sequence[float]) -> float:
    return float(sum(values[i] for i in range(len(values)))) % 3


@register_checked("pick")
def pick(values: Sequence[float], index: int = 0, *, default: float = 0.0) -> float:
    return values[index % len(values)] if len(values) else default


@register_checked("or_zero")
def or_zero(x: int | None = None, *, plus: int = 0) -> int:
    return ((x or 0) + plus) % 4


@register_checked("show")
def show(x: int | str) -> str:
    return f"<{x}>"[:20]


@register_checked("join")
def join(parts: Sequence[str], *, by: str = "-") -> str:
    return by.join(parts[i] for i in range(len(parts)))[:40]


@register_checked("repeat")
def repeat(text: str, times: int = 2) -> str:
    return (text * (times % 4))[:40]


@register_checked("choose")
def choose(flag: bool, a: float, b: float) -> float:
    return a if flag else b


@register_checked("not")
def negate(flag: bool) -> bool:
    return not flag


@register_checked("weigh", keeps="x")
def weigh(x: Tensor, *, by: Scale = 2.0) -> Tensor:
    return x * (number(by) if isinstance(by, torch.Tensor) else float(torch.tensor(float(by)).tanh()))


@register_checked("halve", keeps="x")
def halve(x: Sample) -> Sample:
    return x / 2


@register_checked("brighten")
def brighten(x: Image, *, by: float = 0.25) -> Image:
    return (x + by).tanh()


@register_checked("decode")
def decode(z: Latent) -> Image:
    return z.mean(1, keepdim=True).tanh().expand(-1, 3, -1, -1).contiguous()


@register_checked("encode")
def encode(x: Image) -> Latent:
    return torch.cat([x, x[:, :1]], 1)


@register_checked("noise_like")
def noise_like(x: Sample, index: int = 0) -> Noise:
    return draw(tuple(x.shape), index % 5)


@register_checked("cover")
def cover(x: Image, mask: Mask) -> Image:
    return x * number(mask)


@register_checked("mix", keeps="a")
def mix(a: Tensor, b: Tensor | None = None, *, weight: float = 0.5) -> Tensor:
    return a if b is None else a + weight * number(b)


@register_checked("slope", keeps="x")
def slope(x: Sample) -> Score:
    return -x


@register_checked("mean")
def mean(x: Tensor) -> float:
    return number(x)


@register_checked("all_means")
def all_means(values: Sequence[Tensor]) -> Tensor:
    return torch.tensor([number(values[i]) for i in range(len(values))])


@register_checked("first_image")
def first_image(values: Sequence[Image], other: Image) -> Image:
    return values[0] if len(values) else other


@register_checked("unstack")
def unstack(x: Tensor) -> Sequence[Tensor]:
    return list(x.unbind()) if x.ndim else [x]


@register_checked("halves")
def halves(x: Sample) -> Halves:
    return Halves(x - 1, x + 1, number(x))


@register_checked("facts")
def facts(x: Tensor) -> Facts:
    return Facts(number(x), x.numel() % 4, None if x.ndim < 2 else "picture")


@register_checked("of_row")
def of_row(row: Row) -> Sample:
    return row.x * row.weight


@register_checked("labelled")
def format_label(label: Label, name: str | None = None) -> str:
    return f"{name or ''}{label.tolist()}"[:20]


@register_checked("same", keeps="x")
def same(x: Any) -> Any:
    return x


@register_checked("tell")
def tell(x: Any) -> str:
    return "number" if isinstance(x, (int, float)) else type(x).__name__


@register_checked("first")
def first(values: Sequence[Any]) -> Any:
    return values[0] if len(values) else 0


@register_checked("apply", keeps="x", batchable=("x",))
def apply(model: Affine, x: Tensor) -> Tensor:
    return model(x)


@register_checked("undo", keeps="x")
def undo(model: Invertible, x: Tensor) -> Tensor:
    return model.undo(x)


@register_checked("twice")
def twice(model: Affine, other: Affine | None = None) -> Affine:
    return lambda x: model(x) if other is None else other(model(x))


@register_checked("blend", needs=lambda weight: {"a"} if weight == 1 else {"a", "b"})
def blend(a: float, b: float, *, weight: float = 0.5) -> float:
    return float(torch.tensor(b + weight * (a - b), dtype=torch.float64).tanh())


@register_checked("guide", needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"})
def guide(cond: Prediction, uncond: Prediction, *, scale: float = 2.0) -> Prediction:
    return Prediction(cond.value + (scale - 1) * number(uncond.value), cond.kind)


@register_checked("predict")
def predict(x: Latent, t: Timesteps | None = None, condition: Condition | None = None) -> Prediction:
    shift = 0.0 if t is None else number(t)
    return Prediction(x / 2 + shift, "eps")


@register_checked("value_of")
def value_of(prediction: Prediction) -> Sample:
    return prediction.value


@register_checked("unchanged", identity=lambda off: "x" if off else None)
def pass_through(x: float, *, off: bool = True) -> float:
    return x if off else x / 2


@register_checked("effect", pure=False)
def effect(x: Any) -> None:
    return None
