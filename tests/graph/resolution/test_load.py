"""The workflow language: valid syntax and its meaning. Invalid workflows are in tests/broken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Call, Graph
from guidegraph.graph.resolution.load import build
from guidegraph.graph.sources import Literal, Output, Param
from guidegraph.graph.types import ANY, PortType, SequenceOf, to_port_type
from tests.graph.toys import REGISTRY, Colour, Picture

NODES = "nodes: {n: {use: toy.number}}\noutputs: {out: n}\n"


def build_text(folder: Path, text: str) -> Graph:
    path = folder / "workflow.yaml"
    path.write_text(text if text.startswith("guidegraph") else "guidegraph: 1\n" + text)
    return build(path, REGISTRY)


def build_problems(folder: Path, text: str) -> list[Problem]:
    with pytest.raises(WorkflowError) as caught:
        build_text(folder, text)
    return caught.value.problems


def read_setting(graph: Graph, key: str, name: str) -> Any:
    op = graph.ops[key]
    assert isinstance(op, Call)
    source = op.settings.get(name, op.inputs.get(name))
    return source.value if isinstance(source, Literal) else source


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("3.", 3.0),
        ("+7", 7.0),
        ("0", 0.0),
    ],
)
def test_numbers(tmp_path: Path, written: str, value: float) -> None:
    graph = build_text(
        tmp_path, f"nodes: {{n: {{use: toy.number, with: {{value: {written}}}}}}}\noutputs: {{out: n}}\n"
    )
    assert read_setting(graph, "n", "value") == value


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(WorkflowError, match=r"expected a (finite )?number; found"):
        build_text(tmp_path, f"nodes: {{n: {{use: toy.number, with: {{value: {written}}}}}}}\noutputs: {{out: n}}\n")


@pytest.mark.parametrize(
    "written",
    ["on", "off", "yes", "no", "2020-01-01", "0x1F", "1_000", "12:30", "Null x", "'true'", '"1"', "é≠", "1e", "e5"],
)
def test_other_scalars_are_text(tmp_path: Path, written: str) -> None:
    graph = build_text(tmp_path, f"nodes: {{s: {{use: toy.shout, with: {{text: {written}}}}}}}\noutputs: {{out: s}}\n")
    assert read_setting(graph, "s", "text") == written.strip("'\"")


def test_text_of_several_lines(tmp_path: Path) -> None:
    text = """
nodes:
  s:
    use: toy.shout
    with:
      text: >-
        a tiger
        on grass
outputs: {out: s}
"""
    assert read_setting(build_text(tmp_path, text), "s", "text") == "a tiger on grass"


@pytest.mark.parametrize("written", ["1", "true", "null", "", "[a]", "{a: b}"])
def test_other_values_are_not_converted_to_text(tmp_path: Path, written: str) -> None:
    (problem,) = build_problems(
        tmp_path, f"nodes: {{s: {{use: toy.shout, with: {{text: {written}}}}}}}\noutputs: {{out: s}}\n"
    )
    assert problem.code == "bad-value"


@pytest.mark.parametrize("written", ["'3'", "true", "1.5", "-1", "null", "[3]", "1e2"])
def test_other_values_are_not_converted_to_int(tmp_path: Path, written: str) -> None:
    (problem,) = build_problems(
        tmp_path, f"nodes: {{n: {{use: toy.count, with: {{value: {written}}}}}}}\noutputs: {{out: n}}\n"
    )
    assert (problem.code, problem.path) == ("bad-value", "nodes.n.with.value")


def test_choices_enumerations_and_tuples(tmp_path: Path) -> None:
    text = "nodes: {p: {use: toy.paint, with: {colour: blue, mode: line, size: [2, 3]}}}\noutputs: {out: p}\n"
    graph = build_text(tmp_path, text)
    assert read_setting(graph, "p", "colour") is Colour.BLUE
    assert read_setting(graph, "p", "mode") == "line"
    assert read_setting(graph, "p", "size") == (2, 3)
    (problem,) = build_problems(tmp_path, text.replace("blue", "green"))
    assert "'red' or 'blue'" in problem.message


@pytest.mark.parametrize("name", ["on", "off", "null", "yes", "true", "no", "Null"])
def test_a_name_is_text_even_if_yaml_reads_another_value(tmp_path: Path, name: str) -> None:
    text = f"""
params: {{{name}: 3.0}}
nodes:
  {name}: {{use: toy.scale, in: {{a: params.{name}}}}}
  after: {{use: toy.add, in: {{a: {name}, b: {name}.out}}}}
outputs: {{{name}: {name}}}
"""
    graph = build_text(tmp_path, text)
    assert graph.outputs[name].source == Output(name, "out")
    assert read_setting(graph, "after", "b") == Output(name, "out")
    assert read_setting(graph, name, "a") == Param(name)


@pytest.mark.parametrize("name", ["1", "a-b", "a.b", "a/b", "''", "params", "carry", "loop", "a b"])
def test_names_that_links_cannot_use_are_refused(tmp_path: Path, name: str) -> None:
    problems = build_problems(
        tmp_path, f"nodes: {{{name}: {{use: toy.number}}, n: {{use: toy.number}}}}\noutputs: {{out: n}}\n"
    )
    assert [p.code for p in problems] == ["reserved-name" if name in ("params", "carry", "loop") else "bad-name"]
    assert (problems[0].mark.line, problems[0].mark.column) == (2, 9)


def test_names_in_any_script(tmp_path: Path) -> None:
    graph = build_text(tmp_path, "nodes: {größe_σ: {use: toy.number}}\noutputs: {größe: größe_σ}\n")
    assert graph.outputs["größe"].source == Output("größe_σ", "out")


@pytest.mark.parametrize(
    ("written", "default", "kind"),
    [
        ("3", 3, to_port_type(int)),
        ("3.0", 3.0, to_port_type(float)),
        ("a tiger", "a tiger", to_port_type(str)),
        ("true", True, to_port_type(bool)),
        ("null", None, ANY),
        ("{default: 3, help: how many}", 3, to_port_type(int)),
        ("{default: 3, type: float}", 3.0, to_port_type(float)),
        ("{default: null, type: int}", None, to_port_type(int | None)),
        ("{default: {a: 1}}", {"a": 1}, to_port_type(dict)),
        ("{default: 3, type: int | str}", 3, to_port_type(int | str)),
    ],
)
def test_parameters_with_defaults(tmp_path: Path, written: str, default: Any, kind: PortType) -> None:
    parameter = build_text(tmp_path, f"params: {{p: {written}}}\n{NODES}").params["p"]
    assert (parameter.default, parameter.port.type, parameter.required) == (default, kind, False)
    assert type(parameter.default) is type(default)


@pytest.mark.parametrize("written", ["[4, 16]", "{default: [4, 16], type: list}"])
def test_a_parameter_may_be_a_list(tmp_path: Path, written: str) -> None:
    parameter = build_text(tmp_path, f"params: {{p: {written}}}\n{NODES}").params["p"]
    assert parameter.default == [4, 16]
    (kind,) = parameter.port.type.alternatives
    assert kind is list or isinstance(kind, SequenceOf)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("int", to_port_type(int)),
        ("path", to_port_type(Path)),
        ("Path", to_port_type(Path)),
        ("Picture", to_port_type(Picture)),
        ("str", to_port_type(str)),
    ],
)
def test_a_parameter_without_a_default_is_required(tmp_path: Path, written: str, kind: PortType) -> None:
    parameter = build_text(tmp_path, f"params: {{p: {{type: {written}, help: 'a help text'}}}}\n{NODES}").params["p"]
    assert parameter.required
    assert (parameter.port.type, parameter.help) == (kind, "a help text")


def test_a_default_that_is_a_path_is_relative_to_the_file(tmp_path: Path) -> None:
    parameter = build_text(tmp_path, f"params: {{p: {{default: a/b.txt, type: path}}}}\n{NODES}").params["p"]
    assert parameter.default == tmp_path / "a" / "b.txt"


@pytest.mark.parametrize("prefix", ["\ufeff", "# a comment\n", "%YAML 1.1\n---\n", "---\n"])
def test_text_allowed_before_a_workflow(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(f"{prefix}guidegraph: 1\n{NODES}", encoding="utf-8")
    assert list(build(path, REGISTRY).ops) == ["n"]


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_positions_do_not_depend_on_line_endings(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_bytes(f"guidegraph: 1\n# é\n{NODES.replace('toy.number', 'toy.nummer')}".replace("\n", ending).encode())
    with pytest.raises(WorkflowError) as caught:
        build(path, REGISTRY)
    (problem,) = caught.value.problems
    assert (problem.mark.line, problem.mark.column) == (3, 18)


def test_columns_count_characters_not_bytes(tmp_path: Path) -> None:
    text = "nodes: {größe: {use: toy.nummer}}\noutputs: {out: größe}\n"
    (problem,) = build_problems(tmp_path, text)
    assert (problem.mark.line, problem.mark.column) == (2, 22)


@pytest.mark.parametrize("relative", [True, False])
def test_errors_name_the_file_as_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.yaml").write_text("guidegraph: 1\nnodes: {b: {use: ../block.yaml}}\noutputs: {out: b}\n")
    (tmp_path / "block.yaml").write_text("guidegraph: 1\nnodes: {n: {use: toy.nummer}}\noutputs: {out: n}\n")
    monkeypatch.chdir(tmp_path)
    path = Path("sub/w.yaml") if relative else tmp_path / "sub" / "w.yaml"
    with pytest.raises(WorkflowError) as caught:
        build(path, REGISTRY)
    (problem,) = caught.value.problems
    assert problem.mark.file == ("block.yaml" if relative else os.fspath(tmp_path / "block.yaml"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"guidegraph: 1\nname: \xe9\n", b"\x00", b"a: \x1b[31m\n"])
def test_files_that_are_not_text_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_bytes(content)
    with pytest.raises(WorkflowError) as caught:
        build(path, REGISTRY)
    assert [p.code for p in caught.value.problems] in (["not-text"], ["yaml-syntax"])


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(WorkflowError) as caught:
            build(path, REGISTRY)
        assert [p.code for p in caught.value.problems] == ["no-file"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_hits_a_limit_before_the_stack(tmp_path: Path, opening: str) -> None:
    (problem,) = build_problems(tmp_path, "nodes: " + ("\n" if opening == "- " else "") + opening * 5000)
    assert problem.code in ("too-deep", "yaml-syntax")


def test_a_closed_deep_nest_in_a_literal(tmp_path: Path) -> None:
    deep = "[" * 70 + "]" * 70
    problems = build_problems(tmp_path, f"nodes: {{n: {{use: toy.same, with: {{x: {deep}}}}}}}\noutputs: {{out: n}}\n")
    assert [p.code for p in problems] == ["too-deep"]
    fine = "[" * 50 + "]" * 50
    build_text(tmp_path, f"nodes: {{n: {{use: toy.same, with: {{x: {fine}}}}}}}\noutputs: {{out: n}}\n")


def test_numbers_too_long_for_python_are_refused_without_a_traceback(tmp_path: Path) -> None:
    long = "9" * 5000
    problems = build_problems(
        tmp_path, f"nodes: {{n: {{use: toy.count, with: {{value: {long}}}}}}}\noutputs: {{out: n}}\n"
    )
    assert [p.code for p in problems] == ["bad-value"]
    assert len(problems[0].message) < 500


def test_every_problem_is_reported_once_in_file_order(tmp_path: Path) -> None:
    text = """
params: {p: {type: integer}, q: 1}
nodes:
  a: {use: toy.nummer, in: {x: nothing}}
  b: {use: toy.add, in: {a: a, b: params.p}}
  c: {use: toy.add, in: {a: b, bb: b}, with: {c: 1}}
  c: {use: toy.number}
  d: {use: toy.scale, in: {a: c}, with: {by: -1}}
outputs: {out: d, other: e}
"""
    problems = build_problems(tmp_path, text)
    assert [(p.mark.line, p.code) for p in problems] == [
        (3, "bad-type"),
        (5, "unknown-node"),
        (5, "unknown-link"),
        (7, "unknown-port"),
        (7, "unknown-port"),
        (8, "duplicate-key"),
        (9, "bad-value"),
        (10, "unknown-link"),
    ]
    assert len({str(p) for p in problems}) == len(problems)
    assert str(problems[0]).startswith(f"{tmp_path / 'workflow.yaml'}:3:20: bad-type: ")
    assert str(problems[0]).endswith(" [params.p.type]")
