"""Nodes of the runtime's operations: derived from their declaration, with tensors in the place of arrays."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guidegraph_scenes
from guidegraph.graph.device_context import use_device
from guidegraph.graph.node import NodeDefinitionError, get_spec
from guidegraph.graph.types import Tensor
from guidegraph.nodes import derive, types
from guidegraph.nodes.derive import define_nodes, node_for, node_from_operation
from guidegraph.nodes.sampling import levels, schedule, scheduler
from guidegraph.plugins.builtin import guidegraph_nodes
from guidegraph_runtime.declare import operation as declare
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, FilePath, Mask, Sample
from guidegraph_runtime.operations import OPERATIONS

WITHOUT_NODE = {"text.chunks", "text.tokenize"}
"""Operations that stand for the first part of a node (`ExportRecipe`)."""


@pytest.fixture
def example() -> Iterator[str]:
    """The id of an operation that is registered for one test."""

    @operation("example.fill", shape=lambda size: (1, 1, size, None))
    def fill(like: Sample | None = None, *, size: Count, path: FilePath | None = None, value: float = 0.5) -> Mask:
        """Fill a square. value: of each pixel."""
        assert like is None or isinstance(like, np.ndarray)
        return np.full((1, 1, size, size), value, np.float32)

    yield "example.fill"
    del declare._operations["example.fill"]


def test_every_operation_has_a_node_with_its_docstring_ports_and_defaults() -> None:
    nodes = {spec.id: spec for spec in map(get_spec, [*guidegraph_nodes(), *guidegraph_scenes.guidegraph_nodes()])}
    assert {id for id, spec in nodes.items() if spec.runtime} == OPERATIONS.keys() - WITHOUT_NODE
    for id in OPERATIONS.keys() - WITHOUT_NODE:
        spec, parameters = nodes[id], OPERATIONS[id].signature.parameters
        assert spec.doc == inspect.getdoc(OPERATIONS[id].function)
        assert [*spec.inputs, *spec.settings] == list(parameters)
        assert inspect.signature(spec.function).parameters.keys() == parameters.keys()
        for port in (*spec.inputs.values(), *spec.settings.values()):
            assert port.default is parameters[port.name].default


def test_a_node_takes_types_traits_and_shape_from_the_operation(example: str) -> None:
    spec = get_spec(node_from_operation(example, __name__))
    assert spec.function.__module__ == __name__
    assert str(spec.inputs["like"].type) == "Sample | None"
    assert str(spec.settings["path"].type) == "Path | None"
    assert spec.outputs["out"].alternatives == (types.Mask,)
    assert (spec.runtime, spec.io, spec.host) == (True, True, True)
    assert spec.shape is not None
    assert spec.shape(size=4) == (1, 1, 4)
    with pytest.raises(ValueError, match="greater than 0"):
        spec.settings["size"].literal(0)


def test_a_namespace_is_defined_as_a_whole(example: str) -> None:
    module: dict[str, Any] = {"__name__": "somewhere"}
    define_nodes(module, "example", host=False)
    assert get_spec(module["fill"]).id == example
    assert not get_spec(module["fill"]).host


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_picture_has_the_dtype_of_the_run_and_a_table_its_own(
    example: str, dtype: str, expected: torch.dtype
) -> None:
    fill = node_from_operation(example, __name__)
    with use_device("cpu", dtype):
        assert fill(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16), size=2).dtype == expected
        sampler = scheduler.ddim(schedule.linear(), steps=3)
    assert sampler.scheduler.matrix.dtype == sampler.scheduler.t.dtype == torch.float64
    assert (sampler.steps.dtype, sampler.state.index.dtype) == (torch.float32, torch.int64)


def test_a_settings_range_holds_in_a_direct_call(example: str) -> None:
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1; found int 0"):
        node_from_operation(example, __name__)(size=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sizes'"):
        node_from_operation(example, __name__)(size=1, sizes=1)


def test_structured_values_are_the_fields_of_the_operation() -> None:
    fields = OPERATIONS["schedule.cosine"](train_steps=60)["out"]
    table = OPERATIONS["scheduler.tcd"](schedule=fields, steps=3)
    sampler = scheduler.tcd(schedule.cosine(train_steps=60), steps=3)
    assert isinstance(sampler, scheduler.Sampler)
    for name, value in table["scheduler"].items():
        actual = getattr(sampler.scheduler, name)
        assert np.array_equal(actual.numpy(), value) if isinstance(actual, torch.Tensor) else actual == value
    halves = levels.split(levels.karras(schedule.linear(), steps=4), at=1)
    assert [type(half) for half in halves] == [types.Levels, types.Levels]
    assert halves.before.t[-1] == halves.after.t[0]


def test_a_computation_in_torch_has_the_signature_of_the_operation(example: str) -> None:
    @node_for(example)
    def fill(like: Tensor | None, *, size: int, path: Any, value: float) -> Tensor:
        return torch.full((1, 1, size, size), value)

    assert fill(size=2).unique().tolist() == [0.5]
    assert fill.__doc__ == "Fill a square. value: of each pixel."
    assert get_spec(fill).settings["value"].default == 0.5
    with pytest.raises(NodeDefinitionError, match="expected the operation's parameters, like, size, path, value"):
        node_for(example)(lambda like, *, size: None)


def test_a_file_is_read_in_the_dtype_of_the_run(tmp_path: Any) -> None:
    from guidegraph.nodes.images.image import load_image

    Image.fromarray(np.full((4, 6, 3), 255, np.uint8)).save(tmp_path / "white.png")
    with use_device("cpu", "float64"):
        image = load_image(path=tmp_path / "white.png")
    assert (image.shape, image.dtype) == ((1, 3, 4, 6), torch.float64)
    assert derive.to_runtime(image).min() == 1
