"""Class labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from annotated_types import MinLen

from guidegraph.graph.device_context import current_device
from guidegraph.graph.errors import suggest
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes import port_shapes
from guidegraph.nodes.derive import node_from_operation
from guidegraph.nodes.shape_checks import check_finite, has_values
from guidegraph.nodes.types import Condition, Label, LabelEmbedder
from guidegraph_runtime.declare.settings import Count, Range
from guidegraph_runtime.operations.text import Class


def _class_range(classes: int | None) -> dict[str, Range]:
    return {} if classes is None else {"label": Range(low=0, high=classes - 1)}


def _find_embedding_range(embedder: LabelEmbedder) -> dict[str, Range]:
    has_null = getattr(embedder, "has_null", True)
    return {"label": Range(low=0, high=embedder.classes if has_null else embedder.classes - 1)}


constant_label: Callable[..., Label] = node_from_operation(
    "label.constant", __name__, name="constant_label", ranges=_class_range
)
cycle_labels: Callable[..., Label] = node_from_operation("label.cycle", __name__, name="cycle_labels")


@node("label.named", host=True, shape=port_shapes.batch_of_labels)
def labels_by_name(
    names: Sequence[str], *, label: str | Annotated[list[str], MinLen(1)] = "", batch: Count = 1
) -> Label:
    """Labels (B) of classes by name: one name for all ``batch`` samples, or a list with one each.

    names: of the classes, in order, for example from data.folder. label: the name or names; empty for all classes in
    turn. Raises an error for an unknown name, with the closest one, and for a list of another length than ``batch``.
    """
    classes = list(names)
    if not classes:
        raise ValueError("there are no names of classes: expected those of data.folder for a folder with classes")
    requested = [label] * batch if isinstance(label, str) else label
    if len(requested) != batch:
        raise ValueError(f"{len(requested)} labels do not make a batch of {batch}: give one, or one for each picture")
    unknown = [name for name in requested if name and name not in classes]
    if unknown:
        raise ValueError(f"there is no class '{unknown[0]}'; {suggest(unknown[0], classes, 'classes')}")
    indices = [classes.index(name) if name else i % len(classes) for i, name in enumerate(requested)]
    return torch.tensor(indices, dtype=torch.int64, device=current_device())


@node("label.caption", host=True, shape=port_shapes.label_rows)
def caption_labels(label: Label, names: Sequence[str], *, template: str = "a {}") -> Sequence[str]:
    """A caption for each label (B): the template with the name of its class in place of {}.

    names: of the classes, in order, for example from data.folder; `-` and `_` become spaces.
    Raises an error for a label without a name, and for a template without {}.
    """
    if "{}" not in template:
        raise ValueError(f"the template '{template}' has no {{}} for the name of the class, as in 'a photo of a {{}}'")
    indices = [int(i) for i in label]
    if indices and not 0 <= min(indices) <= max(indices) < len(names):
        raise ValueError(f"labels are 0 … {len(names) - 1}; found {min(indices)} … {max(indices)}")
    return tuple(template.replace("{}", names[i].replace("-", " ").replace("_", " ")) for i in indices)


@node("label.argmax")
def argmax_label(scores: Tensor, *, first: Class = 0, count: Count | None = None) -> Label:
    """The argmax of scores (B, K) as a label (B), among `count` columns from `first` on, counted from `first`.

    For labels in {0, 1}, as from data.scenes, it is the one that is set.
    Raises an error if K is too small, and for scores that are not finite.
    """
    if scores.ndim != 2:
        raise ValueError(f"expected scores (B, K); found shape {tuple(scores.shape)}")
    last = scores.shape[1] if count is None else first + count
    if not first < last <= scores.shape[1]:
        raise ValueError(f"columns {first} … {last - 1} are not all there: the scores have {scores.shape[1]}")
    columns = scores[:, first:last]
    check_finite("the scores", columns)
    return columns.argmax(1)


@node("label.embed", shape=port_shapes.label_rows, ranges=_find_embedding_range)
def embed_label(embedder: LabelEmbedder, label: Label | None = None) -> Condition:
    """The condition of class labels (1) or (B); without a label, the null condition with a leading axis of 1.

    Raises an error for labels that are not integers, and for one above the null class, which is `classes`, unless it is
    traced.
    """
    if label is None:
        label = torch.full((1,), embedder.classes, dtype=torch.int64, device=current_device())
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"labels are numbers of classes, of an integer dtype; found {label.dtype}")
    label = label.long()
    if has_values(label) and (int(label.max()) > embedder.classes or int(label.min()) < 0):
        raise ValueError(
            f"labels are 0 … {embedder.classes - 1}, and {embedder.classes} for none; found {int(label.min())} … "
            f"{int(label.max())}"
        )
    return embedder(label)
