"""The shapes that built-in nodes declare for the checks before a run are those of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from guidegraph.graph.export.partition.leaves import tensor_leaves
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.port import Port
from guidegraph.graph.types import is_tensor, takes_literal
from guidegraph.nodes import port_shapes
from guidegraph.nodes.conditioning.mask import apply_mask
from guidegraph.nodes.conditioning.text_prompt import encode_weighted
from guidegraph.nodes.guidance.step_context import StepContext
from guidegraph.nodes.types import Condition
from guidegraph_runtime.admission import Shape, ShapeOnly
from guidegraph_testing import NodeCase, cases_of
from guidegraph_testing.arguments import Arguments, call_node, make_arguments
from plugins.testing.tests.builtin_cases import NOT_BUILT, overrides, specs


def cases_with_shapes() -> Iterator[Any]:
    functions = [spec.function for spec in specs().values() if spec.id not in NOT_BUILT]
    yield from (pytest.param(case, id=case.id) for case in cases_of(functions, overrides()) if case.spec.shape)


def hide_value(value: Any, port: Port) -> Any:
    """The argument that the trait gets for a value: plain data, or only the shape."""
    if isinstance(value, (list, tuple)) and any(tensor_leaves(item) for item in value):
        return [hide_value(item, port) for item in value]
    leaves = [leaf.tensor for leaf in tensor_leaves(value)]
    if is_tensor(value):
        return ShapeOnly(tuple(value.shape))
    if leaves:
        return ShapeOnly((max(tensor.shape[0] for tensor in leaves),))
    return value if value is None or takes_literal(port.type) else ShapeOnly(())


def declared_shapes(spec: NodeSpec, arguments: Arguments) -> dict[str, Shape]:
    """The shapes of outputs by the trait of a node; a shape without a name is that of the one output."""
    values = {**arguments.ports, **arguments.settings}
    hidden: dict[str, Any] = {}
    for name in spec.shape_arguments:
        port = spec.port(name)
        assert port is not None
        hidden[name] = hide_value(values.get(name, None if port.required else port.default), port)
    assert spec.shape is not None
    shapes = spec.shape(**hidden)
    if not isinstance(shapes, Mapping):
        (output,) = spec.outputs
        shapes = {output: shapes}
    return {name: tuple(shape) for name, shape in shapes.items()}


def check_shapes(case: NodeCase) -> None:
    arguments = make_arguments(case)
    results = call_node(case, arguments)
    shapes = declared_shapes(case.spec, arguments)
    assert shapes
    for name, shape in shapes.items():
        check_shape(results[name], shape)


def check_shape(result: Any, shape: Shape) -> None:
    if isinstance(result, (list, tuple)):
        assert shape == (len(result),)
    elif isinstance(result, Condition):
        assert shape == (max(leaf.tensor.shape[0] for leaf in tensor_leaves(result)),)
    else:
        value = result.x if isinstance(result, StepContext) else result
        assert shape == tuple(value.shape[: len(shape)])
    assert shape  # the number of samples at least


@pytest.mark.parametrize("case", list(cases_with_shapes()))
def test_the_declared_shape_is_that_of_the_result(case: NodeCase) -> None:
    check_shapes(case)


@pytest.mark.parametrize(("pictures", "masks"), [(1, 1), (2, 2), (3, 1), (1, 3)])
def test_pictures_under_masks_are_as_many_as_the_larger_batch(pictures: int, masks: int) -> None:
    inputs = {"image": torch.zeros(pictures, 3, 4, 4), "mask": torch.ones(masks, 1, 4, 4)}
    check_shapes(NodeCase(apply_mask, inputs=inputs))


def test_pictures_and_masks_of_two_batches_do_not_fit() -> None:
    with pytest.raises(ValueError, match="pictures and masks must be of one batch, or one for all; found 2 and 3"):
        port_shapes.image_and_mask_shape(ShapeOnly((2, 3, 4, 4)), ShapeOnly((3, 1, 4, 4)))


@pytest.mark.parametrize(("prompt", "rows"), [("a tiger", 1), (["a tiger"], 1), (["a", "b", "c"], 3)])
def test_a_weighted_prompt_is_for_as_many_samples_as_it_has_texts(prompt: Any, rows: int) -> None:
    def embed(texts: list[str]) -> Condition:
        return Condition(vector=torch.zeros(len(texts), 2))

    case = NodeCase(encode_weighted, inputs={"embedder": embed, "prompt": prompt})
    assert [*declared_shapes(case.spec, make_arguments(case)).values()] == [(rows,)]
    check_shapes(case)
