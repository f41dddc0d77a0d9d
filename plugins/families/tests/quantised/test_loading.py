"""Whole checkpoints in few bits are those of their dequantised weights, and hold one dequantised tensor at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.filling import fill
from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor
from guidegraph_families.dit.folder import join_qkv
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.transformers import sd3_writer

pytest.importorskip("diffusers")

SCALE = 1 / 64


def in_fp8(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Matrices in e4m3fn with one scale each, as ComfyUI names them; and all weights as these say, in float32."""
    stored, exact = dict(tensors), dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            stored[name] = (tensor / SCALE).to(torch.float8_e4m3fn)
            stored[f"{name.removesuffix('weight')}scale_weight"] = torch.tensor(SCALE)
            exact[name] = stored[name].to(torch.float32) * SCALE
    return stored, exact


def in_gguf(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Write matrices with rows of 32 in Q8_0 and the rest in float32; all weights as the file says, in float32."""
    gguf: Any = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "sd3")
    exact = dict(tensors)
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            packed = gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            exact[name] = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


def state_of(path: Path, **settings: Any) -> dict[str, Tensor]:
    denoiser: Any = load_checkpoint(path=path, **settings).denoiser
    state: dict[str, Tensor] = denoiser.state_dict()
    assert all(type(tensor.data) is Tensor for tensor in state.values())
    return state


def check_equal(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_single_file_in_fp8_is_that_of_its_values(tmp_path: Path) -> None:
    stored, exact = in_fp8(sd3_writer.single_file(sd3_writer.network("3.5 medium")))
    save_file(stored, tmp_path / "fp8.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in exact.items()}, tmp_path / "exact.safetensors")
    check_equal(state_of(tmp_path / "fp8.safetensors"), state_of(tmp_path / "exact.safetensors"))
    with use_device("cpu", "bfloat16"):
        check_equal(state_of(tmp_path / "fp8.safetensors"), state_of(tmp_path / "exact.safetensors"))


def test_a_diffusers_folder_in_fp8_is_that_of_its_values(tmp_path: Path) -> None:
    sd3_writer.network("3").save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    stored, exact = in_fp8(load_file(file))
    save_file(exact, file)
    expected = state_of(tmp_path)
    save_file(stored, file)
    check_equal(state_of(tmp_path), expected)


def test_a_gguf_is_the_single_file_of_its_values(tmp_path: Path) -> None:
    exact = in_gguf(sd3_writer.single_file(sd3_writer.network("3")), tmp_path / "a.gguf")
    save_file({name: tensor.contiguous() for name, tensor in exact.items()}, tmp_path / "exact.safetensors")
    settings = {"head_channels": 16}
    check_equal(state_of(tmp_path / "a.gguf", **settings), state_of(tmp_path / "exact.safetensors", **settings))


def test_one_dequantised_tensor_exists_at_a_time() -> None:
    alive: set[int] = set()
    most = 0

    def read_rows(start: int, stop: int) -> Tensor:
        nonlocal most
        rows = torch.ones(stop - start, 8)
        alive.add(id(rows))
        weakref.finalize(rows, alive.discard, id(rows))
        most = max(most, len(alive))
        return rows

    module = nn.ModuleDict({"a": nn.ModuleDict({"qkv": nn.Linear(8, 24)}), "b": nn.Linear(8, 8)})
    names = ("a.q.weight", "a.k.weight", "a.v.weight", "b.weight")
    tensors = {name: DeferredTensor((8, 8), read_rows, 64) for name in names}
    biases = {"a.qkv.bias": torch.zeros(24), "b.bias": torch.zeros(8)}
    joined = join_qkv({**tensors, **biases})
    assert most == 0
    with use_device("cpu", "bfloat16"):
        fill(module, joined, "a file")
    assert most == 3  # the three parts of qkv
    assert not alive
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_stable_diffusion_in_plain_fp8_is_that_of_its_values(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = pipelines.single_file(pipelines.pipeline("sd1", tmp_path), "sd1", tmp_path / "sd1.safetensors")
    network = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    stored = {
        name: tensor.to(torch.float8_e4m3fn) if name.startswith(network) and tensor.is_floating_point() else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(stored, tmp_path / "fp8.safetensors")
    save_file({name: tensor.float() for name, tensor in stored.items()}, file)
    quantised, expected = (
        load_checkpoint(path=path, tokenizer=tmp_path / "eos") for path in (tmp_path / "fp8.safetensors", file)
    )
    for part in ("denoiser", "autoencoder", "text"):
        modules: list[Any] = [getattr(checkpoint, part) for checkpoint in (quantised, expected)]
        check_equal(modules[0].state_dict(), modules[1].state_dict())


def test_a_deferred_tensor_becomes_plain_also_in_its_own_dtype() -> None:
    tensor = DeferredTensor((3, 2), lambda start, stop: torch.ones(stop - start, 2), 6)
    for plain in (tensor.float(), tensor.to(torch.float32), tensor.contiguous(), tensor.to(tensor.device), tensor + 0):
        assert type(plain) is Tensor
        assert torch.equal(plain, torch.ones(3, 2))
    assert tensor.numpy().sum() == 6
    assert repr(tensor) == "DeferredTensor((3, 2))"
