"""Output shapes of nodes, computed from settings and ports before a run.

These functions are values of the trait ``shape``. A port is an object with a ``shape``, of which the leading axes are
known, or None. Each function returns leading axes too, or None, and raises ``ValueError`` for shapes that do not match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidegraph_runtime.admission import SampleCount, Shape, find_batch_problem, find_common_batch
from guidegraph_runtime.operations.text import constant_shape


def rows_of(value: Any) -> Shape:
    """One row for a text or a number, one per element of a list, and the leading axis of an object with a shape."""
    if hasattr(value, "shape"):
        return tuple(value.shape[:1])
    return (len(value),) if isinstance(value, (list, tuple)) else (1,)


def prompt_rows(prompt: Any) -> Shape:
    return rows_of(prompt)


def text_rows(text: Any) -> Shape:
    return rows_of(text)


def condition_rows(condition: Any) -> Shape:
    return rows_of(condition)


def like_rows(like: Any) -> Shape:
    return rows_of(like)


def image_rows(image: Any) -> Shape:
    return rows_of(image)


def mask_rows(mask: Any) -> Shape:
    return rows_of(mask)


def semantic_rows(semantic: Any) -> Shape:
    return rows_of(semantic)


def label_rows(label: Any) -> Shape:
    return rows_of(label)


def layout_rows(layout: Any) -> Shape:
    return rows_of(layout)


def object_rows(object: Any) -> Shape:
    return rows_of(object)


def map_object_rows(semantic: Any, most: Any) -> dict[str, Shape]:
    """The classes and the boxes of up to `most` objects in each map."""
    rows = (*rows_of(semantic), most)
    return {"object": rows, "box": (*rows, 4)}


def one_row() -> Shape:
    """One row, of a layout that a person places."""
    return (1,)


def vector_rows(values: Any, number: Any) -> Shape:
    return rows_of(number if values is None else values)


def part_rows(parts: Any) -> Shape:
    return _common_rows("the parts", parts)


def merge_rows(conditions: Any) -> Shape:
    return _common_rows("the conditions", conditions)


def batch_of_prompts(prompt: Any, batch: Any) -> Shape:
    """One prompt for each picture; a list must have as many."""
    if not isinstance(prompt, str) and prompt and len(prompt) != batch:
        raise ValueError(f"{len(prompt)} prompts do not make a batch of {batch}: give one, or one for each picture")
    return (batch,)


def batch_of_labels(label: Any, batch: Any) -> Shape:
    """One label for each picture; a list must have as many."""
    return constant_shape(label, batch)


def image_and_mask_shape(image: Any, mask: Any) -> Shape:
    """Pictures under masks: the larger batch of both, which must agree or be 1."""
    return (find_common_batch("pictures and masks", image.shape[0], mask.shape[0]), *image.shape[1:])


def guidance_shape(x: Any, label: Any) -> Shape:
    """The shape of the gradient at x, for one label for all samples or one for each."""
    return step_shape(x, label=label)


def step_shape(context: Any, **values: Any) -> Shape:
    """The shape of x at a step, for values that each have one row for all samples or one for each; None is skipped.

    context: what `guidance.context` returns, or x. Raises ``ValueError`` that names the value with another number.
    """
    if context is None:
        return ()
    rows = [SampleCount(value.shape[0], f"the {name}") for name, value in values.items() if getattr(value, "shape", ())]
    if (reason := find_batch_problem(SampleCount(context.shape[0], "x"), rows)) is not None:
        raise ValueError(reason)
    return tuple(context.shape)


def _common_rows(label: str, values: Sequence[Any]) -> Shape:
    return (find_common_batch(label, *(value.shape[0] for value in values)),) if values else (1,)
