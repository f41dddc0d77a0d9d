"""The JSON Schema for editors: shipped workflows are valid; workflows with typical mistakes are not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt

from guidegraph import Image, Tensor, node
from guidegraph.graph.language.json_schema import json_schema
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.node_json import format_signature, read_parameter_docs
from guidegraph.plugins.manager import default_registry
from tests.paths import ROOT

SHIPPED_PLUGINS = ["guidegraph_diffusers"]
SHIPPED = sorted((ROOT / "workflows").rglob("*.yaml"))

VALID = """
guidegraph: 1
requires: {guidegraph-apg: ">=0.1"}
params:
  path: {type: Path, help: "a picture"}
  seed: {default: 0, type: int}
  size: 64
  names: [a, b]
nodes:
  picture: {use: image.load, in: {path: params.path, size: params.size}, with: {resize: pad}}
  many: {use: tensor.cat, in: {tensors: [picture, picture]}, with: {axis: 0}}
  block: {use: ./blocks/anything.yaml, in: {whatever: picture}, with: {number: 1e-4}}
  repeat:
    loop: {over: params.size, as: i}
    carry: {x: picture}
    body:
      smaller: {use: image.resize, in: {image: carry.x}, with: {size: [8, 8]}}
    next: {x: smaller}
    collect: {all: smaller}
outputs: {image: repeat.x, all: repeat.all}
"""

BROKEN = {
    "unknown node id": ("use: tensor.cat", "use: tensor.cut", "tensor.cut"),
    "unknown port": ("in: {tensors: [", "in: {tensor: [", "'tensor' was unexpected"),
    "unknown setting": ("with: {resize: pad}", "with: {resizing: pad}", "'resizing' was unexpected"),
    "wrong kind of literal": ("with: {axis: 0}", "with: {axis: first}", "'first' is not of type 'integer'"),
    "literal that is not among the choices": ("resize: pad", "resize: squeeze", "'squeeze' is not one of"),
    "literal out of range": ("size: [8, 8]", "size: 0", "0 is not valid"),
    "literal instead of a link": ("path: params.path", "path: 3", "3 is not of type 'string'"),
    "file name instead of a link": ("path: params.path", "path: a/b.png", "'a/b.png' does not match"),
    "missing setting": ("with: {size: [8, 8]}", "with: {}", "'size' is a required property"),
    "missing port": ("{image: carry.x}", "{}", "'image' is a required property"),
    "unknown key at the top": ("outputs:", "output: {}\noutputs:", "'output' was unexpected"),
    "no outputs": ("outputs: {image: repeat.x, all: repeat.all}", "", "'outputs' is a required property"),
    "unknown key of a node": ("use: tensor.cat,", "uses: tensor.cat,", "'use' is a required property"),
    "loop without a body": ("    body:\n      smaller:", "    boddy:\n      smaller:", "'body' is a required property"),
    "loop without over": ("{over: params.size, as: i}", "{as: i}", "'over' is a required property"),
    "carry without a next": ("    next: {x: smaller}\n", "", "'next' is a required property"),
    "reserved name": ("  picture: {use", "  params: {use", "'params' does not match"),
    "another version of the language": ("guidegraph: 1", "guidegraph: 2", "1 was expected"),
    "no version": ("guidegraph: 1", "", "'guidegraph' is a required property"),
    "unknown key of a parameter": ("help: ", "helps: ", "'helps' was unexpected"),
}


@pytest.fixture(scope="module")
def schema_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    schema = json_schema(default_registry(SHIPPED_PLUGINS, entry_points=False))
    path.write_text(json.dumps(schema, allow_nan=False), encoding="utf-8")  # JSON has no infinity
    return path


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_schema_is_valid(schema_file: Path) -> None:
    result = check("--check-metaschema", schema_file)
    assert result.returncode == 0, result.stdout


def test_all_shipped_workflows_pass(schema_file: Path) -> None:
    assert SHIPPED
    result = check("--schemafile", schema_file, *SHIPPED)
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def errors_by_name(schema_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The errors of each broken workflow, by name; valid ones are absent."""
    folder = tmp_path_factory.mktemp("workflows")
    (folder / "valid.yaml").write_text(VALID, encoding="utf-8")
    for name, (text, replacement, _) in BROKEN.items():
        assert text in VALID, name
        (folder / f"{name}.yaml").write_text(VALID.replace(text, replacement, 1), encoding="utf-8")
    result = check("-o", "json", "-v", "--schemafile", schema_file, *folder.iterdir())
    errors: dict[str, str] = {}
    for error in json.loads(result.stdout)["errors"]:
        errors[Path(error["filename"]).stem] = errors.get(Path(error["filename"]).stem, "") + json.dumps(error)
    return errors


def test_a_valid_workflow_passes(errors_by_name: dict[str, str]) -> None:
    assert "valid" not in errors_by_name


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workflow_is_refused_with_its_reason(errors_by_name: dict[str, str], name: str) -> None:
    assert name in errors_by_name
    assert BROKEN[name][2] in errors_by_name[name]


@node("toy.everything")
def everything(
    a: Tensor,
    b: Sequence[Image] = (),
    *,
    scale: float | Tensor,
    mode: Literal["x", "y"] = "x",
    sizes: list[Annotated[int, Gt(0)]] = [1],  # noqa: B006
    path: Path | None = None,
) -> Tensor:
    """Does everything at once.

    a: the first, of any
    shape. scale: how much; 1 is nothing. Raises an error at times.
    mode: which way.
    """
    return a


def settings(registry: Registry, id: str) -> dict[str, Any]:
    properties: dict[str, Any] = json_schema(registry)["$defs"][f"node:{id}"]["properties"]["with"]["properties"]
    return properties


def test_settings_carry_their_default_and_documentation() -> None:
    spec = get_spec(everything)
    properties = settings(Registry({spec.id: spec}), spec.id)
    assert set(properties) == {"scale", "mode", "sizes", "path"}
    assert properties["mode"] == {
        "enum": ["x", "y"],
        "type": "string",
        "default": "x",
        "description": "str, default 'x': which way",
    }
    assert properties["sizes"]["items"] == {"type": "integer", "exclusiveMinimum": 0}
    assert properties["scale"]["description"].endswith("required: how much; 1 is nothing")


def test_port_descriptions_come_from_docstrings() -> None:
    spec = get_spec(everything)
    assert read_parameter_docs(spec) == {
        "a": "the first, of any shape",
        "scale": "how much; 1 is nothing",
        "mode": "which way",
    }
    assert format_signature(spec).startswith(
        "(a: Tensor, b?: Sequence[Image]; scale, mode = 'x', sizes = [1], path = None) →"
    )


def test_one_description_may_belong_to_several_settings() -> None:
    @node("toy.bounds")
    def bounds(a: Tensor, *, low: float = 0.0, high: float = 1.0, mode: str = "x", other: int = 1) -> Tensor:
        """Clamp a tensor.

        low, high: ends of the range. `mode` and `other`: which way; none is kept.
        Returns a copy.
        """
        return a

    documented = dict.fromkeys(("low", "high"), "ends of the range")
    documented |= dict.fromkeys(("mode", "other"), "which way; none is kept")
    assert read_parameter_docs(get_spec(bounds)) == documented


def test_every_built_in_node_has_a_definition() -> None:
    registry = default_registry(entry_points=False)
    definitions = json_schema(registry)["$defs"]
    assert {f"node:{id}" for id in registry.nodes} <= set(definitions)


def test_a_call_is_compared_with_the_nodes_of_its_namespace_only() -> None:
    """Validators try every condition of a list, for each call of a workflow."""
    registry = default_registry(entry_points=False)
    conditions = json_schema(registry)["$defs"]["call"]["allOf"]
    members = [condition["if"]["properties"]["use"]["enum"] for condition in conditions]
    assert sorted(chain(*members)) == sorted(registry.nodes)
    for condition, names in zip(conditions, members, strict=True):
        assert [inner["then"]["$ref"].rpartition(":")[2] for inner in condition["then"]["allOf"]] == names
    assert len(conditions) + max(map(len, members)) < sum(map(len, members)) / 2
