"""Guards: the plain fields of values that a traced part was specialised on, found by running it with other values.

A part is traced with, for example, a sampler's `clip`; a run may use another sampler with other fields. A field that
does not change the result, or that is a tensor, is free; any other field must equal its value at export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from guidegraph.graph.errors import NodeError
from guidegraph.graph.export.partition.leaves import path_of, plain_fields
from guidegraph.graph.export.partition.subgraph import FEW_SAMPLES, ExampleValue, PartPlan, cut_batch, keep_results
from guidegraph.graph.torch_private import pytree

Build = Callable[[Sequence[ExampleValue]], PartPlan]
"""Plans the part for other example values."""


def find_guards(
    part: PartPlan, examples: Sequence[ExampleValue], build: Build, run_names: Mapping[str, str]
) -> dict[str, Any]:
    """The guards of a part by the field's name in the run: ``{"is": value}``, and "why" if another value is an error.

    run_names: the names in the run of the fields that it has, by their names in the part. A flag is a guard only if the
    other value changes the result; fields of other types always are.
    """
    guards: dict[str, Any] = {}
    flags: list[tuple[int, str, str]] = []
    for i, example in enumerate(examples):
        for path, value in plain_fields(example.value).items():
            name = run_names.get(f"{example.name}.{path}")
            if name is None or not (value is None or isinstance(value, (bool, int, float, str))):
                continue
            guards[name] = {"is": value}
            if isinstance(value, bool):
                flags.append((i, path, name))
    if not flags:
        return guards
    with keep_results():  # most flags are read by one or two steps, and by no model
        inputs = _draw_inputs(cut_batch(part, FEW_SAMPLES))
        expected = _outputs_or_none(part, inputs)
        if expected is None:
            inputs = _draw_inputs(part)
            expected = _outputs_or_none(part, inputs)
        if expected is None:
            return guards
        is_close = partial(torch.allclose, equal_nan=True)
        for i, path, name in flags:
            value = replace_field(examples[i].value, path, not guards[name]["is"])
            changed = [*examples[:i], replace(examples[i], value=value), *examples[i + 1 :]]
            try:
                outputs = _outputs(build(changed), inputs)
                if len(outputs) == len(expected) and all(map(is_close, outputs, expected)):
                    del guards[name]
            except NodeError as error:
                guards[name]["why"] = str(error.cause)
    return guards


def _outputs_or_none(part: PartPlan, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
    """The outputs of a part; None if it fails for its inputs: then every flag is a guard."""
    try:
        return _outputs(part, inputs)
    except NodeError:
        return None


def _outputs(part: PartPlan, inputs: Sequence[Any]) -> tuple[Any, ...]:
    with torch.no_grad():
        return part.function(*inputs)


def _draw_inputs(part: PartPlan) -> list[Any]:
    """Random numbers as the inputs of a part, none of which is a zero that would hide a factor."""
    generator = torch.Generator().manual_seed(0)

    def draw_like(example: Any) -> Any:
        if not example.is_floating_point():
            return example
        return (0.1 + 0.8 * torch.rand(example.shape, generator=generator)).to(example)

    return [draw_like(part_input.example) for part_input in part.inputs]


def replace_field(value: Any, path: str, other: Any) -> Any:
    """A structured value with one field replaced."""
    flat, spec = pytree.tree_flatten_with_path(value)
    return pytree.tree_unflatten([other if path_of(keys) == path else leaf for keys, leaf in flat], spec)
