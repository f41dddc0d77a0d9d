"""Small nodes for tests of the engine, unrelated to diffusion; some record their calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge

from guidegraph import Tensor, hookimpl, node
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from guidegraph.graph.types import Beside
from tests.graph.running import run_graph

calls: Counter[str] = Counter()


@node("toy.number")
def number(*, value: float = 0.0) -> float:
    """A constant."""
    calls["number"] += 1
    return value


@node("toy.whole")
def whole(*, value: int = 0) -> int:
    """A whole number."""
    calls["whole"] += 1
    return value


@node("toy.add")
def add(a: float, b: float = 1.0) -> float:
    """a + b."""
    calls["add"] += 1
    return a + b


@node("toy.scale")
def scale(a: float, *, by: Annotated[float, Ge(0)] = 2.0) -> float:
    """a times by."""
    calls["scale"] += 1
    return a * by


@node("toy.total")
def total(values: Sequence[Any]) -> float:
    """The sum of a list of links."""
    calls["total"] += 1
    return float(sum(values))


class Pair(NamedTuple):
    first: float
    second: float


@node("toy.pair")
def pair(a: float) -> Pair:
    """a and its negative."""
    calls["pair"] += 1
    return Pair(a, -a)


@node("toy.boom")
def boom(a: float, *, above: float = 0.0) -> float:
    """Fails for values above a bound."""
    if a > above:
        raise RuntimeError(f"{a} is too much")
    return a


@node("toy.mix", needs=lambda scale: {"a"} if scale == 1 else {"a", "b"})
def mix(a: float, b: float, *, scale: float = 2.0) -> float:
    """b + scale (a - b)."""
    calls["mix"] += 1
    return b + scale * (a - b)


@node("toy.same", identity=lambda off: "a" if off else None)
def same(a: float, *, off: bool = True) -> float:
    """a, or a + 100."""
    calls["same"] += 1
    return a if off else a + 100


@node("toy.ramp")
def ramp(t: float, *, low: float = 2.0) -> float:
    """1 below a bound, 3 from there on."""
    calls["ramp"] += 1
    return 1.0 if t < low else 3.0


@node("toy.effect", pure=False)
def effect(a: float) -> None:
    """Count the calls."""
    calls["effect"] += 1


@node("toy.random", pure=False)
def random() -> float:
    """Unseeded."""
    return float(torch.rand(()))


@node("toy.tensor")
def tensor(*, rows: int = 2, fill: float = 1.0) -> Tensor:
    """(rows, 3) of one value."""
    calls["tensor"] += 1
    return torch.full((rows, 3), fill)


@node("toy.model", batchable=("x", "t"))
def model(weight: Any, x: Tensor, t: Tensor) -> Tensor:
    """weight · x + t, rows one by one."""
    calls["model"] += 1
    return weight * x + t.reshape(-1, 1)


@node("toy.kinds")
def kinds(*, sizes: tuple[int, ...], by: float) -> str:
    """The Python types that settings arrive as."""
    return f"{type(sizes).__name__} {type(by).__name__}"


@node("toy.ones")
def ones(*, rows: int = 2) -> Tensor:
    """(rows) of ones."""
    return torch.ones(rows)


@node("toy.strict", batchable=("x", "t"))
def strict(weight: float, x: Tensor, t: Tensor, *, bias: float = 0.0) -> Tensor:
    """weight · x + t + bias for as many times as rows, or one."""
    if t.shape[0] not in (1, x.shape[0]):
        raise ValueError(f"{t.shape[0]} times for {x.shape[0]} rows")
    return weight * x + t.reshape(-1, 1) + bias


@node("toy.time")
def time(*, value: float = 0.0) -> Tensor:
    """A time of shape (1)."""
    return torch.full((1,), value)


@node("toy.mean")
def mean(x: Tensor) -> Tensor:
    """The mean, as a tensor without axes."""
    calls["mean"] += 1
    return x.mean()


@node("toy.read", io=True)
def read(*, path: Path) -> str:
    """A file's text."""
    calls["read"] += 1
    return path.read_text()


@node("toy.read_both", io=True)
def read_both(*, path: Annotated[Path, Beside("beside.txt")]) -> str:
    """The text of a file, and that of ``beside.txt`` in the same folder, if it exists."""
    beside = path.parent / "beside.txt"
    return path.read_text() + (beside.read_text() if beside.is_file() else "")


@node("toy.opaque")
def opaque(*, value: float = 1.0) -> Any:
    """An object that does not serialise."""
    calls["opaque"] += 1
    return Opaque(value)


class Opaque:
    def __init__(self, value: float):
        self.value = value


@node("toy.unwrap")
def unwrap(a: Any) -> float:
    """The value of an opaque object."""
    calls["unwrap"] += 1
    return float(a.value)


@node("toy.line")
def line(*, seed: int = 0) -> Any:
    """A linear model y = w x, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    built = torch.nn.utils.skip_init(torch.nn.Linear, 3, 1)
    with torch.no_grad():
        for p in built.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return built.eval().requires_grad_(False)


class Batch(NamedTuple):
    x: Tensor
    y: Tensor


class Batches(Sequence[Batch]):
    """Batch i depends on i alone: y = x · (1, -2, 3)."""

    def __init__(self, count: int, broken: int | None = None, reseed: bool = False):
        self.count, self.broken, self.reseed = count, broken, reseed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: Any) -> Any:
        if i >= self.count:
            raise IndexError(i)
        if i == self.broken:
            raise OSError("disk gone")
        if self.reseed:
            torch.manual_seed(int(i))
        x = torch.randn(16, 3, generator=None if self.reseed else torch.Generator().manual_seed(int(i)))
        return Batch(x, x @ torch.tensor([[1.0], [-2.0], [3.0]]))


@node("toy.batches")
def batches(*, count: int = 1000, broken: int | None = None) -> Sequence[Batch]:
    """Batches of a linear problem; one may be broken."""
    return Batches(count, broken)


@node("toy.files", pure=False)
def files() -> Sequence[Batch]:
    """The same batches, from a node that declares that it reads files."""
    return Batches(1000)


@node("toy.reseeding")
def reseeding() -> Sequence[Batch]:
    """Batches that seed torch's own generator."""
    return Batches(1000, reseed=True)


@node("toy.loss")
def loss(model: Any, x: Tensor, y: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Mean squared error, with dropout from torch's generator."""
    seen = torch.nn.functional.dropout(x, dropout)
    result: torch.Tensor = (model(seen) - y).square().mean()
    return result


@node("toy.judge_value")
def judge_value(model: Any, value: Tensor) -> Tensor:
    """A model's output for a number."""
    result: torch.Tensor = model(value.reshape(1, 1).expand(1, 3)).square().mean()
    return result


class Look(NamedTuple):
    weight: Tensor
    frozen: bool
    scale: float
    iteration: int


@node("toy.look", pure=False)
def look(model: Any, scale: float = 1.0, index: int = -1) -> Any:
    """A model's weight now, after a draw from torch's generator, and whether it is frozen."""
    torch.rand(3)
    frozen = not model.training and not model.weight.requires_grad and not torch.is_grad_enabled()
    return Look(model.weight.clone(), frozen, scale, index)


NODES = (
    number, whole, add, scale, total, pair, boom, mix, same, ramp, effect, random, tensor, kinds, ones, strict, model,
    time, mean, read, read_both, opaque, unwrap, line, batches, files, reseeding, loss, judge_value,
    look,
)  # fmt: skip

REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in NODES})


def run_text(text: str, folder: Path, values: dict[str, Any] | None = None, **options: Any) -> RunResult:
    """Build and run a workflow from its text, without the line ``guidegraph: 1``."""
    path = folder / "workflow.yaml"
    path.write_text("guidegraph: 1\n" + text)
    graph = build(path, REGISTRY)
    return run_graph(graph, values, **options)


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    """The nodes, for ``--plugin tests.graph.engine_nodes``."""
    return NODES
