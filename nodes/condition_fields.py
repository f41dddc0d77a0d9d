"""The fields that a condition may carry. Plugins declare more by the hook `guidegraph_condition_fields`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Literal

from guidegraph.graph.errors import suggest
from guidegraph.graph.types import Tensor, describe_value, is_tensor

Null = Literal["zeros", "keep"] | float
MORE = "more"
"""The attribute of a condition that holds the declared fields by name."""


@dataclass(frozen=True)
class ConditionField:
    """A field of conditions: a tensor with these axes, of which the first, "B", is the batch's or 1.

    axes: a letter for a free size, such as ("B", "C", "H", "W"), or a number for a fixed one. H, W, M and N stay free
    in exported graphs. null: what `condition.drop` and `condition.null` put in its place: "zeros", a number for all
    elements, or "keep" for a field that belongs to another one, as a mask does.
    """

    name: str
    axes: tuple[str | int, ...]
    null: Null = "zeros"

    def __post_init__(self) -> None:
        subject = f"ConditionField({self.name!r})"
        if (
            not isinstance(self.name, str)
            or not self.name.isidentifier()
            or iskeyword(self.name)
            or self.name in _RESERVED
        ):
            raise ValueError(
                f"{subject}: expected a name such as 'pose', which with_fields takes as a keyword: choose another"
            )
        if isinstance(self.axes, str) or not all(isinstance(axis, (str, int)) for axis in self.axes):
            raise ValueError(
                f"{subject}: expected axes such as ('B', 'C', 'H', 'W'); found {self.axes!r}: write a tuple"
            )
        object.__setattr__(self, "axes", tuple(self.axes))
        if self.axes[:1] != ("B",):
            raise ValueError(f"{subject}: expected axes that begin with 'B'; found {self.axes}: put it first")
        if self.null not in ("zeros", "keep") and not (
            isinstance(self.null, (int, float)) and not isinstance(self.null, bool)
        ):
            raise ValueError(f"{subject}: null is 'zeros', 'keep' or a number; found {self.null!r}: write one of them")

    @property
    def fill(self) -> float | None:
        """The number that the null condition has in every element; None if it keeps the field."""
        return None if self.null == "keep" else 0.0 if self.null == "zeros" else float(self.null)


MOST_WRAPPERS = 16
_RESERVED = (MORE, "fields", "self")
BASIC_FIELDS = (
    ConditionField("vector", ("B", "D")),
    ConditionField("tokens", ("B", "M", "D")),
    ConditionField("mask", ("B", "M"), null="keep"),
    ConditionField("spatial", ("B", "C", "H", "W")),
)
"""The fields that are attributes of a condition."""
BASIC_NAMES = tuple(field.name for field in BASIC_FIELDS)

_declared: dict[str, tuple[ConditionField, str]] = {field.name: (field, "guidegraph") for field in BASIC_FIELDS}
"""Each field of this process, and the plugin that declared it."""
_axes: dict[str, tuple[str | int, ...]] = {field.name: field.axes for field in BASIC_FIELDS}
FIELD_AXES: Mapping[str, tuple[str | int, ...]] = _axes
"""The axes of all declared fields by their path in a condition, such as "more.pose"."""


def declare_fields(fields: Iterable[ConditionField], plugin: str) -> None:
    """Declare a plugin's fields. A plugin that is loaded again replaces its own.

    Raises ``ValueError``, and declares none, if another plugin has declared one of the names differently.
    """
    fields = list(fields)
    for field in fields:
        if (other := _declared.get(field.name)) is not None and other[0] != field and other[1] != plugin:
            raise ValueError(
                f"the condition field '{field.name}' is declared by {other[1]}, as {_describe(other[0])}, and by "
                f"{plugin}, as {_describe(field)}"
            )
    for field in fields:
        if field.name in _declared and _declared[field.name][0] == field:
            continue
        _declared[field.name] = (field, plugin)
        _axes[f"{MORE}.{field.name}"] = field.axes


def find_field(name: str) -> ConditionField:
    """A declared field. Raises ``ValueError`` for a name that no plugin has declared."""
    if name not in _declared:
        raise ValueError(
            f"conditions have no field '{name}'; {suggest(name, list(_declared), 'fields')}: declare it with the hook "
            "guidegraph_condition_fields of a plugin, and load that plugin"
        )
    return _declared[name][0]


def check_field(name: str, value: object) -> None:
    """Check that a value fits a declared field: a tensor with its axes. Raises ``ValueError``."""
    axes = find_field(name).axes
    expected = f"the field '{name}' of a condition: expected a tensor ({', '.join(map(str, axes))})"
    if not is_tensor(value):
        raise ValueError(f"{expected}; found {describe_value(value)}: give a tensor")
    shape = value.shape  # type: ignore[attr-defined]
    if len(shape) != len(axes) or any(
        isinstance(axis, int) and axis != size for axis, size in zip(axes, shape, strict=True)
    ):
        raise ValueError(f"{expected}; found shape {tuple(shape)}: reshape it, with the batch or 1 as its first axis")


def find_reads(denoiser: object) -> tuple[str, ...] | None:
    """The fields that a network says it reads, by its attribute `reads`; of a wrapper, those of its `denoiser`.

    None if it does not say: it then reads none but the basic ones. Raises ``ValueError`` if `reads` is not a list of
    names.
    """
    for _ in range(MOST_WRAPPERS):
        reads: object = getattr(denoiser, "reads", None)
        if isinstance(reads, (tuple, list, set, frozenset)):
            return tuple(reads)
        if reads is not None:
            raise ValueError(
                f"{type(denoiser).__name__}.reads: expected names of condition fields, such as ('pose',); found "
                f"{reads!r:.80}: write a tuple"
            )
        denoiser = getattr(denoiser, "denoiser", None)
    return None


def check_reads(denoiser: object, fields: Mapping[str, Tensor]) -> None:
    """Check that a denoiser reads every field of a condition.

    One that does not say what it reads must be given no fields but the basic ones. Raises ``ValueError`` that names the
    field and the network.
    """
    reads = find_reads(denoiser)
    read_names = BASIC_NAMES if reads is None else reads
    unread = [name for name in fields if name not in read_names]
    if not unread:
        return
    network, names = type(denoiser).__name__, ", ".join(f"'{name}'" for name in unread)
    says = (
        f"it has no attribute `reads`, so it reads at most {', '.join(BASIC_NAMES)}"
        if reads is None
        else f"its `reads` are {', '.join(reads) or 'empty'}"
    )
    raise ValueError(
        f"the condition has {'a field' if len(unread) == 1 else 'fields'} that the network {network} does not read: "
        f"{names}; {says}. Add {names} to the network's `reads` if it uses {'it' if len(unread) == 1 else 'them'}, or "
        f"leave {'it' if len(unread) == 1 else 'them'} out of the condition: with_fields({unread[0]}=None)"
    )


def _describe(field: ConditionField) -> str:
    return f"({', '.join(map(str, field.axes))}) with null {field.null!r}"
