"""A value that is converted without pydantic is the value that pydantic gives."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError

from guidegraph.graph.types import Beside, RunsCode, Tensor, Written
from guidegraph.graph.values.simple_values import UNDECIDED, make_converter
from guidegraph.plugins.manager import default_registry
from guidegraph_runtime.declare.settings import Fixed, NotEmpty, Range

ANNOTATIONS = [
    bool,
    int,
    float,
    str,
    Path,
    None,
    int | float,
    float | int,
    bool | float,
    float | Tensor,
    int | str | None,
    Literal["a", 1, True, None],
    Literal["a", "b"] | float,
    list,
    Sequence,
    list[int],
    Sequence[float],
    tuple[int, ...],
    tuple[int, str],
    list[float | None],
    int | list[int],
    Annotated[int, Ge(0)],
    Annotated[float, Gt(0), Lt(1)],
    Annotated[float, Le(4)],
    Annotated[str, MinLen(2)],
    Annotated[list[int], MinLen(1)],
    Annotated[Path, Beside("config.yaml")],
    Annotated[Path, Written()],
    Annotated[Path, RunsCode],
    Annotated[int, Range(low=1, high=3)],
    Annotated[float, Range(above=0, below=4)],
    Annotated[float, Fixed(1, "it is 1")],
    Annotated[tuple[int, ...], NotEmpty()],
]
VALUES = [
    *(None, True, False, 0, 1, 2, 3, 4, -1, 2**53 + 1, 10**30, 0.0, 0.5, 1.0, 4.0, -2.5, 1e308, math.inf, math.nan),
    *("", "a", "1", "1.5", "true", "text", "a/b", "~/x", "naïve", "\ud800", "\0"),
    *([], [1], [1, 2], [1, "a"], [0.5, None], ["a", "b"], [[1]], [True], [math.inf], {}, {"a": 1}, (1, 2), (1, "a")),
    *(Path("a/b"), Path()),
]


def validate_by_pydantic(annotation: Any, value: object, *, literal: bool) -> object:
    """The value that pydantic gives; UNDECIDED for one that it refuses."""
    adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        return adapter.validate_json(json.dumps(value), strict=True) if literal else adapter.validate_python(value)
    except (ValidationError, TypeError):
        return UNDECIDED


def has_same_types(first: object, second: object) -> bool:
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return type(first) is type(second) and all(map(has_same_types, first, second))
    return type(first) is type(second)


def check(annotation: Any, value: object, *, literal: bool) -> bool:
    """Whether the converter decided; fails where pydantic gives something else."""
    convert = make_converter(annotation)
    assert convert is not None
    if (converted := convert(value)) is UNDECIDED:
        return False
    expected = validate_by_pydantic(annotation, value, literal=literal)
    assert converted == expected, (annotation, value)
    assert has_same_types(converted, expected), (annotation, value, converted, expected)
    return True


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_a_converted_value_is_that_of_pydantic(annotation: Any, literal: bool) -> None:
    values = [value for value in VALUES if not (literal and isinstance(value, Path))]
    decided = [check(annotation, value, literal=literal) for value in values]
    assert any(decided)


AMBIGUOUS = [
    str | Path,
    Path | int,
    Literal[1, 2] | float,
    Literal[True] | int,
    list[float] | list[int],
    tuple[int, ...] | tuple[str, ...],
    Annotated[int | Path, Beside("config.yaml")] | float,
]


@pytest.mark.parametrize("annotation", AMBIGUOUS, ids=str)
def test_a_choice_between_alternatives_that_convert_is_left_to_pydantic(annotation: Any) -> None:
    assert make_converter(annotation) is None
    assert make_converter(list[annotation]) is None


def extend_annotations(annotations: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.tuples(annotations, annotations).map(lambda pair: Union[pair])  # noqa: UP007
    lists = annotations.map(lambda annotation: list[annotation])
    return st.one_of(pairs, pairs, lists, annotations.map(lambda annotation: tuple[annotation, ...]))


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.sampled_from(ANNOTATIONS), extend_annotations, max_leaves=4), st.booleans())
def test_unions_and_lists_of_simple_annotations_give_the_value_of_pydantic(annotation: Any, literal: bool) -> None:
    if make_converter(annotation) is not None:
        for value in VALUES:
            if not (literal and isinstance(value, Path)):
                check(annotation, value, literal=literal)


@pytest.mark.parametrize("literal", [True, False])
def test_settings_of_all_nodes_are_converted_as_pydantic_does(literal: bool) -> None:
    ports = [port for spec in default_registry().nodes.values() for port in spec.settings.values()]
    annotations = {repr(port.annotation): port.annotation for port in ports if make_converter(port.annotation)}
    assert len(annotations) > 40
    values = [value for value in VALUES if not (literal and isinstance(value, Path))]
    for annotation in annotations.values():
        for value in values:
            check(annotation, value, literal=literal)


@pytest.mark.parametrize("annotation", [Any, object, dict[str, int], Annotated[int, MultipleOf(2)], complex, set[int]])
def test_other_annotations_are_left_to_pydantic(annotation: Any) -> None:
    assert make_converter(annotation) is None


def test_a_workflow_with_simple_settings_loads_without_pydantic() -> None:
    code = "import sys; from guidegraph import load_workflow; load_workflow('pkg:class_cfg.yaml').bind({'steps': 3})"
    command = [sys.executable, "-c", f"{code}; print('pydantic' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
