"""Gaussian noise that does not depend on batch size, device or runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from guidegraph_runtime import noise
from guidegraph_runtime.checks import check_int
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Noise, NotEmpty, Range, Sample, Tensor
from guidegraph_runtime.errors import SettingError

Seed: TypeAlias = Annotated[int, Range(low=0)]
Side: TypeAlias = Annotated[int, Range(low=1)]
Generator: TypeAlias = Literal["philox", "torch"]


def noise_shape(like: Any, seed: Any, shape: Any, batch: Any) -> tuple[int, ...]:
    """The shape of the result of `noise.gaussian`; `like` has a ``shape``, or is None. Raises ``ValueError``."""
    count = check_int("batch", batch, low=1)
    if shape is not None:
        if not isinstance(shape, (list, tuple)) or not shape:
            raise SettingError("shape", f"shape: expected a list of one number or more; found {shape!r:.80}")
        shape = [check_int(f"shape[{i}]", side, low=1) for i, side in enumerate(shape)]
    if isinstance(seed, (Sequence, np.ndarray)) and np.ndim(seed) == 1:
        seeds: int | list[int] = [check_int(f"seed[{i}]", item, low=0) for i, item in enumerate(seed)]
    else:
        seeds = check_int("seed", seed, low=0)
    count, sizes = noise.batch_and_shape(None if like is None else tuple(like.shape), shape, count, seeds)
    if isinstance(seeds, list) and (not seeds or count != len(seeds)):
        raise SettingError("seed", f"{len(seeds)} seeds cannot fill a batch of {count}")
    last = max(seeds) if isinstance(seeds, list) else seeds + count - 1
    if last >= noise.SEED_LIMIT:
        reason = "" if isinstance(seeds, list) else f", the last seed of a batch of {count} from {seeds}"
        raise SettingError("seed", f"a seed must be from 0 to 2**64 - 1, not {last}{reason if count > 1 else ''}")
    return count, *sizes


def _runtime_shape(like: Any, seed: Any, shape: Any, batch: Any, rng: Any) -> tuple[int, ...]:
    """The same as `noise_shape`, but refuses torch's generator, which the runtime lacks."""
    if rng == "torch":
        raise SettingError(
            "rng",
            "rng: 'torch' draws from torch's own generator, and there is no torch here: use 'philox', the default",
        )
    return noise_shape(like, seed, shape, batch)


@operation(
    "noise.gaussian",
    shapes_read=("like",),
    shape=_runtime_shape,
    idle={"rng": None, "shape": "like"},
    output_help="standard normal noise",
)
def gaussian(
    like: Sample | None = None,
    index: int | None = None,
    *,
    seed: Seed | list[Seed] = 0,
    shape: Annotated[list[Side], NotEmpty()] | None = None,
    batch: Side = 1,
    rng: Generator = "philox",
) -> Noise:
    """Standard normal noise (batch, *shape): sample i of seed s is the single sample of seed s + i.

    like: sets shape and device instead of the settings, and the batch if it has more than one sample. The noise is
    float64 if `like`, or without it the run, is; otherwise float32, because the state of a sampler starts from it.
    index: selects the draw (loop.index gives a body fresh noise at each step); without it, a separate draw. seed: one
    seed, or a list with one for each sample.
    rng: torch draws from torch's CPU generator, as other tools do, with all samples in one sequence unless seed is a
    list.
    """
    if like is not None and (not isinstance(like, np.ndarray) or like.dtype.kind != "f" or like.ndim < 2):
        raise ValueError(f"like: expected a sample (B, …) of floating-point numbers; found {type(like).__name__}")
    count, *sizes = _runtime_shape(like, seed, shape, batch, rng)
    seeds = [int(item) for item in seed] if isinstance(seed, (Sequence, np.ndarray)) and np.ndim(seed) == 1 else seed
    drawn = noise.gaussian(seeds, sizes, count, None if index is None else check_int("index", index, low=0))
    return drawn.astype(np.float64) if like is not None and like.dtype == np.float64 else drawn


def concatenation_shape(tensors: Any, axis: Any) -> tuple[int, ...] | None:
    """The shape of the result of `tensor.cat`, or None for tensors that do not fit."""
    shape = [*tensors[0].shape] if tensors else []
    axis = check_int("axis", axis)
    if not -len(shape) <= axis < len(shape) or any(len(tensor.shape) != len(shape) for tensor in tensors):
        return None
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return tuple(shape)


def check_concatenation(shapes: Sequence[tuple[int, ...]], axis: int) -> None:
    """Raise ``ValueError`` for tensors of these shapes that cannot be concatenated along the axis."""
    if not shapes:
        raise ValueError("there are no tensors: list at least one")
    shapes_text = " and ".join(map(str, shapes))
    if any(not -len(shape) <= axis < len(shape) for shape in shapes):
        raise ValueError(f"there is no axis {axis} in tensors of shapes {shapes_text}")
    other_axes = [shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :] for shape in shapes]
    if any(axes != other_axes[0] for axes in other_axes):  # compared, not hashed: sizes are symbols while torch traces
        raise ValueError(f"tensors must be alike but for axis {axis}; found shapes {shapes_text}")


@operation("tensor.cat", shape=concatenation_shape)
def concatenate(tensors: Sequence[Tensor], *, axis: int = 0) -> Tensor:
    """Concatenate tensors along an axis (0: the batch); their other axes must be equal."""
    check_concatenation([tuple(tensor.shape) for tensor in tensors], axis)
    return np.concatenate(list(tensors), axis=axis)
