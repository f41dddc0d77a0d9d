"""The free axes of a graph, whose sizes are chosen at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """An axis whose size is chosen at run time: min … max, a multiple of `multiple_of`. Equal names mean equal sizes.

    Raises ``ValueError`` for a name that is not an identifier, and for bounds that allow fewer than two sizes.
    """

    name: str
    min: int = 1
    max: int = 4096
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"an axis is named by letters, digits and _; found {self.name!r}")
        low, high = self.units
        if self.multiple_of < 1 or self.min < 1 or high < max(low + 1, 2):
            raise ValueError(
                f"axis '{self.name}' allows no two sizes: multiples of {self.multiple_of} from {self.min} to {self.max}"
            )

    @property
    def units(self) -> tuple[int, int]:
        """The least and the greatest size in units of `multiple_of`."""
        return -(-self.min // max(self.multiple_of, 1)), self.max // max(self.multiple_of, 1)


def check_axes(inputs: Sequence[Tensor], names: Sequence[str], axes: Sequence[Mapping[int, Axis]]) -> dict[str, int]:
    """The size of each axis in the inputs. Raises ``ValueError`` if the inputs do not fit the axes."""
    if not len(inputs) == len(names) == len(axes):
        raise ValueError(f"{len(inputs)} inputs have {len(names)} names and {len(axes)} entries of dynamic axes")
    axes_by_name: dict[str, Axis] = {}
    sizes: dict[str, int] = {}
    for tensor, name, dynamic in zip(inputs, names, axes, strict=True):
        for index, axis in dynamic.items():
            if not 0 <= index < tensor.ndim:
                raise ValueError(f"input '{name}' of shape {tuple(tensor.shape)} has no axis {index}")
            size = int(tensor.shape[index])
            if axes_by_name.setdefault(axis.name, axis) != axis:
                raise ValueError(
                    f"axis '{axis.name}' is declared twice, differently: {axes_by_name[axis.name]} and {axis}"
                )
            if sizes.setdefault(axis.name, size) != size:
                raise ValueError(f"axis '{axis.name}' has size {sizes[axis.name]} and, in input '{name}', {size}")
            if size % axis.multiple_of or not axis.min <= size <= axis.max:
                raise ValueError(f"input '{name}' has size {size} along axis {index}, which is not a size of {axis}")
    return sizes


def choose_trace_sizes(
    axes: Sequence[Mapping[int, Axis]], example_sizes: Mapping[str, int], taken: Sequence[int]
) -> dict[str, int]:
    """The size of each axis for tracing: at least 2 units, and distinct from each other and, if possible, from `taken`.

    torch specialises on sizes 0 and 1, and takes equal sizes for the same symbol.
    """
    sizes: dict[str, int] = {}
    for axis in {axis.name: axis for dynamic in axes for axis in dynamic.values()}.values():
        low, high = max(axis.units[0], 2), axis.units[1]
        units = [
            min(max(example_sizes[axis.name] // axis.multiple_of, low), high),
            *range(low, min(high, low + 64) + 1),
        ]
        free = [u * axis.multiple_of for u in units]
        used = set(sizes.values())
        sizes[axis.name] = next(
            (s for s in free if s not in used and s not in taken), next((s for s in free if s not in used), free[0])
        )
    return sizes
