"""Weights in fp8 load as their stored values times their scales, and a scale that fits nothing is one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor, count_stored_bytes
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from plugins.families.tests.quantised.mutants import load_mutants

DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2]


def random_weight(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def write(path: Path, **tensors: Tensor) -> Path:
    save_file({name.replace("__", "."): tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def format_mark(**values: Any) -> Tensor:
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_plain_weights_are_those_of_torchs_cast(tmp_path: Path, dtype: torch.dtype, save: Any) -> None:
    weight, bias = random_weight(dtype, 6, 4), random_weight(dtype, 6)
    save({"a.weight": weight, "a.bias": bias, "n": torch.tensor(3)}, tmp_path / "a.pt")
    tensors = read_tensors(tmp_path / "a.pt")
    assert isinstance(tensors["a.weight"], DeferredTensor)
    assert count_stored_bytes(tensors["a.weight"]) == 24
    assert torch.equal(tensors["a.weight"].detach(), weight.float())
    assert torch.equal(tensors["a.bias"].detach(), bias.float())
    assert torch.equal(tensors["n"], torch.tensor(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale", "weight_scale_inv"])
def test_a_scale_multiplies_its_weight(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    weight = random_weight(dtype, 6, 4)
    path = write(tmp_path / "a.safetensors", a__weight=weight, **{f"a.{name}": torch.tensor(0.037)})
    tensors = read_tensors(path)
    assert list(tensors) == ["a.weight"]
    assert torch.equal(tensors["a.weight"].detach(), weight.to(torch.float32) * torch.tensor(0.037))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (300,), (300, 1), (300, 5, 1), (3, 2)])
def test_every_shape_of_a_scale_multiplies_the_values_that_share_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows, columns = 300, 160
    weight = random_weight(torch.float8_e4m3fn, rows, columns)
    scale = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1
    expected = torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            index = {
                1: (0,) * len(shape),
                300: (i, *[0] * (len(shape) - 1)),
                1500: (i, j // 32, 0),
                6: (i // 128, j // 128),
            }[scale.numel()]
            expected[i, j] = weight[i, j].float() * scale[index]
    path = write(tmp_path / "a.safetensors", weight=weight, scale_weight=scale)
    tensor = read_tensors(path)["weight"]
    assert torch.equal(tensor.detach(), expected)
    assert torch.equal(tensor[130:280].detach(), expected[130:280])


def test_a_scale_of_rows_multiplies_kernels_and_half_precision(tmp_path: Path) -> None:
    kernel, half = random_weight(torch.float8_e5m2, 6, 4, 3, 3), random_weight(torch.bfloat16, 6, 4)
    scale = torch.linspace(0.1, 2, 6)
    tensors = read_tensors(
        write(
            tmp_path / "a.safetensors", a__weight=kernel, a__scale_weight=scale, b__weight=half, b__weight_scale=scale
        )
    )
    assert torch.equal(tensors["a.weight"].detach(), kernel.float() * scale.view(6, 1, 1, 1))
    assert torch.equal(tensors["b.weight"].detach(), half.float() * scale.view(6, 1))


def test_marks_and_scales_of_inputs_are_left_out(tmp_path: Path) -> None:
    weight, scale = random_weight(torch.float8_e4m3fn, 6, 4), torch.tensor([2.0])
    path = write(
        tmp_path / "a.safetensors",
        model__scaled_fp8=torch.empty(0, dtype=torch.float8_e4m3fn),
        model__a__weight=weight,
        model__a__scale_weight=scale,
        model__a__scale_input=scale,
        model__b__weight=weight,
        model__b__weight_scale=scale,
        model__b__input_scale=scale,
        model__b__comfy_quant=format_mark(format="float8_e4m3fn", full_precision_matrix_mult=True),
    )
    tensors = read_tensors(path)
    assert list(tensors) == ["model.a.weight", "model.b.weight"]
    assert torch.equal(tensors["model.b.weight"].detach(), 2 * weight.float())


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a__scale_weight": torch.ones(1)}, "no a.weight that it scales"),
        ({"a__weight": torch.ones(6, 4), "a__scale_weight": torch.ones(5)}, r"shape \(5,\), which fits no rows"),
        ({"a__weight": torch.ones(6, 4), "a__scale_weight": torch.ones(6, 3, 1)}, "fits no rows or blocks"),
        ({"a__weight": torch.ones(6, 4), "a__scale_weight": torch.ones(0)}, "fits no rows or blocks"),
        (
            {"a__weight": torch.ones(6, 4), "a__scale_weight": torch.ones(1), "a__weight_scale": torch.ones(1)},
            "two scales of a.weight",
        ),
        ({"a__weight": torch.ones(6, 4).char(), "a__weight_scale": torch.ones(1)}, "a.weight as int8 with scales"),
        ({"a__weight": torch.ones(6, 4), "a__comfy_quant": format_mark(format="nvfp4")}, "names the format 'nvfp4'"),
        ({"a__weight": torch.ones(6, 4), "a__comfy_quant": format_mark(kind="?")}, "not JSON that names a format"),
        ({"a__weight": torch.ones(6, 4), "a__comfy_quant": torch.ones(3).byte()}, "not JSON that names a format"),
    ],
)
def test_what_fits_nothing_is_one_line(tmp_path: Path, tensors: dict[str, Tensor], reason: str) -> None:
    path = write(tmp_path / "a.safetensors", **tensors)
    with pytest.raises(ValueError, match=reason) as caught:
        read_tensors(path)
    assert "a.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mutants_load_or_are_refused(tmp_path: Path) -> None:
    weight, scale = random_weight(torch.float8_e4m3fn, 6, 4), torch.ones(6, 1)
    path = write(
        tmp_path / "a.safetensors",
        a__weight=weight,
        a__weight_scale=scale,
        a__comfy_quant=format_mark(format="float8_e4m3fn"),
    )
    messages = load_mutants(path, [0, 34, 44, 49, 57, 127, 255])
    assert len(messages) > 50
    assert all("mutant.safetensors" in message and "\n" not in message for message in messages)
