"""Gaussian noise that does not depend on batch size, device or runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from annotated_types import Ge, MinLen

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.types import Noise, Sample
from guidegraph_runtime import noise as philox
from guidegraph_runtime.operations.noise import noise_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Seed: TypeAlias = Annotated[int, Ge(0)]
Size: TypeAlias = Annotated[int, Ge(1)]


@node("noise.gaussian", host=True, runtime=True, shape=noise_shape)
def gaussian(
    like: Sample | None = None,
    index: int | None = None,
    *,
    seed: Seed | list[Seed] = 0,
    shape: Annotated[list[Size], MinLen(1)] | None = None,
    batch: Size = 1,
    rng: Literal["philox", "torch"] = "philox",
) -> Noise:
    """Standard normal noise (batch, *shape): sample i of seed s is the single sample of seed s + i.

    like: sets shape and device instead of the settings, and the batch if it has more than one sample. The noise is
    float64 if `like`, or without it the run, is; otherwise float32, because the state of a sampler starts from it.
    index: selects the draw (loop.index gives a body fresh noise at each step); without it, a separate draw. seed: one
    seed, or a list with one for each sample.
    rng: torch draws from torch's CPU generator, as other tools do, with all samples in one sequence unless seed is a
    list.
    """
    import torch

    batch, sizes = philox.batch_and_shape(None if like is None else tuple(like.shape), shape, batch, seed)
    if like is not None:
        device, dtype_like = like.device, like.dtype
    else:
        device, dtype_like = current_device(), current_dtype()
    # The state of a sampler is at least float32, whatever dtype the networks use.
    dtype = torch.float64 if dtype_like == torch.float64 else torch.float32

    def draw(count: int) -> Tensor:
        if rng == "torch":
            return _draw_torch(seed, sizes, count, index, dtype)
        return torch.from_numpy(philox.gaussian(seed, sizes, count, index))

    drawn = draw(batch) if like is None else local_rows(batch, draw)
    return drawn.to(device=device, dtype=dtype)


@node("noise.seed", host=True)
def seed_of_turn(index: int, *, seed: Seed = 0, stride: Size = 1) -> int:
    """seed + index · stride: a seed for each turn of a loop, with loop.index wired to `index`.

    If each turn draws a batch, set the stride to the batch size: then no two samples share their noise, and sample i
    over all batches has that of seed + i. Raises an error for an index below 0.
    seed: of the first turn. stride: difference between the seeds of two turns.
    """
    if index < 0:
        raise ValueError(f"an index counts from 0: found {index}")
    return seed + index * stride


def _draw_torch(
    seed: int | list[int], shape: tuple[int, ...], batch: int, index: int | None, dtype: torch.dtype
) -> Tensor:
    import torch

    if isinstance(seed, list):
        return torch.cat(
            [_draw_torch(sample_seed, shape, 1, index, dtype) for sample_seed in philox.sample_seeds(seed, batch)]
        )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(0 if index is None else index + 1):  # draws come in the order: no index, index 0, index 1, …
        torch.randn(batch, *shape, generator=generator, dtype=dtype)
    return torch.randn(batch, *shape, generator=generator, dtype=dtype)
