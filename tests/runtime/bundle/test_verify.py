"""A bundle is refused before a session is created unless it matches its `bundle.json` and reads only its own files."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from guidegraph_runtime.bundle import folder, onnx_graph, onnx_wire
from guidegraph_runtime.bundle.onnx_graph import newest_opsets, read_graph
from guidegraph_runtime.bundle.onnx_wire import MESSAGES, Malformed
from guidegraph_runtime.bundle.verify import open_bundle
from guidegraph_runtime.errors import BundleError
from tests.runtime.running.bundles import (
    WEIGHTS,
    external,
    in_body,
    inline_tensor,
    manifest_value,
    model,
    seal_manifest,
    step_graph,
    write_bundle,
)
from tests.work_counter import count_calls

FILES = (
    "parts/step.onnx",
    "parts/step.onnx.data",
    "parts/total.onnx",
    "reference/total.bin",
    "tokenizer/tokenizer.json",
)
ALL_FILES = (*FILES, "bundle.json")

links = pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this module does, no session is made."""
    import onnxruntime

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def refusal(path: Path, code: str = "bad-file", **options: int) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, **options)
    text = str(caught.value)
    assert f": {code}: expected " in text
    assert ", found" in text
    assert "; " in text
    return text


def test_a_good_bundle_is_held_in_memory(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.name == "tiny"
    assert opened.externals("step") == {"step.onnx.data": WEIGHTS.tobytes()}
    assert opened.externals("total") == {}
    for name in FILES:
        assert opened.data(name) == (bundle / name).read_bytes()
    shutil.rmtree(bundle)
    assert opened.data("tokenizer/tokenizer.json") == b"{}"
    assert "step.onnx.data" in repr(opened)
    assert repr(WEIGHTS.tobytes()) not in repr(opened)


def test_released_and_unknown_bytes(bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.release(["parts/step.onnx.data"])
    with pytest.raises(BundleError, match=r"step\.onnx\.data: bad-file: .* open the bundle again"):
        opened.externals("step")
    with pytest.raises(BundleError, match="no such name"):
        opened.data("../bundle.json")


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("fraction", [0, 0.5, -1], ids=["first", "middle", "last"])
def test_one_byte_changed(bundle: Path, name: str, fraction: float) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[int(fraction * len(data)) if fraction == 0.5 else int(fraction)] ^= 1
    (bundle / name).write_bytes(data)
    text = refusal(bundle, "bad-manifest" if name == "bundle.json" else "bad-file")
    assert str(bundle / name) in text
    if name != "bundle.json":
        assert "the file was changed" in text


@pytest.mark.parametrize("name", ALL_FILES)
def test_one_byte_more_or_less(bundle: Path, name: str) -> None:
    data = (bundle / name).read_bytes()
    for changed in (data[:-1], data + b"\n", b""):
        (bundle / name).write_bytes(changed)
        refusal(bundle, "bad-manifest" if name == "bundle.json" else "bad-file")


@pytest.mark.parametrize("name", ALL_FILES)
def test_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{bundle / name}: bad-file: expected a file, found nothing" in refusal(bundle)


@links
@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("flags", [folder._FLAGS, os.O_RDONLY], ids=["", "without O_NOFOLLOW"])
def test_link_in_place_of_a_file(
    bundle: Path, tmp_path: Path, name: str, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_FLAGS", flags)
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert "found a link" in refusal(bundle)


@links
def test_link_to_a_file_of_the_bundle(bundle: Path) -> None:
    (bundle / "parts" / "total.onnx").unlink()
    (bundle / "parts" / "total.onnx").symlink_to("step.onnx")
    assert "found a link" in refusal(bundle)


@links
@pytest.mark.parametrize("name", ["parts", "tokenizer"])
def test_link_in_place_of_a_folder(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert "found a link" in refusal(bundle)


@links
def test_folder_that_becomes_a_link_after_the_listing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(*_: object) -> None:
        (bundle / "parts").rename(tmp_path / "elsewhere")
        (bundle / "parts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    monkeypatch.setattr("guidegraph_runtime.bundle.verify.check_listing", swap)
    assert "expected a folder, found a link" in refusal(bundle)


@links
def test_file_that_is_replaced_while_it_is_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def swap(path: str, flags: int) -> int:
        if str(path).endswith("total.onnx"):
            shutil.copy(path, f"{path}.new")
            os.replace(f"{path}.new", path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", swap)
    assert "found that it was replaced" in refusal(bundle)


@links
@pytest.mark.parametrize("name", ALL_FILES)
def test_hard_link(bundle: Path, tmp_path: Path, name: str) -> None:
    os.link(bundle / name, tmp_path / "second name")
    assert "2 hard links" in refusal(bundle)


@links
def test_hard_link_to_a_file_from_outside(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (bundle / "parts/step.onnx.data").unlink()
    os.link(tmp_path / "secret", bundle / "parts/step.onnx.data")
    assert "2 hard links" in refusal(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ALL_FILES)
def test_pipe_does_not_block(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert "found a folder or a device" in refusal(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_that_comes_while_a_file_is_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def swap(path: str, flags: int) -> int:
        assert flags & os.O_NONBLOCK, "it would wait for ever"
        os.unlink(path)
        os.mkfifo(path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", swap)
    assert "found a folder or a device" in refusal(bundle)


def test_folder_in_place_of_a_file(bundle: Path) -> None:
    (bundle / "parts/total.onnx").unlink()
    (bundle / "parts/total.onnx").mkdir()
    refusal(bundle)


@pytest.mark.parametrize("name", ["more.txt", "parts/custom_op.so", ".hidden", "tokenizer/tokenizer.JSON", "empty/"])
def test_unlisted_file_or_folder(bundle: Path, name: str) -> None:
    if name.endswith("/"):
        (bundle / name).mkdir()
    else:
        (bundle / name).write_bytes(b"")
    text = refusal(bundle)
    assert f"expected only what bundle.json lists, found '{name.rstrip('/')}' too" in text


@links
def test_unlisted_link(bundle: Path) -> None:
    (bundle / "more").symlink_to("bundle.json")
    assert "found a link" in refusal(bundle)


@links
def test_the_way_to_a_bundle_may_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle, target_is_directory=True)
    assert open_bundle(tmp_path / "latest").path == bundle


@pytest.mark.parametrize("name", ["none", "bundle/bundle.json"])
def test_no_bundle_at_all(bundle: Path, name: str) -> None:
    assert "expected the folder of a bundle" in refusal(bundle.parent / name)


@links
def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "expected the folder of a bundle" in refusal(tmp_path / "a")
    assert "expected the folder of a bundle" in refusal(tmp_path / "a\x00")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
@pytest.mark.parametrize("name", ["parts", "parts/step.onnx", "bundle.json"])
def test_file_without_read_permission(bundle: Path, name: str) -> None:
    (bundle / name).chmod(0)
    text = refusal(bundle)
    (bundle / name).chmod(0o700)
    assert "check its permissions" in text


def test_folder_that_cannot_be_listed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    text = refusal(bundle)
    assert f"{bundle}: bad-file: expected a folder that can be read, found: Permission denied" in text


def test_too_large_a_bundle(bundle: Path) -> None:
    size = sum((bundle / name).stat().st_size for name in FILES)
    assert f"at most {size - 1} bytes in all, found {size}" in refusal(bundle, max_bytes=size - 1)
    open_bundle(bundle, max_bytes=size)


def test_sizes_that_are_only_claimed(tmp_path: Path) -> None:
    def claim(value: dict[str, Any]) -> None:
        value["files"]["parts/step.onnx.data"]["size"] = 2**35

    assert f"expected {2**35} bytes, found 16" in refusal(write_bundle(tmp_path, change=claim))


def test_manifest_larger_than_any_is(bundle: Path) -> None:
    with (bundle / "bundle.json").open("r+b") as file:
        file.truncate(2**34)  # sparse
    assert "expected at most 16777216 bytes, found 17179869184" in refusal(bundle)


@pytest.mark.parametrize("name", ["../secret", "parts/../../secret", "/etc/passwd", "C:\\x", "parts\\x", "a:b", "con"])
def test_listed_names_that_leave_the_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"")

    def add(value: dict[str, Any]) -> None:
        value["files"][name] = {"sha256": "0" * 64, "size": 0}

    refusal(write_bundle(tmp_path / "bundle", change=add), "bad-manifest")


def test_wrong_version(bundle: Path) -> None:
    (bundle / "bundle.json").write_bytes(seal_manifest(manifest_value() | {"version": 2}))
    assert "expected format version 1, found 2" in refusal(bundle, "bad-manifest")


@pytest.mark.parametrize("data", [b'{"format": "a", "format": "b"}', b"[" * 100_000, b'{"version": 1e9999}'])
def test_ambiguous_manifest(bundle: Path, data: bytes) -> None:
    (bundle / "bundle.json").write_bytes(data)
    refusal(bundle, "bad-manifest")


# The graphs.


def externals(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        value["parts"]["step"]["externals"] = list(names)

    return change


def graph_refusal(root: Path, step: ModelProto | bytes, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    text = refusal(write_bundle(root / "bundle", step, change=change), "bad-graph")
    assert str(root / "bundle" / "parts" / "step.onnx") in text
    return text


@pytest.mark.parametrize(
    "location",
    [
        *("../step.onnx.data", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "\\\\host\\x", "a:b", "./step.onnx.data"),
        *(
            "step.onnx.data/",
            "STEP.ONNX.DATA",
            "none.data",
            "step.onnx",
            "",
            "*/_ORT_MEM_ADDR_/*",
            "step.onnx.data\x00",
        ),
    ],
)
def test_weights_outside_of_the_manifest(tmp_path: Path, location: str) -> None:
    graph_refusal(tmp_path, model(step_graph(weights=external("w", location, [4]))))


def test_weights_in_a_file_that_another_part_may_read(tmp_path: Path) -> None:
    text = graph_refusal(tmp_path, model(step_graph()), externals())
    assert "expected weights in no file, found 'parts/step.onnx.data'" in text


def constant(tensor: TensorProto) -> NodeProto:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
    return node


@pytest.mark.parametrize("tensor_kind", ["constant", "body", "sparse"])
@pytest.mark.parametrize("location", ["step.onnx.data", "../secret"])
def test_weights_that_onnxruntime_would_look_for_in_the_current_folder(
    tmp_path: Path, tensor_kind: str, location: str
) -> None:
    tensor = external("w", location, [4])
    graph = step_graph()
    if tensor_kind == "constant":
        graph = step_graph([constant(tensor)])
    elif tensor_kind == "body":
        graph = step_graph([in_body(helper.make_node("Add", ["x", "w"], ["y"]), [tensor])])
    else:
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    text = graph_refusal(tmp_path, model(graph))
    assert "weights of a body or a constant in another file" in text


@pytest.mark.parametrize(
    ("offset", "length", "dims"),
    [
        *((4, None, [4]), (16, None, [1]), (2**63, None, [4]), (0, None, [5]), (0, None, [2**62, 4])),
        *((0, 15, [4]), (0, 17, [4]), (0, 0, [4]), ("-4", None, [4]), ("0x0", None, [4]), ("", None, [4])),
        *(("\u0661", None, [3]), ("1e1", None, [1]), ("9" * 400, None, [4]), (0, None, [-1])),
    ],
)
def test_weights_beyond_their_file(tmp_path: Path, offset: int | str, length: int | None, dims: list[int]) -> None:
    graph_refusal(tmp_path, model(step_graph(weights=external("w", "step.onnx.data", dims, offset, length))))


@pytest.mark.parametrize(("offset", "length", "dims"), [(0, None, [4]), (4, 12, [3]), (16, None, [0]), (12, 4, [])])
def test_weights_inside_of_their_file(tmp_path: Path, offset: int, length: int | None, dims: list[int]) -> None:
    tensor = external("w", "step.onnx.data", dims, offset, length)
    opened = open_bundle(write_bundle(tmp_path, model(step_graph(weights=tensor))))
    (weights,) = opened.graphs["step"].externals
    assert (weights.name, weights.location, weights.offset) == ("w", "step.onnx.data", offset)
    assert weights.size == (length if length is not None else 4 * dims[0])


def test_weights_that_the_graph_does_not_read(tmp_path: Path) -> None:
    text = graph_refusal(tmp_path, model(step_graph(weights=inline_tensor("w", [1, 2, 3, 4]))))
    assert "expected weights in 'parts/step.onnx.data'" in text


@pytest.mark.parametrize(
    ("entries", "data_location"),
    [
        *(
            ([("location", "step.onnx.data")], 0),
            ([("location", "step.onnx.data")], 2),
            ([("offset", "0")], 1),
            ([], 1),
        ),
        *(([("location", "step.onnx.data"), ("elsewhere", "x")], 1), ([("location", "step.onnx.data")] * 2, 1)),
    ],
)
def test_weights_that_are_neither_here_nor_there(
    tmp_path: Path, entries: list[tuple[str, str]], data_location: int
) -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[4])
    tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in entries)
    # By hand, since the library does not write a data location that it does not know.
    graph_refusal(tmp_path, with_weights(tensor.SerializeToString() + bytes([14 << 3, data_location])))


def with_weights(tensor: bytes) -> bytes:
    """The bytes of a model whose only initializer is `tensor`."""
    graph = step_graph()
    del graph.initializer[:]
    onnx_model = model(graph)
    onnx_model.ClearField("graph")
    return bytes(onnx_model.SerializeToString()) + field(7, graph.SerializeToString() + field(5, tensor))


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.preview.training", "my.ops", "AI.ONNX", "ai.onnx.ml.x"])
@pytest.mark.parametrize("in_branch", [False, True])
def test_operators_of_other_domains(tmp_path: Path, domain: str, in_branch: bool) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
    text = graph_refusal(tmp_path, model(step_graph([in_body(node) if in_branch else node])))
    assert f"expected standard operators only, found 'Add' of the domain '{domain}'" in text


def test_names_that_would_speak_to_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\nfine\u202e"
    for text in (
        graph_refusal(tmp_path / "a", model(step_graph([helper.make_node(name, ["x"], ["y"], domain="d")]))),
        graph_refusal(tmp_path / "b", model(step_graph(weights=external(name, name, [4])))),
        graph_refusal(tmp_path / "c", model(step_graph(), {"": 20, name: 1})),
    ):
        assert text.isprintable()
        assert "\\x1b[2J" in text


@links
def test_name_of_a_file_that_would_speak_to_a_terminal(bundle: Path) -> None:
    (bundle / "\x1b[2J").write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    assert str(caught.value).isprintable()


def test_functions_that_a_graph_brings_along(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    function = helper.make_function("own", "F", ["x", "w"], ["y"], [add], [helper.make_opsetid("", 20)])
    node = helper.make_node("F", ["x", "w"], ["y"], domain="own")
    text = graph_refusal(tmp_path, model(step_graph([node]), {"": 20, "own": 1}, [function]))
    assert "found functions of its own; put their nodes in their places" in text


@pytest.mark.parametrize(
    ("opsets", "message"),
    [
        ({"": 27}, "expected opset 1 to 26"),
        ({"": 2**62}, "expected opset 1 to 26"),
        ({"": 0}, "expected opset 1 to 26"),
        ({"": 20, "ai.onnx.ml": 6}, "of 'ai.onnx.ml', found 6"),
        ({"": 20, "com.microsoft": 1}, "found that of 'com.microsoft'"),
        ({"": 21}, "expected the operator sets {'': 20}, found {'': 21}"),
    ],
)
def test_operator_sets(tmp_path: Path, opsets: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegraph_runtime.bundle.verify.newest_opsets", lambda: {"": 26, "ai.onnx.ml": 5})
    assert message in graph_refusal(tmp_path, model(step_graph(), opsets))


def test_operator_set_under_its_other_name(tmp_path: Path) -> None:
    open_bundle(write_bundle(tmp_path, model(step_graph(), {"ai.onnx": 20})))


def test_newest_operator_sets() -> None:
    assert newest_opsets("1.23.2") == {"": 23, "ai.onnx.ml": 5}
    assert newest_opsets("1.25.0")[""] == 25
    assert newest_opsets("2.0.0.dev3")[""] == 26
    assert 23 <= newest_opsets()[""] <= 26


@pytest.mark.parametrize("message", sorted(MESSAGES))
def test_the_fields_equal_those_of_onnx(message: str) -> None:
    fields = getattr(onnx, message).DESCRIPTOR.fields
    assert {f.number: (f.name, f.is_repeated) for f in fields} == {
        number: (ours.name, ours.many) for number, ours in MESSAGES[message].items()
    }
    for onnx_field in fields:
        kind = onnx_field.message_type.name if onnx_field.message_type else None
        # Texts about the graph are not looked into; those of external_data are.
        looked_into = kind in MESSAGES and onnx_field.name != "metadata_props"
        assert MESSAGES[message][onnx_field.number].message == (kind if looked_into else None)


def test_bits_of_the_data_types() -> None:
    unknown = {name for name, kind in TensorProto.DataType.items() if kind not in onnx_graph._BITS}
    assert unknown <= {"UNDEFINED", "STRING", "FLOAT6E2M3", "FLOAT6E3M2"}
    for kind in onnx_graph._BITS:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        four_bits = {"int4", "uint4", "float4_e2m1fn"}
        two_bits = {"int2", "uint2"}
        bits = 4 if dtype.name in four_bits else 2 if dtype.name in two_bits else 8 * dtype.itemsize
        assert onnx_graph._BITS[kind] == bits, dtype.name


GOOD = model(step_graph()).SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no graph"),
        (b"not an ONNX file", "field"),
        (b"\x08\x08ORTM" + b"\0" * 20, "ModelProto"),
        (GOOD[:-1], "longer than its message"),
        (GOOD + b"\x28", "beyond its message"),
        (GOOD + b"\x28" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (GOOD + b"\x28" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (GOOD + b"\x0b\x0c", "wire type 3"),
        (GOOD + b"\x00\x00", "field 0"),
        (GOOD + field(99, b""), "field 99"),
        (GOOD + field(1, b""), "field 1 of wire type 2"),
        (GOOD + field(7, b""), "ModelProto.graph twice"),
        (GOOD + field(20, b""), "training_info"),
        (GOOD + field(26, b""), "configuration"),
        (field(7, b""), "no operator set"),
        (GOOD + field(8, b"\x10\x14"), "one operator set twice"),
        (GOOD + field(8, field(1, b"ai.onnx") + b"\x10\x14"), "one operator set twice"),
        (GOOD + field(8, field(1, b"\xff")), "not UTF-8"),
        (GOOD + field(8, field(1, b"a" * 5000)), "4096"),
    ],
)
def test_bytes_that_are_no_graph(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in graph_refusal(tmp_path, data)


def test_every_cut_of_a_graph_is_refused_or_a_graph() -> None:
    cuts = 0
    for end in range(len(GOOD)):
        try:
            read_graph(GOOD[:end])
        except Malformed:
            cuts += 1
    assert cuts > len(GOOD) - 4


def test_nothing_hides_in_damaged_graphs() -> None:
    """The protobuf library reads any graph that this reader accepts in the same way."""
    draw = random.Random(0)
    accepted = 0
    for _ in range(6000):
        data = bytearray(GOOD)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            graph = read_graph(bytes(data))
        except Malformed:
            continue
        try:
            seen = ModelProto.FromString(bytes(data))
        except DecodeError:
            continue
        accepted += 1
        outside = [tensor for tensor in seen.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
        assert [{e.key: e.value for e in tensor.external_data}["location"] for tensor in outside] == [
            tensor.location for tensor in graph.externals
        ]
        assert graph.operators == {(node.domain, node.op_type) for node in seen.graph.node}
    assert 300 < accepted < 5500


def nest(levels: int) -> bytes:
    graph = b""
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return field(8, varint(2 << 3) + varint(20)) + field(7, graph)


def test_graphs_in_graphs_without_end() -> None:
    read_graph(nest(15))
    for levels in (16, 17, 3000):
        with pytest.raises(Malformed, match="more than 16 graphs in each other"):
            read_graph(nest(levels))


@pytest.mark.parametrize("graph", [field(1, field(1, b"")) * 10**5, field(5, field(1, b"\x01" * 10**6))])
def test_work_is_bounded(graph: bytes) -> None:
    data = field(7, graph)

    def read() -> None:
        with pytest.raises(Malformed, match="more fields than any graph has"):
            read_graph(data, max_fields=10_000)

    assert count_calls(read) < 20 * 10_000
    assert onnx_wire.MAX_FIELDS <= 4_000_000


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = """
import sys
import guidegraph_runtime, guidegraph_runtime.bundle.verify, guidegraph_runtime.sessions.sessions
heavy = ("onnxruntime", "onnx", "torch", "PIL", "tokenizers", "google.protobuf")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
