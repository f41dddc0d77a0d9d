"""The memory budget on a real device, by what torch says is allocated there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from guidegraph import Tensor, current_device, node
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from tests.graph.running import run_graph

pytestmark = pytest.mark.gpu

WIDTH = 2048
SIZE = 4 * WIDTH * WIDTH
SLACK = 4 << 20
"""Room for activations and for what cuBLAS takes."""


class Model(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...


@node("g.model")
def model(*, seed: int) -> Model:
    """A square linear map of 16 MiB."""
    made = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    made.weight.data = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)) / WIDTH**0.5
    return made.to(current_device())


@node("g.start")
def start() -> Tensor:
    """(1, WIDTH) of ones."""
    return torch.ones(1, WIDTH, device=current_device())


@node("g.use")
def use(x: Tensor, models: Sequence[Model]) -> Tensor:
    """x through some models."""
    for each in models:
        x = each(x)
    return x


REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in (model, start, use)})

TEXT = """
guidegraph: 1
nodes:
  x: {use: g.start}
  a: {use: g.model, with: {seed: 1}}
  b: {use: g.model, with: {seed: 2}}
  c: {use: g.model, with: {seed: 3}}
  u: {use: g.use, in: {x: x, models: [a, b]}}
  v: {use: g.use, in: {x: u, models: [c, a]}}
  w: {use: g.use, in: {x: v, models: [b]}}
outputs: {w: w}
"""


def peak(folder: Path, budget: int | None, memory: MemoryCache | None = None) -> tuple[Any, int, int]:
    """The output, the most that was allocated during the run, and how much more is after it than was before."""
    (folder / "w.yaml").write_text(TEXT)
    graph = build(folder / "w.yaml", REGISTRY)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = run_graph(graph, device="cuda", memory_budget=budget, memory=memory).outputs["w"].cpu()
    torch.cuda.synchronize()
    return out, torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before


def test_weights_on_the_device_stay_within_the_budget_and_give_the_same(tmp_path: Path) -> None:
    torch.ones(1, WIDTH, device="cuda") @ torch.ones(WIDTH, WIDTH, device="cuda")  # cuBLAS takes its workspace now
    expected, free, _ = peak(tmp_path, None)
    assert free >= 3 * SIZE
    memory = MemoryCache()
    found, bound, left = peak(tmp_path, 2 * SIZE, memory)
    assert 2 * SIZE <= bound <= 2 * SIZE + SLACK
    assert left <= SLACK  # the cache holds three models, on the host
    assert torch.equal(found, expected)
