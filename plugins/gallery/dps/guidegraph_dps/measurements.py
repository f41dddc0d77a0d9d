"""Measurements y = A(x) as values: the observed data and the operator that produced them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from annotated_types import Ge

from guidegraph import Mask, Sample, Tensor, has_values, node, structured


@runtime_checkable
class Measurement(Protocol):
    """Samples (B, C, H, W) to y − A(x), a tensor (B, …), differentiable."""

    def __call__(self, x: Tensor) -> Tensor: ...


def check_fits(x: Tensor, seen: Tensor, height: int, width: int) -> None:
    """Raise ``ValueError``, unless traced, if x has not the measured channels and size, or its batch does not fit."""
    measured = (seen.shape[1], height, width)
    if has_values(x) and (tuple(x.shape[1:]) != measured or seen.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"the measurement is of samples of shape {(seen.shape[0], *measured)}, and x̂₀ has shape {tuple(x.shape)}: "
            "measure samples of its shape, one for all or for each; wire 'autoencoder' if the model is one of latents"
        )


@structured
@dataclass(frozen=True, eq=False)
class Masked:
    """A sample observed where kept (B, 1, H, W) is 1."""

    leaf_axes: ClassVar = {"seen": ("B", "C", "H", "W"), "kept": ("B", 1, "H", "W")}

    seen: Tensor
    kept: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        check_fits(x, self.seen, *self.seen.shape[2:])
        return self.seen.to(x) - self.kept.to(x) * x


@node("dps.masked")
def masked(sample: Sample, mask: Mask) -> Measurement:
    """Inpainting: a sample (B, C, H, W) that was not observed where the mask (B, 1, H, W) is 1.

    A leading axis of 1 broadcasts. Raises an error for a mask of another size or batch.
    """
    shapes = f"the mask has shape {tuple(mask.shape)} and the sample {tuple(sample.shape)}"
    if sample.shape[2:] != mask.shape[2:]:
        raise ValueError(f"{shapes}: give them one size")
    if has_values(sample, mask) and len({1, mask.shape[0], sample.shape[0]}) > 2:
        raise ValueError(f"{shapes}: give one mask for all samples or one for each")
    kept = 1 - mask.to(sample)
    return Masked(kept * sample, kept)


@structured
@dataclass(frozen=True, eq=False)
class Downsampled:
    """A sample (B, C, h, w) seen through a filter of its rows (h, H) and one of its columns (w, W)."""

    leaf_axes: ClassVar = {"seen": ("B", "C", "h", "w"), "rows": ("h", "H"), "columns": ("w", "W")}

    seen: Tensor
    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        check_fits(x, self.seen, self.rows.shape[1], self.columns.shape[1])
        return self.seen.to(x) - self.rows.to(x) @ x @ self.columns.to(x).T


@node("dps.downsampled")
def downsampled(sample: Sample, *, factor: Annotated[int, Ge(1)] = 4) -> Measurement:
    """Super-resolution: a small sample (B, C, h, w), the bicubic reduction by a whole factor.

    The filter is the one in `image.resize`, without the clamp: Keys' kernel, a = −½, `factor` times as wide.
    """
    return Downsampled(sample, bicubic(sample.shape[2], factor, sample), bicubic(sample.shape[3], factor, sample))


def bicubic(size: int, factor: int, like: Tensor) -> Tensor:
    """The weights (size, size · factor) of a bicubic reduction; each row sums to 1."""
    import torch

    def centres(count: int) -> Tensor:
        return torch.arange(count, device=like.device, dtype=like.dtype) + 0.5

    d = (centres(size * factor) / factor - centres(size).unsqueeze(1)).abs()
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
    return weights / weights.sum(1, keepdim=True)
