"""An ambiguous or invalid `bundle.json` is refused with the location, the expected and the actual value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from guidegraph_runtime.bundle.manifest import Input, Operation, read_manifest, write_manifest
from guidegraph_runtime.bundle.strict_json import MAX_BYTES
from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.errors import BundleError
from tests.runtime.running.bundles import manifest_value, seal_manifest

FILES = ("parts/step.onnx", "parts/step.onnx.data", "parts/total.onnx", "reference/total.bin")
DIGEST = {"sha256": "0" * 64, "size": 3}


def value() -> dict[str, Any]:
    return manifest_value() | {"files": {name: dict(DIGEST) for name in FILES}}


def encode(changed: Any) -> bytes:
    return seal_manifest(changed) if isinstance(changed, dict) else json.dumps(changed).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(data)
    text = str(caught.value)
    assert text.startswith("bundle.json: bad-manifest: expected ")
    assert "\n" not in text
    return text


def test_all_fields_are_read() -> None:
    manifest = read_manifest(encode(value()))
    assert manifest.name == "tiny"
    assert manifest.inputs["x"] == Input("tensor", required=True, dtype="float32", dims=("batch", 4))
    assert manifest.inputs["scale"] == Input("float", default=1.5, help="how much")
    assert manifest.outputs["total"].source == "out"
    assert manifest.parts["step"].externals == ("parts/step.onnx.data",)
    assert manifest.parts["step"].outputs[0].dims == ("batch", 4)
    assert manifest.plan[0].body == (Operation("part", "step", {"x": "x", "scale": "params.scale"}, {}, ("y",)),)
    assert manifest.fixed == {"model": "it is a file that the graphs were made of"}
    assert manifest.files["parts/step.onnx"].size == 3
    assert manifest.requires.opset == 20
    assert manifest.reference is not None
    assert manifest.reference.outputs == {"total": "reference/total.bin"}


def test_a_written_manifest_reads_back_equal() -> None:
    manifest = read_manifest(encode(value()))
    inputs = {
        "prompt": Input("str", default=["a", "σ"], many=True, help="what to draw"),
        "sampler": Input("str", default="ddim", choices=("ddim", "heun")),
        "seed": Input("int", default=2**64 - 1),
        "image": Input("image", default="reference/total.bin"),
        "mask": Input("map"),
        "columns": Input("int", default=2, optional=True),
    }
    for original in (manifest, replace(manifest, inputs=inputs, reference=None)):
        assert read_manifest(write_manifest(original)) == original
    assert write_manifest(manifest).endswith(b"}\n")


def test_every_byte_is_sealed() -> None:
    data = write_manifest(read_manifest(encode(value())))
    assert b'"digest": "' in data[-90:]
    for i in range(0, len(data), 7):
        changed = bytearray(data)
        changed[i] ^= 1
        refusal(bytes(changed))
    for changed_whole in (data + b" ", data.replace(b"much", b"less"), data.replace(b"\n", b"\r\n")):
        assert "bundle.json was changed" in refusal(changed_whole)


def test_nothing_is_written_that_could_not_be_read() -> None:
    manifest = read_manifest(encode(value()))
    for wrong in (
        replace(manifest, name=""),
        replace(manifest, inputs={"scale": Input("float", default=float("nan"))}),
        replace(manifest, workflow="\ud800"),
        replace(manifest, outputs={"not a name": manifest.outputs["total"]}),
    ):
        with pytest.raises(BundleError):
            write_manifest(wrong)


@pytest.mark.parametrize("path", [(), ("requires",), ("inputs", "x"), ("outputs", "total"), ("parts", "step")])
def test_unknown_fields(path: tuple[str, ...]) -> None:
    changed = value()
    inner = changed
    for key in path:
        inner = inner[key]
    inner["sise"] = 1
    assert "expected known fields only, found 'sise'" in refusal(encode(changed))


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    paths = [path]
    for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        paths += places(part, (*path, key))
    return paths


NAMED = {"inputs", "outputs", "parts", "files", "opsets", "versions", "in", "with", "next", "result", "fixed"}
"""Objects whose keys are names, not fields."""


def entry_of_names(path: tuple[Any, ...]) -> bool:
    return len(path) > 1 and path[-2] in NAMED


def change_at(path: tuple[Any, ...], replacement: Any) -> bytes:
    tree = {"": value()}
    inner: Any = tree
    for key in ("", *path)[:-1]:
        inner = inner[key]
    inner[("", *path)[-1]] = replacement
    return encode(tree[""])


def value_at(path: tuple[Any, ...]) -> Any:
    inner: Any = value()
    for key in path:
        inner = inner[key]
    return inner


def is_valid_too(path: tuple[Any, ...], replacement: Any) -> bool:
    """The few places where such a value is right as well."""
    if path[-1:] in (("default",), ("required",)) or path[-3:] == ("reference", "inputs", "scale"):
        return replacement in (None, True, 2.5)
    if path[-1:] in (("workflow",), ("help",)) or path[:-1] == ("fixed",):
        return bool(replacement == "\x00")
    if path[-1:] == ("tolerance",):
        return bool(replacement == 2.5)
    return replacement in ([], {}) and type(replacement) is type(value_at(path))


@pytest.mark.parametrize("path", [path for path in places(value()) if "with" not in path[:-1]], ids=str)
def test_every_value_of_a_wrong_type(path: tuple[Any, ...]) -> None:
    for wrong in (None, True, 2.5, "\x00", [], [None], {}, {"\x00": 1}):
        if not is_valid_too(path, wrong):
            refusal(change_at(path, wrong))


@pytest.mark.parametrize(
    "path",
    [path for path in places(value()) if path and isinstance(path[-1], str) and not entry_of_names(path)],
    ids=str,
)
def test_every_field_left_out(path: tuple[Any, ...]) -> None:
    changed = value()
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    if path[-1] in ("help", "body", "reference"):
        read_manifest(encode(changed))
    else:
        refusal(encode(changed))


def test_the_place_is_named() -> None:
    changed = value()
    changed["parts"]["step"]["inputs"][0]["dtype"] = "float31"
    text = refusal(encode(changed))
    assert text.endswith("found 'float31'; export the workflow again [parts.step.inputs[0].dtype]")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_other_versions(version: object) -> None:
    text = refusal(encode(value() | {"version": version, "new field": 1}))
    assert "expected format version 1, found " in text
    assert "guidegraph-runtime" in text


@pytest.mark.parametrize("data", [b"[]", b"{}", b"3", b'{"format": "gguf"}'])
def test_other_files(data: bytes) -> None:
    assert "is this the folder that guidegraph export wrote?" in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"name": "a", "name": "b"}', "found 'name' twice"),
        (b'{"name": {"\\u0061": 1, "a": 2}}', "found 'a' twice"),
        (b'{"name": NaN}', "found NaN"),
        (b'{"name": -Infinity}', "found -Infinity"),
        (b'{"name": 1e999}', "found '1e999'"),
        (b'{"name": 0.' + b"1" * 100_000 + b"}", "expected a finite number"),
        (b'{"name": ' + b"9" * 1_000_000 + b"}", "expected an integer from"),
        (b'{"name": 36893488147419103232}', "expected an integer from"),
        (b'{"name": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b'{"name": "\xff"}', "the byte 0xff at 10"),
        (b"\xef\xbb\xbf{}", "expected JSON"),
        (b'{"name": "a"', "line 1, column 13"),
        (b"", "expected JSON"),
        (b"[" * 1_000_000, "expected at most 32 levels"),
        (b'{"a":' * 1_000_000, "expected at most 32 levels"),
        (b"[" * 40 + b"]" * 40, "expected at most 32 levels"),
        (b'"' + b"a" * MAX_BYTES + b'"', f"expected at most {MAX_BYTES} bytes"),
    ],
    ids=lambda part: part[:20] if isinstance(part, bytes) else "",
)
def test_ambiguous_json(data: bytes, message: str) -> None:
    assert message in refusal(data)


def add_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda changed: changed["files"].update({name: dict(DIGEST)})


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "C:/x", "C:x", "\\\\host\\x", "\\x", "..", "../x", "a/../x", "a/..", "a\\..\\x", "."),
        *("./x", "a/./x", "a//x", "a/", "", "a\\x", "a:x", "x:stream", "a\x00", "a\n", "a\x7f", "a ", " a", "a."),
        *(".hidden", "CON", "a/nul.txt", "Com1", "lpt9.onnx", "bundle.json", "BUNDLE.json", "a*", "a?", "~"),
        *("caf\u00e9", "cafe\u0301", "\u2024\u2024/x", "\uff0e\uff0e", "a\u202eb", "x" * 201, "a/" * 9 + "x"),
    ],
)
def test_file_names_that_some_system_reads_otherwise(name: str) -> None:
    changed = value()
    add_file(name)(changed)
    assert "[files]" in refusal(encode(changed))


@pytest.mark.parametrize(
    "name", ["Parts/step.onnx", "PARTS/other.onnx", "parts/STEP.onnx", "parts/step.onnx/x", "Parts"]
)
def test_file_names_that_meet(name: str) -> None:
    changed = value()
    add_file(name)(changed)
    assert "[files]" in refusal(encode(changed))


@pytest.mark.parametrize(
    ("path", "replacement"),
    [
        (("parts", "step", "file"), "parts/none.onnx"),
        (("parts", "step", "file"), "../step.onnx"),
        (("parts", "step", "externals"), ["none.data"]),
        (("reference", "outputs"), {"total": "none.bin"}),
        (("reference", "outputs"), {"picture": "reference/total.bin"}),
        (("reference", "inputs"), {"scail": 1.0}),
        (("reference", "inputs"), {"scale": "much"}),
        (("reference", "inputs"), {"scale": True}),
        (("reference", "tolerance"), -1),
        (("requires", "opset"), 19),
        (("parts", "total", "outputs"), []),
        (("inputs", "scale"), {"type": "float"}),
        (("inputs", "scale"), {"type": "float", "default": 1, "required": True}),
        (("inputs", "scale"), {"type": "float", "required": False}),
        (("inputs", "scale"), {"type": "int", "default": 1.5}),
        (("inputs", "scale"), {"type": "int", "default": True}),
        (("inputs", "scale"), {"type": "int", "default": [1]}),
        (("inputs", "scale"), {"type": "int", "default": [1, "2"], "many": True}),
        (("inputs", "scale"), {"type": "float", "default": 1, "dtype": "float32"}),
        (("inputs", "scale"), {"type": "tensor", "required": True}),
        (("inputs", "scale"), {"type": "image", "default": "/etc/passwd"}),
        (("inputs", "scale"), {"type": "image", "default": "none.png"}),
        (("inputs", "scale"), {"type": "str", "default": "c", "choices": ["a", "b"]}),
        (("inputs", "scale"), {"type": "str", "default": "a", "choices": []}),
        (("inputs", "scale"), {"type": "str", "default": "a", "choices": ["a", 1]}),
        (("inputs", "scale"), {"type": "bool", "default": True, "choices": [True]}),
        (("inputs", "scale"), {"type": "int", "default": 1, "optional": 1}),
        (("inputs", "scale"), {"type": "int", "required": True, "optional": True}),
        (("inputs", "scale"), {"type": "int", "default": 1, "bounds": {}}),
        (("inputs", "scale"), {"type": "int", "default": 1, "bounds": {"low": "0"}}),
        (("inputs", "scale"), {"type": "int", "default": 1, "bounds": {"low": 2}}),
        (("inputs", "scale"), {"type": "str", "default": "a", "bounds": {"low": 0}}),
        (("outputs",), {"run": {"type": "table", "source": "out"}}),
        (("files", "parts/step.onnx"), {"sha256": "0" * 64, "size": -1}),
        (("files", "parts/step.onnx"), {"sha256": "0" * 64, "size": 2**41}),
        (("files", "parts/step.onnx"), {"sha256": "A" * 64, "size": 3}),
        (("files", "parts/step.onnx"), {"sha256": "0" * 63, "size": 3}),
        (("plan", 0, "out"), ["y", "y"]),
        (("plan", 0, "body", 0, "node"), "stop"),
        (("parts", "step", "inputs"), [{"name": "x", "dtype": "float32", "dims": []}] * 2),
        (("parts", "step", "inputs", 0, "dims"), [-1]),
        (("parts", "step", "inputs", 0, "dims"), [True]),
    ],
    ids=str,
)
def test_values_that_do_not_agree(path: tuple[Any, ...], replacement: Any) -> None:
    refusal(change_at(path, replacement))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("joins", setting) for setting in ([], {"how": 1}, {"indices": 3}, {"why": 3}, {"padded": "rows"})),
        *(("joins", setting) for setting in ({"indices": {"index": None}}, {"padded": [1]})),
        *(("fields", setting) for setting in ([], {"clip": None}, {"clip": {}}, {"clip": {"is": 1, "why": 2}})),
        *(("ranges", setting) for setting in ([], {"scale": 1}, {"scale": {"low": "0"}})),
    ],
    ids=str,
)
def test_settings_of_a_call_of_a_part(name: str, setting: Any) -> None:
    text = refusal(change_at(("plan", 0, "body", 0, "with"), {name: setting}))
    assert f"[plan[0].body[0].with.{name}" in text


SHORTER = {"op": "part", "node": "total", "in": {"x": "x"}, "with": {"when": {"scale": 1}}, "out": ["y"]}


def test_a_part_has_shorter_forms_for_numbers() -> None:
    call = read_manifest(change_at(("plan", 0, "body", 0, "body"), [SHORTER])).plan[0].body
    assert call is not None
    assert call[0].body == (Operation("part", "total", {"x": "x"}, {"when": {"scale": 1}}, ("y",)),)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"op": "noise.gaussian", "node": "noise"}, ""),
        ({"body": [SHORTER]}, ""),
        ({"out": ["other"]}, ".out"),
        ({"node": "none"}, ".node"),
        ({"with": {}}, ".with"),
        ({"with": {"when": {}}}, ".with"),
        ({"with": {"when": 3}}, ".with.when"),
        ({"with": {"when": {"scale": "1"}}}, ".with.when.scale"),
    ],
    ids=str,
)
def test_a_shorter_form_that_does_not_fit_its_part(changes: dict[str, Any], place: str) -> None:
    text = refusal(change_at(("plan", 0, "body", 0, "body"), [SHORTER | changes]))
    assert f"[plan[0].body[0].body[0]{place}" in text


def test_a_table_may_not_take_the_name_of_the_record_and_a_tensor_may() -> None:
    changed = value() | {"outputs": {"run": {"type": "table", "source": "out"}}}
    del changed["reference"]
    assert "expected another name for a table, since a run writes run.json, found 'run'" in refusal(encode(changed))
    changed["outputs"]["run"]["type"] = "tensor"
    assert [*read_manifest(encode(changed)).outputs] == ["run"]


def test_only_an_input_that_needs_it_says_that_it_takes_null() -> None:
    manifest = read_manifest(encode(value()))
    inputs = {"a": Input("int", default=2), "b": Input("int"), "c": Input("int", default=2, optional=True)}
    written = json.loads(write_manifest(replace(manifest, inputs=inputs, reference=None)))["inputs"]
    assert written == {
        "a": {"type": "int", "default": 2},
        "b": {"type": "int", "default": None},
        "c": {"type": "int", "default": 2, "optional": True},
    }
    assert [spec.takes_null for spec in inputs.values()] == [False, True, True]


def test_only_an_input_with_bounds_says_so() -> None:
    manifest = read_manifest(encode(value()))
    inputs = {"a": Input("int", default=2), "b": Input("float", default=0.5, bounds=Range(low=0, below=1))}
    content = write_manifest(replace(manifest, inputs=inputs, reference=None))
    assert json.loads(content)["inputs"] == {
        "a": {"type": "int", "default": 2},
        "b": {"type": "float", "default": 0.5, "bounds": {"low": 0, "below": 1}},
    }


def test_bodies_in_bodies() -> None:
    changed = value()
    body: list[Any] = []
    for _ in range(9):
        body = [{"op": "loop", "node": "sample", "in": {}, "with": {"over": 1}, "out": [], "body": body}]
    assert "at most 8 bodies" in refusal(encode(changed | {"plan": body}))
    read_manifest(encode(changed | {"plan": body[0]["body"][0]["body"]}))


def test_values_for_an_input() -> None:
    assert Input("float").wrong(2) is None
    assert Input("float").wrong(True) == "a number"
    assert Input("int", many=True).wrong([1, 2]) is None
    assert Input("str", choices=("a", "b")).wrong("c") == "one of a, b"
    within = Input("float", many=True, bounds=Range(low=0, high=1))
    assert within.wrong([0, 0.5, 1]) is None
    assert within.wrong(1.5) == within.wrong([0, 1.5]) == "a number of at least 0 and at most 1"
    assert Input("bool").wrong(0) == "true or false"
