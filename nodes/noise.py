"""Gaussian noise that does not depend on batch size, device or runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from annotated_types import Ge, MinLen

from guidegraph.graph.context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.graph.share import own_rows
from guidegraph.nodes.types import Noise, Sample
from guidegraph_runtime import noise as philox
from guidegraph_runtime.host.noise import noise_shape

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
    """Standard normal noise (batch, *shape): sample i of seed s is the sample of seed s + i alone.

    like: gives shape and device in place of the settings, and the batch where it has more than one sample. The noise is
    float64 where `like`, or without it the run, is; otherwise float32, since the state of a sampler starts from it.
    index: selects the draw (loop.index gives a body fresh noise at each step); no index is a draw of its own. seed:
    one, or a list with one for each sample.
    rng: torch draws from torch's CPU generator, all samples in one sequence unless seed is a list, as other tools do.
    """
    import torch

    batch, sizes = philox.batch_and_shape(None if like is None else tuple(like.shape), shape, batch, seed)
    if like is not None:
        device, near = like.device, like.dtype
    else:
        device, near = current_device(), current_dtype()
    # The state of a sampler is kept in float32 at least, whatever the networks compute in.
    dtype = torch.float64 if near == torch.float64 else torch.float32

    def draw(count: int) -> Tensor:
        if rng == "torch":
            return _from_torch(seed, sizes, count, index, dtype)
        return torch.from_numpy(philox.gaussian(seed, sizes, count, index))

    drawn = draw(batch) if like is None else own_rows(batch, draw)
    return drawn.to(device=device, dtype=dtype)


@node("noise.seed", host=True)
def seed_of_turn(index: int, *, seed: Seed = 0, stride: Size = 1) -> int:
    """seed + index · stride: a seed for each turn of a loop whose loop.index is wired to `index`.

    Where each turn draws a batch, let the stride be the size of the batch: then no two samples share their noise, and
    sample i of all batches has that of seed + i. Raises an error for an index below 0.
    seed: that of the first turn. stride: how far the seeds of two turns are apart.
    """
    if index < 0:
        raise ValueError(f"an index counts from 0: found {index}")
    return seed + index * stride


def _from_torch(
    seed: int | list[int], shape: tuple[int, ...], batch: int, index: int | None, dtype: torch.dtype
) -> Tensor:
    import torch

    if isinstance(seed, list):
        return torch.cat([_from_torch(one, shape, 1, index, dtype) for one in philox.sample_seeds(seed, batch)])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(0 if index is None else index + 1):  # the sequence is: no index, index 0, index 1, …
        torch.randn(batch, *shape, generator=generator, dtype=dtype)
    return torch.randn(batch, *shape, generator=generator, dtype=dtype)
