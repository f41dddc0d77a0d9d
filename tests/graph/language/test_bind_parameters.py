"""Binding of parameters: values from Python and from the command line, checked against every port they feed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.ir import Call, Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Literal
from tests.graph.toys import REGISTRY, Colour


def graph(folder: Path, params: str, nodes: str = "") -> Graph:
    lines = ["guidegraph: 1", f"params: {params}", "nodes:", "  one: {use: toy.number}", *nodes.strip("\n").split("\n")]
    path = folder / "workflow.yaml"
    path.write_text("\n".join([*lines, "outputs: {out: one}", ""]))
    return build(path, REGISTRY)


def bind_errors(graph: Graph, values: dict[str, Any], *, text: bool = False) -> list[str]:
    with pytest.raises(WorkflowError) as caught:
        bind(graph, values, text=text, label="--set" if text else "params")
    return [f"{p.mark}: {p.code}: {p.message} [{p.path}]" for p in caught.value.problems]


def test_missing_values_take_their_defaults(tmp_path: Path) -> None:
    params = "{a: 1, b: 2.5, c: text, d: [1, x], e: {default: {k: 1}}, f: {default: null, type: int}, g: true}"
    workflow = graph(tmp_path, params)
    assert bind(workflow, {}) == {"a": 1, "b": 2.5, "c": "text", "d": [1, "x"], "e": {"k": 1}, "f": None, "g": True}


@pytest.mark.parametrize(
    ("declared", "raw", "expected"),
    [
        ("1", "7", 7),
        ("1.5", "7", 7.0),
        ("1.5", "1e-4", 1e-4),
        ("text", "7", "7"),
        ("text", "null", "null"),
        ("text", "[a", "[a"),
        ("text", "a: b #c", "a: b #c"),
        ("text", "", ""),
        ("true", "false", False),
        ("[1]", "[1, 2, x]", [1, 2, "x"]),
        ("{type: 'list[float]'}", "[1, 2.5]", [1.0, 2.5]),
        ("{type: dict}", "{a: 1e-4}", {"a": 1e-4}),
        ("{type: int | list}", "[1, 2]", [1, 2]),
        ("{type: int | list}", "3", 3),
        ("{type: str | list}", "[a, b]", ["a", "b"]),
        ("{type: str | list}", "a", "a"),
        ("{type: str | list}", "[masterpiece] a tiger", "[masterpiece] a tiger"),
        ("{type: str | list}", "{a: b}", "{a: b}"),
        ("{type: str | list}", "[a, *b]", "[a, *b]"),
        ("{type: 'str | list[int]'}", "[a]", "[a]"),
        ("{default: null, type: int}", "null", None),
        ("{type: Any}", "[1, {a: b}]", [1, {"a": "b"}]),
        ("null", "x", "x"),
    ],
)
def test_text_from_the_command_line_is_parsed_by_type(tmp_path: Path, declared: str, raw: str, expected: Any) -> None:
    value = bind(graph(tmp_path, f"{{p: {declared}}}"), {"p": raw}, text=True)["p"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("declared", "raw", "reason"),
    [
        ("1", "1.5", "valid integer"),
        ("1", "true", "valid integer"),
        ("1", "x", "found str 'x'"),
        ("1", "", "valid integer"),
        ("1", "[1", "did not find expected"),
        ("1", "*a", "aliases"),
        ("1", "!!python/object:os.system ls", "tags"),
        ("1", "[" * 2000, "too|nested"),
        ("1.5", ".nan", "found nan"),
        ("1.5", "1e999", "found str '1e999'"),
        ("1.5", "true", "valid number"),
        ("true", "1", "valid boolean"),
        ("true", "yes", "valid boolean"),
        ("[1]", "3", "valid array"),
        ("{type: 'list[int]'}", "[1, x]", "valid integer"),
        ("{type: 'int | list'}", "x", "should be a valid integer, or a valid array; found str 'x'"),
        ("{type: dict}", "{a: 1, a: 2}", "'a' appears in it twice"),
        ("{type: Picture}", "3", "expected Picture"),
        ("{type: Picture}", "text", "expected Picture"),
        ("{type: path}", "pkg:no-such-model", "does not ship"),
        ("{type: path}", "~no-such-user/x", "is not a path"),
        ("{type: path}", "a\0b", "NUL"),
    ],
)
def test_text_of_the_wrong_type_is_refused(tmp_path: Path, declared: str, raw: str, reason: str) -> None:
    (error,) = bind_errors(graph(tmp_path, f"{{p: {declared}}}"), {"p": raw}, text=True)
    assert error.startswith("--set:1:1: bad-value: 'p': ")
    assert re.search(reason, error)


@pytest.mark.parametrize(
    ("declared", "raw", "expected"),
    [
        ("1", np.int64(3), 3),
        ("1.5", np.float32(0.5), 0.5),
        ("1.5", 2, 2.0),
        ("[1]", (1, 2), [1, 2]),
        ("{type: Any}", None, None),
    ],
)
def test_values_from_python(tmp_path: Path, declared: str, raw: object, expected: object) -> None:
    value = bind(graph(tmp_path, f"{{p: {declared}}}"), {"p": raw})["p"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("declared", "raw"),
    [
        ("1", True),
        ("1", "3"),
        ("1", 1.0),
        ("true", 1),
        ("text", 3),
        ("1", None),
        ("1.5", math.nan),
        ("[1]", {1: 2}),
    ],
)
def test_values_of_other_types_are_refused(tmp_path: Path, declared: str, raw: object) -> None:
    (error,) = bind_errors(graph(tmp_path, f"{{p: {declared}}}"), {"p": raw})
    assert "bad-value" in error


def test_tensors_are_checked_by_their_axes(tmp_path: Path) -> None:
    workflow = graph(tmp_path, "{p: {type: Picture}}")
    picture = torch.zeros(1, 3, 2, 2)
    assert bind(workflow, {"p": picture})["p"] is picture
    (error,) = bind_errors(workflow, {"p": torch.zeros(1, 4, 2, 2)})
    assert "expected Picture, found a tensor of shape (1, 4, 2, 2)" in error
    (error,) = bind_errors(workflow, {"p": torch.zeros(0, 3, 2, 2)})
    assert "expected Picture, found a tensor of shape (0, 3, 2, 2)" in error


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    workflow = graph(tmp_path, "{steps: 3, scale: {type: float, help: how strong}}")
    assert bind_errors(workflow, {"stps": 4, "steps": "x"}) == [
        f"{tmp_path}/workflow.yaml:2:20: missing-param: 'scale' (float) has no default and was not given (how strong) "
        "[params.scale]",
        "params:1:1: bad-value: 'steps': Input should be a valid integer; found str 'x' [params.steps]",
        "params:1:1: unknown-param: no parameter 'stps'; did you mean 'steps'? parameters: steps, scale [params.stps]",
    ]


FEEDS = """
  small: {use: toy.scale, in: {a: one, by: params.by}}
  loud: {use: toy.shout, in: {times: params.times}, with: {text: a}}
  all: {use: toy.total, in: {values: [one, params.by]}}
  work:
    loop: {over: params.times, as: i}
    body: {deep: {use: toy.count, in: {value: params.deep}}}
    collect: {deep: deep}
"""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"by": -1}, "port 'by' of toy.scale (nodes.small): Input should be greater than or equal to 0"),
        ({"times": 0}, "port 'times' of toy.shout (nodes.loud): Input should be greater than or equal to 1"),
        ({"deep": -2}, "port 'value' of toy.count (nodes.work.body.deep)"),
    ],
)
def test_a_value_is_checked_against_every_port_it_feeds(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    workflow = graph(tmp_path, "{by: 1.0, times: 1, deep: 1}", FEEDS)
    (error,) = bind_errors(workflow, values)
    assert reason in error
    name = next(iter(values))
    assert error.startswith(f"params:1:1: bad-value: '{name}': ")
    assert error.endswith(f"[params.{name}]")


BY_CHOICE = """
  left: {choose: {when: params.first, of: {true: params.a, false: params.b}}}
  either: {choose: {when: params.second, of: {true: left, false: params.c}}}
"""


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (
            "  r: {use: toy.count, in: {value: either}}",
            "port 'value' of toy.count (nodes.r): Input should be greater than or equal to 0",
        ),
        (
            "  r: {loop: {over: either, as: i}, body: {}, collect: {i: loop.i}}",
            "loop nodes.r: expected 0 or more iterations; found -2",
        ),
    ],
)
def test_a_value_is_checked_behind_choices_in_all_branches(tmp_path: Path, nodes: str, reason: str) -> None:
    workflow = graph(tmp_path, "{a: 1, b: 1, c: 1, first: true, second: true}", BY_CHOICE + nodes)
    for name in ("a", "b", "c"):
        (error,) = bind_errors(workflow, {name: -2})
        assert error.startswith(f"params:1:1: bad-value: '{name}': {reason}")
    with pytest.raises(WorkflowError) as caught:
        graph(tmp_path, "{a: 1, b: -2, c: 1, first: true, second: true}", BY_CHOICE + nodes)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("bad-value", "params.b.default")
    assert reason in problem.message


@pytest.mark.parametrize("times", [-1, "text", {"a": 1}, 2.5])
def test_values_a_loop_cannot_run_over_are_refused(tmp_path: Path, times: object) -> None:
    nodes = "  work:\n    loop: {over: params.times, as: i}\n    body: {}\n    collect: {i: loop.i}"
    workflow = graph(tmp_path, "{times: {type: Any}}", nodes)
    (error,) = bind_errors(workflow, {"times": times})
    assert "loop nodes.work: expected" in error
    for valid in (0, 5, [1, 2], torch.zeros(3)):
        bind(workflow, {"times": valid})


def test_relative_paths_are_relative_to_their_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    nodes = "  a: {use: toy.read, in: {path: params.text}}\n  b: {use: toy.read, in: {path: params.path}}"
    workflow = graph(tmp_path, "{text: a.txt, path: {default: b.txt, type: Path}}", nodes)
    assert bind(workflow, {}) == {"text": tmp_path / "a.txt", "path": tmp_path / "b.txt"}
    assert bind(workflow, {"text": "c.txt"}, text=True) == {"text": folder / "c.txt", "path": tmp_path / "b.txt"}
    assert bind(workflow, {"path": Path("sub") / "c.txt"})["path"] == folder / "sub" / "c.txt"
    assert bind(workflow, {"path": "/c.txt"})["path"] == Path("/c.txt")


DIRECT_LIST = "  a: {use: toy.read_all, in: {paths: params.p}}"
DIRECT = "  a: {use: toy.read, in: {path: params.p}}"
CHOICE = """
  either: {choose: {when: params.first, of: {true: params.p, false: params.p}}}
  a: {use: toy.read, in: {path: either}}
"""
ITEM = """
  all:
    loop: {over: params.p, as: file}
    body: {a: {use: toy.read, in: {path: loop.file}}}
    collect: {text: a}
"""
ITEM_OF_CHOICE = ITEM.replace("params.p", "either") + CHOICE.splitlines()[1]
START = """
  all:
    loop: {over: params.times, as: i}
    carry: {file: params.p}
    body: {a: {use: toy.read, in: {path: carry.file}}}
    next: {file: carry.file}
"""


@pytest.mark.parametrize(
    ("declared", "nodes", "is_list"),
    [
        ("[a.txt]", DIRECT_LIST, True),
        ("{type: list, default: [a.txt]}", DIRECT_LIST, True),
        ("{type: Any, default: [a.txt]}", DIRECT_LIST, True),
        ("{type: 'str | path', default: a.txt}", DIRECT, False),
        ("{type: 'path | str', default: a.txt}", DIRECT, False),
        ("{type: Any, default: a.txt}", DIRECT, False),
        ("{type: Any, default: a.txt}", CHOICE, False),
        ("{type: Any, default: a.txt}", START, False),
        ("[a.txt]", ITEM, True),
        ("{type: Any, default: [a.txt]}", ITEM, True),
        ("[a.txt]", ITEM_OF_CHOICE, True),
    ],
)
def test_a_text_that_names_a_file_for_a_port_is_a_path_by_whatever_way_it_gets_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str, nodes: str, is_list: bool
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    workflow = graph(tmp_path, f"{{p: {declared}, first: true, times: 1}}", nodes)

    def value(path: Path) -> object:
        return [path] if is_list else path

    assert bind(workflow, {})["p"] == value(tmp_path / "a.txt")
    assert bind(workflow, {"p": "[b.txt]" if is_list else "b.txt"}, text=True)["p"] == value(folder / "b.txt")
    assert bind(workflow, {"p": ["b.txt"] if is_list else "b.txt"})["p"] == value(folder / "b.txt")


@pytest.mark.parametrize(
    ("declared", "nodes", "path", "text"),
    [
        ("a.txt", DIRECT + "\n  b: {use: toy.shout, in: {text: params.p}}", "nodes.a.in.path", "nodes.b.in.text"),
        (
            "{type: Any, default: a.txt}",
            CHOICE + "  b: {use: toy.shout, in: {text: either}}",
            "nodes.a.in.path",
            "nodes.b.in.text",
        ),
        (
            "[a.txt]",
            ITEM.replace("body: {", "body: {b: {use: toy.shout, in: {text: loop.file}}, "),
            "nodes.all.body.a.in.path",
            "nodes.all.body.b.in.text",
        ),
    ],
)
def test_a_text_is_not_a_path_and_text_at_once(tmp_path: Path, declared: str, nodes: str, path: str, text: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        graph(tmp_path, f"{{p: {declared}, first: true}}", nodes)
    (problem,) = caught.value.problems
    assert problem.message == f"'p' is a path for {path} and text for {text}: declare two parameters"


def test_a_default_behind_a_choice_that_is_no_path_is_refused_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        graph(tmp_path, "{p: {type: Any, default: 'pkg:none'}, first: true}", CHOICE)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("bad-value", "params.p.default")
    assert "does not ship with the package" in problem.message


@pytest.mark.parametrize(
    ("declared", "raw", "expected"),
    [
        ("Sequence[int]", [1, 2], [1, 2]),
        ("int | Sequence[int]", 3, 3),
        ("list[int | str] | None", [1, "a"], [1, "a"]),
        ("Sequence[Sequence[float]]", [[1.0]], [[1.0]]),
        ("Scale", 2.5, 2.5),
        ("float | Tensor", 2.5, 2.5),
    ],
)
def test_port_types_are_parameter_types(tmp_path: Path, declared: str, raw: object, expected: object) -> None:
    workflow = graph(tmp_path, f"{{p: {{type: '{declared}'}}}}")
    assert bind(workflow, {"p": raw}) == {"p": expected}
    if "Tensor" in declared or declared == "Scale":
        tensor = torch.ones(2)
        assert bind(workflow, {"p": tensor})["p"] is tensor


@pytest.mark.parametrize(
    ("declared", "raw", "reason"),
    [
        ("list[str]", ["a", 1], "Input should be a valid string (element [1]); found list ['a', 1]"),
        ("str | list[str]", ["a", "b", 3], "Input should be a valid string (element [2]); found list ['a', 'b', 3]"),
        ("list[list[int]]", [[1], [2, None]], "Input should be a valid integer (element [1][1]); found list"),
    ],
)
def test_an_error_says_which_element_of_a_list_is_wrong(
    tmp_path: Path, declared: str, raw: object, reason: str
) -> None:
    (error,) = bind_errors(graph(tmp_path, f"{{p: {{type: '{declared}'}}}}"), {"p": raw})
    assert reason in error


@pytest.mark.parametrize("declared", ["integer", "list[", "list[]", "int |", "list[Imag]", "[int]", "dict[str]"])
def test_an_unknown_type_is_named(tmp_path: Path, declared: str) -> None:
    with pytest.raises(WorkflowError, match="unknown type"):
        graph(tmp_path, f"{{p: {{type: '{declared}'}}}}")


@pytest.mark.parametrize("declared", ["null", "None", "'None | None'", "'list[None | None]'", "'int | list[null]'"])
@pytest.mark.parametrize("default", ["", ", default: null", ", default: 1"])
def test_a_type_whose_only_value_is_null_is_refused(tmp_path: Path, declared: str, default: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        graph(tmp_path, f"{{p: {{type: {declared}{default}}}}}")
    (problem,) = caught.value.problems
    assert (problem.mark.line, problem.mark.column, problem.code) == (2, 20, "bad-type")
    assert problem.path == "params.p.type"
    assert "expected a type that has values, such as 'int | None'; found '" in problem.message


@pytest.mark.parametrize(("depth", "is_allowed"), [(16, True), (17, False), (300, False), (20_000, False)])
def test_lists_in_a_type_nest_to_a_limit(tmp_path: Path, depth: int, is_allowed: bool) -> None:
    declared = f"{{p: {{type: '{'list[' * depth}int{']' * depth}'}}}}"
    if is_allowed:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        assert bind(graph(tmp_path, declared), {"p": value}) == {"p": value}
        return
    with pytest.raises(WorkflowError) as caught:
        graph(tmp_path, declared)
    (problem,) = caught.value.problems
    assert (problem.mark.line, problem.mark.column, problem.code) == (2, 20, "too-deep")
    assert problem.message == "the lists of a type nest at most 16 deep"


@pytest.mark.parametrize("declared", ["None | int", "int | null", "None | list[int] | int | None"])
def test_null_is_an_alternative_of_a_type(tmp_path: Path, declared: str) -> None:
    workflow = graph(tmp_path, f"{{p: {{type: '{declared}', default: null}}}}")
    assert bind(workflow, {}) == {"p": None}
    assert bind(workflow, {"p": 3}) == {"p": 3}


@pytest.mark.parametrize(
    "declared", ["blue", "{type: Colour, default: blue}", "{type: 'Colour | None', default: blue}"]
)
def test_a_text_is_a_value_of_an_enumeration_for_a_port_that_takes_one(tmp_path: Path, declared: str) -> None:
    workflow = graph(tmp_path, f"{{p: {declared}}}", "  paint: {use: toy.paint, in: {colour: params.p}}")
    assert bind(workflow, {}) == {"p": "blue"}
    assert bind(workflow, {"p": "red"}, text=True) == {"p": "red"}
    for value in ("green", 3):
        (error,) = bind_errors(workflow, {"p": value})
        assert error.startswith("params:1:1: bad-value: 'p': ")
    paint = compile_plan(workflow, {"p": "red"}, RunConfig(passes=frozenset())).bound["paint"]
    assert isinstance(paint, Call)
    colour = paint.settings["colour"]
    assert isinstance(colour, Literal)
    assert colour.value is Colour.RED


def test_a_default_that_is_no_value_of_an_enumeration_is_refused_where_it_stands(tmp_path: Path) -> None:
    for declared in ("green", "{type: Colour, default: green}"):
        with pytest.raises(WorkflowError, match="Input should be 'red' or 'blue'") as caught:
            graph(tmp_path, f"{{p: {declared}}}", "  paint: {use: toy.paint, in: {colour: params.p}}")
        assert {(problem.code, problem.path) for problem in caught.value.problems} == {
            ("bad-value", "params.p.default")
        }
