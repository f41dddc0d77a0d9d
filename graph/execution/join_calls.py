"""Sibling calls as one: their arguments are joined along the leading axis, and the result is split again.

The first batchable argument sets the batch size; leading axes of length 1 in the others are expanded to it. Another
argument with one entry for each sample, such as scales, would not fit the joined batch, so such calls stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph.graph.values.leaves import flatten, is_equal_leaf, unflatten
from guidegraph.graph.values.ownership import change_count

if TYPE_CHECKING:
    from torch import Tensor

Arguments: TypeAlias = "tuple[Sequence[Any], Mapping[str, Any]]"
"""The positional and keyword arguments of a call."""
FlatValue: TypeAlias = "tuple[list[Any], Any]"
"""The leaves of a value, and its structure."""


@dataclass(frozen=True)
class JoinedValue:
    """The arguments of sibling calls for one port, joined, and the flat values and batch sizes that they had.

    changes: of the tensors in all of these, before the joined call.
    """

    values: Sequence[FlatValue]
    changes: Sequence[int]
    lengths: Sequence[int]
    joined: Any

    @classmethod
    def of(cls, values: Sequence[FlatValue], lengths: Sequence[int], joined: Any) -> JoinedValue:
        return cls(values, _count_changes([*values, flatten(joined)]), lengths, joined)

    def fits(self, values: Sequence[FlatValue], lengths: Sequence[int]) -> bool:
        """Whether other arguments are the same tensors and plain values, and neither they nor `joined` changed."""
        for (leaves, structure), (new_leaves, new_structure) in zip(self.values, values, strict=True):
            if len(leaves) != len(new_leaves) or (structure is not new_structure and structure != new_structure):
                return False
            for leaf, new_leaf in zip(leaves, new_leaves, strict=True):
                if leaf is not new_leaf:
                    return False
        return self.lengths == lengths and self.changes == _count_changes([*values, flatten(self.joined)])


KeptJoins: TypeAlias = "dict[int | str, JoinedValue | None]"
"""By port, what the earlier iterations of a loop joined; ``None`` for arguments that are new in each iteration."""


def _count_changes(values: Sequence[FlatValue]) -> list[int]:
    import torch

    return [change_count(leaf) for leaves, _ in values for leaf in leaves if isinstance(leaf, torch.Tensor)]


class Sizes:
    """How the sizes of tensors are read, compared and divided. They are numbers, and batches may differ in size."""

    def find_lengths(self, calls: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        """The batch size of each call, from the leaves of its batchable arguments; ``None`` if one has none."""
        lengths = [_batch_size(leaves) for leaves in calls]
        return None if 0 in lengths else lengths

    def are_equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors have the same sizes, except for the leading axis."""
        return a.shape[1:] == b.shape[1:]

    def expand(self, tensor: Tensor, length: Any) -> Tensor:
        """The tensor with its leading axis, of 1 or the length, expanded to the length."""
        sides = tensor.shape
        return tensor if sides[0] == length else tensor.expand(length, *sides[1:])

    def has_batch(self, tensor: Tensor, length: Any) -> bool:
        """Whether a tensor has as many entries on its leading axis as a batch of several samples."""
        return bool(tensor.ndim > 0 and tensor.shape[0] == length != 1)

    def divide(self, tensor: Tensor, lengths: Sequence[Any]) -> Any:
        """The rows of each call, by its index. Raises ``ValueError`` if the leading axis is not that of all calls."""
        total = sum(lengths)
        if tensor.ndim == 0 or tensor.shape[0] != total:
            raise ValueError(
                f"a batchable node must give outputs along the batch axis: expected leading size {total}, "
                f"found shape {tuple(tensor.shape)}"
            )
        return tensor.split_with_sizes(lengths)


def _batch_size(leaves: Sequence[Any]) -> int:
    """The leading size of the first tensor; 0 if there is none, or if another tensor's is neither that nor 1."""
    import torch

    sizes = [leaf.shape[0] if leaf.ndim else 0 for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return sizes[0] if sizes and {1, sizes[0]}.issuperset(sizes) else 0


def call_as_batch(
    function: Callable[..., Any],
    calls: Sequence[Arguments],
    batchable: Sequence[int | str],
    sizes: Sizes,
    kept: KeptJoins | None = None,
) -> list[Any] | None:
    """Run several calls as one and split the result; ``None`` if their arguments cannot be joined.

    batchable: the arguments to join, by index if positional, else by name. kept: of the same calls in earlier
    iterations of a loop; it is brought up to date.
    """
    flat = [
        [flatten(args[port] if isinstance(port, int) else by_name[port]) for port in batchable]
        for args, by_name in calls
    ]
    lengths = sizes.find_lengths([[leaf for leaves, _ in values for leaf in leaves] for values in flat])
    if lengths is None or _has_sample_entries(*calls[0], batchable, lengths, sizes):
        return None
    joined_args, joined_by_name = list(calls[0][0]), dict(calls[0][1])
    for i, port in enumerate(batchable):
        value = _join_once(port, [values[i] for values in flat], lengths, sizes, kept)
        if value is _UNFIT:
            return None
        if isinstance(port, int):
            joined_args[port] = value
        else:
            joined_by_name[port] = value
    return _split(function(*joined_args, **joined_by_name), lengths, sizes)


def _has_sample_entries(
    args: Sequence[Any],
    by_name: Mapping[str, Any],
    batchable: Sequence[int | str],
    lengths: Sequence[Any],
    sizes: Sizes,
) -> bool:
    """Whether an argument that is not joined is a tensor with an entry for each sample of some call."""
    import torch

    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *by_name.items()]
    kept_apart = [value for port, value in arguments if isinstance(value, torch.Tensor) and port not in batchable]
    return bool(kept_apart) and any(sizes.has_batch(value, length) for value in kept_apart for length in lengths)


_UNFIT = object()


def _join_once(
    port: int | str, flat: Sequence[FlatValue], lengths: Sequence[Any], sizes: Sizes, kept: KeptJoins | None
) -> Any:
    """As ``_join``, or the joined value that an earlier iteration made of the same values, if no gradient is needed."""
    import torch

    if kept is None or torch.is_grad_enabled():
        return _join(flat, lengths, sizes)
    if port not in kept:
        value = _join(flat, lengths, sizes)
        kept[port] = None if value is _UNFIT else JoinedValue.of(flat, lengths, value)
        return value
    earlier = kept[port]
    if earlier is not None and earlier.fits(flat, lengths):
        return earlier.joined
    kept[port] = None
    return _join(flat, lengths, sizes)


def _join(flat: Sequence[FlatValue], lengths: Sequence[Any], sizes: Sizes) -> Any:
    """Flat values joined leaf by leaf; ``_UNFIT`` if their structures, dtypes, sizes or other leaves differ."""
    import torch

    structure = flat[0][1]
    for _, other in flat[1:]:
        if other is not structure and other != structure:
            return _UNFIT
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    if not all(_can_join(column, sizes) for column in columns):
        return _UNFIT
    joined = [
        torch.cat([sizes.expand(leaf, length) for leaf, length in zip(column, lengths, strict=True)])
        if isinstance(column[0], torch.Tensor)
        else column[0]
        for column in columns
    ]
    return unflatten(joined, structure)


def _can_join(leaves: Sequence[Any], sizes: Sizes) -> bool:
    """Whether leaves are tensors that differ in the leading axis alone, or equal values of another type."""
    import torch

    first = leaves[0]
    if not isinstance(first, torch.Tensor):
        return all(is_equal_leaf(leaf, first) for leaf in leaves[1:])
    for leaf in leaves[1:]:
        if leaf is first:
            continue
        if not isinstance(leaf, torch.Tensor) or leaf.dtype != first.dtype or leaf.device != first.device:
            return False
        if not sizes.are_equal(first, leaf):
            return False
    return True


def _split(value: Any, lengths: Sequence[Any], sizes: Sizes) -> list[Any]:
    """The result of each call; values other than tensors are the same in all of them."""
    import torch

    leaves, structure = flatten(value)
    divided = [
        sizes.divide(leaf, lengths) if isinstance(leaf, torch.Tensor) else [leaf] * len(lengths) for leaf in leaves
    ]
    return [unflatten([rows[i] for rows in divided], structure) for i in range(len(lengths))]
