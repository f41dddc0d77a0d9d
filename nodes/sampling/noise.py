"""Gaussian noise that does not depend on batch size, device or runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.training.ranks import local_rows
from guidegraph.nodes.derive import node_for
from guidegraph.nodes.sampler_types import widen_dtype
from guidegraph.nodes.types import Noise, Sample
from guidegraph_runtime import noise as philox
from guidegraph_runtime.operations.noise import Generator, Seed, Side, noise_shape

if TYPE_CHECKING:
    from torch import Tensor


@node_for("noise.gaussian", host=True, shape=noise_shape)
def gaussian(
    like: Sample | None,
    index: int | None,
    *,
    seed: int | list[int],
    shape: list[int] | None,
    batch: int,
    rng: Generator,
) -> Noise:
    batch, sizes = philox.batch_and_shape(None if like is None else tuple(like.shape), shape, batch, seed)
    if len(sizes) != 3 and like is not None:
        raise ValueError(f"'like' has the shape of samples, (B, C, H, W); found {tuple(like.shape)}")
    if len(sizes) != 3:
        raise ValueError(f"'shape' is that of one sample, [C, H, W], such as [4, 16, 16]; found {list(sizes)}")
    if like is not None:
        device, dtype_like = like.device, like.dtype
    else:
        device, dtype_like = current_device(), current_dtype()
    dtype = widen_dtype(dtype_like)

    def draw(count: int) -> Tensor:
        if rng == "torch":
            return _draw_torch(seed, sizes, count, index, dtype)
        return torch.from_numpy(philox.gaussian(seed, sizes, count, index))

    drawn = (draw(batch) if like is None else local_rows(batch, draw)).to(dtype)
    if device.type == "cuda":  # from pinned memory the copy does not wait for the device
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


@node("noise.seed", host=True)
def seed_of_iteration(index: int, *, seed: Seed = 0, stride: Side = 1) -> int:
    """seed + index · stride: a seed for each iteration of a loop, with loop.index wired to `index`.

    If each iteration draws a batch, set the stride to the batch size: then no two samples share their noise, and sample
    i over all batches has the noise of seed + i. Raises an error for an index below 0.
    seed: of the first iteration. stride: difference between the seeds of consecutive iterations.
    """
    if index < 0:
        raise ValueError(f"an index counts from 0: found {index}")
    return seed + index * stride


def _draw_torch(
    seed: int | list[int], shape: tuple[int, ...], batch: int, index: int | None, dtype: torch.dtype
) -> Tensor:
    if isinstance(seed, list):
        return torch.cat(
            [_draw_torch(sample_seed, shape, 1, index, dtype) for sample_seed in philox.sample_seeds(seed, batch)]
        )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(0 if index is None else index + 1):  # draws come in the order: no index, index 0, index 1, …
        torch.randn(batch, *shape, generator=generator, dtype=dtype)
    return torch.randn(batch, *shape, generator=generator, dtype=dtype)
