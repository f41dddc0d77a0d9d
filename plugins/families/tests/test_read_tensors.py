"""Reads checkpoint files, refuses bad ones with one clear error, and runs nothing in a file."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.filling import fill
from guidegraph.nodes.checkpoints.read_tensors import read_nested, read_tensors


class RunsCode:
    """Creates a folder when it is unpickled, as an attack would."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.made),)


class ModelCheckpoint:
    """Has the name of Lightning's callback in released files."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(3)}


def rezip(source: Path, target: Path, edit: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Copy a zip archive, replacing members by the last part of their names."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w", compression) as out:
        for name in archive.namelist():
            out.writestr(name, edit.get(name.split("/")[-1], archive.read(name)))


def equal_tensors(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("write", "suffix"), [(save_file, "safetensors"), (save_file, "pt"), (torch.save, "bin")])
def test_files_are_identified_by_content_and_mapped(tmp_path: Path, write: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write(weights(), path)
    actual = read_tensors(path)
    assert equal_tensors(actual, weights())
    assert str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema"])
def test_wrapped_weights_are_found(tmp_path: Path, wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: weights(), "optimizer": {"state": {0: {"step": 1}}}}, tmp_path / "a.ckpt")
    assert equal_tensors(read_tensors(tmp_path / "a.ckpt"), weights())


def test_other_content_is_read_with_its_nesting(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(2, 3)}, "name": "cat"}, tmp_path / "a.pt")
    content = read_nested(tmp_path / "a.pt")
    assert content["name"] == "cat"
    assert torch.equal(content["string_to_param"]["*"], torch.ones(2, 3))
    torch.save({"outer": [{"a": torch.zeros(1).expand(1 << 20, 1 << 20)}]}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"its tensors declare .* the largest is 'outer\.0\.a'"):
        read_nested(tmp_path / "b.pt")


def test_ema_weights_come_first(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt")["a"].item() == 1


def test_files_from_before_torch_1_6_are_read(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert equal_tensors(read_tensors(tmp_path / "a.pt"), weights())


def test_training_state_beside_the_weights_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(os)("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
            patched.setitem(__import__("sys").modules, name, module)
        content = {"state_dict": weights(), "callbacks": {ModelCheckpoint: {"best": 0.5}}, "other": ModelCheckpoint()}
        torch.save(content, tmp_path / "a.ckpt")
    assert equal_tensors(read_tensors(tmp_path / "a.ckpt"), weights())


def write_truncated_safetensors(folder: Path) -> Path:
    save_file(weights(), folder / "whole.safetensors")
    path = folder / "short.safetensors"
    path.write_bytes((folder / "whole.safetensors").read_bytes()[:-8])
    return path


def write_huge_header(folder: Path) -> Path:
    path = folder / "header.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b'{"a": 1}')
    return path


def write_truncated_zip(folder: Path) -> Path:
    torch.save(weights(), folder / "whole.pt")
    path = folder / "short.pt"
    path.write_bytes((folder / "whole.pt").read_bytes()[:-200])
    return path


def write_truncated_legacy(folder: Path) -> Path:
    torch.save({"a": torch.ones(1000)}, folder / "whole.pt", _use_new_zipfile_serialization=False)
    path = folder / "short.pt"
    path.write_bytes((folder / "whole.pt").read_bytes()[:-200])
    return path


def write_compressed_member(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1 << 20)}, folder / "whole.pt")
    rezip(folder / "whole.pt", folder / "bomb.pt", {}, zipfile.ZIP_DEFLATED)
    return folder / "bomb.pt"


def write_overlapping_members(folder: Path) -> Path:
    """Every entry of the directory points at the same bytes, so that 1 MB is read as 100 MB."""
    path = folder / "overlap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/data/0", bytes(1 << 20))
        first = archive.infolist()[-1]
        for index in range(1, 100):
            copy = zipfile.ZipInfo(f"a/data/{index}")
            copy.file_size = copy.compress_size = first.file_size
            copy.CRC, copy.header_offset = first.CRC, first.header_offset
            archive.filelist.append(copy)
    return path


def write_expanded_tensor(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, folder / "expanded.pt")
    return folder / "expanded.pt"


def write_tensor_beyond_its_storage(folder: Path) -> Path:
    torch.save({"a": torch.zeros(4)}, folder / "whole.pt")
    with zipfile.ZipFile(folder / "whole.pt") as archive:
        content = archive.read("whole/data.pkl")
    assert content.count(b"K\x04\x85") == 1
    grown = content.replace(b"K\x04\x85", b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85")
    rezip(folder / "whole.pt", folder / "grown.pt", {"data.pkl": grown})
    return folder / "grown.pt"


def writer_of(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def saver_of(content: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(content, folder / "saved.pt")
        return folder / "saved.pt"

    return make


def write_misnamed(folder: Path) -> Path:
    torch.save(weights(), folder / "a.safetensors")
    return folder / "a.safetensors"


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "hello")
    return buffer.getvalue()


def write_torchscript(folder: Path) -> Path:
    torch.save(weights(), folder / "whole.pt")
    with zipfile.ZipFile(folder / "whole.pt") as archive, zipfile.ZipFile(folder / "script.pt", "w") as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
        out.writestr("whole/constants.pkl", b"")
    return folder / "script.pt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write_truncated_safetensors, "damaged or truncated safetensors"),
        (write_huge_header, "damaged or truncated safetensors"),
        (write_truncated_zip, "damaged or truncated checkpoint"),
        (write_truncated_legacy, "damaged or truncated checkpoint"),
        (write_compressed_member, "is compressed, .* may fill the memory"),
        (write_overlapping_members, "its members declare 10.* bytes and the file has 10"),
        (write_expanded_tensor, "its tensors declare 4398046511104 bytes"),
        (write_tensor_beyond_its_storage, "damaged or truncated checkpoint"),
        (write_misnamed, "rename it to .pt"),
        (write_torchscript, "is a TorchScript program"),
        (writer_of("a.pt", b""), "the file is empty"),
        (writer_of("a.pt", b"\x80\x02"), "damaged or truncated checkpoint"),
        (writer_of("a.pt", b"hello, world"), "is not a checkpoint: it begins with b'hello, w'"),
        (writer_of("a.pt", b"<!DOCTYPE html><html>"), "it is a web page"),
        (writer_of("a.pt", b"version https://git-lfs.github.com/spec/v1\n"), "pointer of git-lfs"),
        (writer_of("a.pt", plain_zip()), "a zip archive that torch.save did not write"),
        (saver_of([1, 2]), "holds no weights: expected a dictionary; found a list"),
        (saver_of({"epoch": 3}), "holds no weights: .*; found the keys epoch"),
        (saver_of({}), "holds no weights: .*; found the keys none"),
        (saver_of({"a": torch.eye(2).to_sparse()}), "'a' is not a plain tensor"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "absent.pt", "there is no file"),
    ],
)
def test_other_files_are_refused_with_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("inside", ["state_dict", "callbacks"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, inside: str, legacy: bool) -> None:
    made, path = tmp_path / "made", tmp_path / "evil.ckpt"
    content = {"state_dict": weights(), inside: {"a": RunsCode(made)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"it names posix\.mkdir, which is code .*nothing was run") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # the file would have run it


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(0))


def on_meta() -> Small:
    with torch.device("meta"):
        return Small()


def test_weights_are_cast_frozen_and_in_evaluation_mode() -> None:
    module = on_meta()
    with use_device("cpu", "bfloat16"):
        fill(module, weights(), "a.pt")
    assert module.a.weight.dtype == torch.bfloat16
    assert module.get_buffer("steps").dtype == torch.int64
    assert torch.equal(module.a.weight.float(), weights()["a.weight"])
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_weights_of_the_target_dtype_are_not_copied(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "a.safetensors")
    tensors, module = read_tensors(tmp_path / "a.safetensors"), on_meta()
    fill(module, tensors, "a")
    assert module.a.weight.data_ptr() == tensors["a.weight"].data_ptr()


def test_every_key_that_does_not_fit_is_named_at_once_and_nothing_is_loaded() -> None:
    module = on_meta()
    tensors = {"a.weight": torch.zeros(3, 3), "steps": torch.tensor(0.5)} | {f"b{i}": torch.zeros(1) for i in range(6)}
    with pytest.raises(ValueError, match=r"the weights of 'a\.pt' do not fit") as caught:
        fill(module, tensors, "a.pt")
    message = str(caught.value)
    assert "1 missing: a.bias" in message
    assert "6 left over: b0, b1, b2, b3 and 2 more" in message
    assert "1 of another shape: a.weight (3, 3) for (2, 3)" in message
    assert "1 of another type: steps torch.float32" in message
    assert "\n" not in message
    assert all(value.is_meta for value in module.state_dict().values())


def test_safetensors_whose_first_byte_is_that_of_a_pickle_are_read(tmp_path: Path) -> None:
    """The first byte is the low one of the header's length, so one file in 32 begins with 0x80, as pickles do."""
    path = tmp_path / "model.bin"
    for padding in range(256):
        save_file({"weight": torch.ones(2)}, path, metadata={"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert torch.equal(read_tensors(path)["weight"], torch.ones(2))
