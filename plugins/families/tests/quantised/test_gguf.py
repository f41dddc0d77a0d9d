"""GGUF files load as their formats say, a tensor at a time, and a damaged one is one error."""

from __future__ import annotations

import builtins
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.nodes.checkpoints.quantised import gguf_header
from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor, count_stored_bytes
from guidegraph.nodes.checkpoints.quantised.gguf_header import DamagedHeader, read_header
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph_runtime.machine.optional_packages import install_command
from plugins.families.tests.quantised.gguf_reference import FORMATS, random_blocks, values_of
from plugins.families.tests.quantised.mutants import load_mutants
from tests.work_counter import count_calls

gguf: Any = pytest.importorskip("gguf")


def write(path: Path, tensors: dict[str, tuple[Any, Any]], **metadata: Any) -> Path:
    """Write a file with the package's own writer; each tensor is an array, and the type of its bytes or None."""
    writer = gguf.GGUFWriter(path, metadata.pop("arch", "flux"))
    for key, value in metadata.items():
        writer.add_array(key.replace("__", "."), value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def kind_of(name: str) -> Any:
    return gguf.GGMLQuantizationType[name]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_those_of_the_description_and_the_package(tmp_path: Path, name: str) -> None:
    rows, columns = 5, 512
    blocks = random_blocks(name, rows * columns)
    path = write(tmp_path / "a.gguf", {"a.weight": (blocks.reshape(rows, -1), kind_of(name))})
    tensor = read_tensors(path)["a.weight"]
    assert isinstance(tensor, DeferredTensor)
    assert (tensor.shape, tensor.dtype) == ((rows, columns), torch.float32)
    expected = values_of(name, blocks).reshape(rows, columns)
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=2e-6, atol=1e-7)
    by_package = gguf.dequantize(gguf.GGUFReader(path).tensors[0].data, kind_of(name))
    assert np.array_equal(tensor.detach().numpy(), by_package)


def test_every_format_that_the_package_reads_loads(tmp_path: Path) -> None:
    tensors, expected = {}, {}
    for kind in gguf.GGMLQuantizationType:
        size, length = gguf.GGML_QUANT_SIZES[kind]
        data = np.random.default_rng(3).integers(0, 60, (3, 512 // size * length), dtype=np.uint8)
        try:
            expected[kind.name] = gguf.dequantize(data, kind)
        except NotImplementedError:
            continue
        tensors[kind.name] = (data if kind.name not in ("F32", "F16") else expected[kind.name], kind)
        if kind.name == "F16":
            tensors["F16"] = (expected["F16"].astype(np.float16), kind)
    actual = read_tensors(write(tmp_path / "a.gguf", tensors))
    assert len(actual) >= 22
    for name, values in expected.items():
        assert np.array_equal(actual[name].detach().float().numpy(), values, equal_nan=True), name


def test_whole_numbers_and_long_tensors_load(tmp_path: Path) -> None:
    blocks = random_blocks("Q8_0", 3 << 18)
    count = np.arange(6, dtype=np.int32).reshape(2, 3)
    tensors = {"long": (blocks.reshape(3, -1), kind_of("Q8_0")), "steps": (count, None)}
    actual = read_tensors(write(tmp_path / "a.gguf", tensors))
    assert torch.equal(actual["steps"], torch.from_numpy(count))
    expected = gguf.dequantize(blocks.reshape(3, -1), kind_of("Q8_0"))
    assert np.array_equal(actual["long"].detach().numpy(), expected)
    assert count_stored_bytes(actual["long"]) == blocks.nbytes


def test_plain_values_stay_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {"a": (np.ones((2, 3), np.float32), None)})
    tensors = read_tensors(path)
    assert type(tensors["a"]) is torch.Tensor
    assert str(path) in Path("/proc/self/maps").read_text()


def test_cuts_and_joins_stay_deferred_and_are_exact(tmp_path: Path) -> None:
    blocks = random_blocks("Q4_K", 6 * 256)
    weight = read_tensors(write(tmp_path / "a.gguf", {"w": (blocks.reshape(6, -1), kind_of("Q4_K"))}))["w"]
    plain = weight.detach()
    assert type(plain) is torch.Tensor
    first, second, third = weight.chunk(3)
    joined = torch.cat([third, first, torch.ones(1, 256)])
    uneven = weight.split([1, 5])[1]
    for deferred, expected in (
        (second, plain[2:4]),
        (weight[-2:], plain[-2:]),
        (uneven, plain[1:]),
        (joined, torch.cat([plain[4:], plain[:2], torch.ones(1, 256)])),
        (joined[1:5], torch.cat([plain[5:], plain[:2], torch.ones(1, 256)])),
    ):
        assert isinstance(deferred, DeferredTensor)
        assert torch.equal(deferred, expected)
    assert torch.equal(weight.t(), plain.t())
    assert torch.equal(weight[:, 3:9], plain[:, 3:9])
    assert torch.equal(torch.cat([weight, weight], dim=1), torch.cat([plain, plain], dim=1))
    assert torch.equal(weight.to(torch.bfloat16), plain.to(torch.bfloat16))
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.cat([weight, torch.ones(1, 3)])


def test_an_original_shape_is_restored(tmp_path: Path) -> None:
    blocks = random_blocks("Q4_0", 4 * 8 * 3 * 3)
    tensors = {"w": (blocks.reshape(9, -1), kind_of("Q4_0"))}
    path = write(tmp_path / "a.gguf", tensors, comfy__gguf__orig_shape__w=[4, 8, 3, 3])
    weight = read_tensors(path)["w"]
    expected = torch.from_numpy(values_of("Q4_0", blocks)).float().view(4, 8, 3, 3)
    torch.testing.assert_close(weight[1:3].detach(), expected[1:3])
    for wrong in ([4, 8, 3], [-4, -8, 3, 3]):
        path = write(tmp_path / "b.gguf", tensors, comfy__gguf__orig_shape__w=wrong)
        with pytest.raises(ValueError, match="the original shape of 'w'"):
            read_tensors(path)


@pytest.mark.parametrize("arch", ["sd1", "sdxl"])
def test_unets_get_the_names_of_single_files(tmp_path: Path, arch: str) -> None:
    array = (np.ones((2, 3), np.float32), None)
    bare = write(tmp_path / "a.gguf", {"out.2.weight": array}, arch=arch)
    named = write(tmp_path / "b.gguf", {"model.diffusion_model.out.2.weight": array}, arch=arch)
    assert list(read_tensors(bare)) == list(read_tensors(named)) == ["model.diffusion_model.out.2.weight"]


def test_without_the_package_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.gguf", {"a": (np.ones(3, np.float32), None)})
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=re.escape(install_command("gguf"))):
        read_tensors(path)


def header(*parts: tuple[str, Any]) -> bytes:
    """A file's header from codes of struct and values."""
    return b"GGUF" + b"".join(struct.pack(f"<{code}", value) for code, value in parts)


ONE_KEY = (("I", 3), ("Q", 0), ("Q", 1), ("Q", 1), ("1s", b"k"))
TWO_SIDES = (("Q", 23), ("23s", b"comfy.gguf.orig_shape.w"), ("I", 9), ("I", 10), ("Q", 2), ("Q", 0), ("Q", 1 << 63))
EMPTY = (("Q", 1), ("1s", b"w"), ("I", 1), ("Q", 0), ("I", 2), ("Q", 0))
ONE_TENSOR = (("I", 3), ("Q", 1), ("Q", 0), ("Q", 1), ("1s", b"w"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header(("I", 1)), "its version is 1"),
        (b"GGUF" + struct.pack(">I", 3), "little-endian"),
        (header(("I", 3), ("Q", 1 << 60), ("Q", 0)), "declares 1152921504606846976 tensors"),
        (header(("I", 3), ("Q", 0), ("Q", 1)), "ends beyond"),
        (header(*ONE_KEY, ("I", 77)), "type 77"),
        (header(*ONE_KEY, ("I", 9), ("I", 0), ("Q", 1 << 62)), "ends beyond"),
        (header(*ONE_KEY, ("I", 9), ("I", 8), ("Q", 1 << 62)), "list of 4611686018427387904 values"),
        (header(*ONE_KEY, ("I", 9), ("I", 9), ("Q", 1)), "list of 1 values of type 9"),
        (header(*ONE_TENSOR, ("I", 900)), "900 axes"),
        (header(*ONE_TENSOR, ("I", 1), ("Q", 1 << 40), ("I", 0), ("Q", 0)), "'w' ends beyond"),
        (header(*ONE_TENSOR, ("I", 2), ("Q", 0), ("Q", 1 << 63), ("I", 0), ("Q", 0)), "an axis of 9223372036854775808"),
        (header(("I", 3), ("Q", 1), ("Q", 1), *TWO_SIDES, *EMPTY), r"shape of 'w' is \[0, 9223372036854775808\]"),
        (header(*ONE_TENSOR, ("I", 1), ("Q", 33), ("I", 8), ("Q", 0)), "no multiple of Q8_0's 32"),
        (header(*ONE_TENSOR, ("I", 1), ("Q", 4), ("I", 999), ("Q", 0)), "type 999"),
        (header(*ONE_TENSOR, ("I", 1), ("Q", 0), ("I", 9), ("Q", 0)), "this gguf package cannot read"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content + bytes(64 if "beyond" not in reason else 0))
    with pytest.raises(ValueError, match=reason) as caught:
        read_tensors(tmp_path / "a.gguf")
    assert "a.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_text_of_a_long_list_is_passed_over_in_one_call() -> None:
    def read(count: int) -> None:
        read_header(memoryview(header(*ONE_KEY, ("I", 9), ("I", 8), ("Q", count)) + bytes(8 * count)))

    calls = [count_calls(lambda count=count: read(count)) for count in (10, 100_000)]
    assert calls[1] - calls[0] <= 100_000, "one for the length of each text"


def test_a_header_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = header(*ONE_KEY, ("I", 9), ("I", 8), ("Q", 100)) + bytes(8 * 100)
    assert read_header(memoryview(texts)).metadata == {"k": None}
    monkeypatch.setattr(gguf_header, "MAX_BYTES", len(texts))
    assert read_header(memoryview(texts + bytes(64))).metadata == {"k": None}
    for size in (len(texts) - 1, len(texts) - 8, 100, 30):
        monkeypatch.setattr(gguf_header, "MAX_BYTES", size)
        with pytest.raises(DamagedHeader, match=f"^its header ends beyond the longest header, {size} bytes$"):
            read_header(memoryview(texts))


@pytest.mark.parametrize("length", [1, 8, (1 << 63) - 1, (1 << 64) - 1])
def test_a_text_in_a_list_ends_within_the_header(length: int) -> None:
    content = header(*ONE_KEY, ("I", 9), ("I", 8), ("Q", 2), ("Q", 0), ("Q", length))
    with pytest.raises(DamagedHeader, match=f"ends beyond its {len(content)} bytes"):
        read_header(memoryview(content))


def test_mutants_load_or_are_refused(tmp_path: Path) -> None:
    blocks = random_blocks("Q8_0", 64)
    tensors = {"a.weight": (blocks.reshape(2, -1), kind_of("Q8_0")), "b": (np.ones(4, np.float32), None)}
    path = write(tmp_path / "a.gguf", tensors, comfy__gguf__orig_shape__b=[2, 2])
    messages = load_mutants(path, [0, 1, 9, 127, 255])
    assert len(messages) > 50
    assert all("mutant.gguf" in message and "\n" not in message for message in messages)
