"""Weights in files: floats of a dtype, or int8 with scales, which come back within half a scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from guidegraph.nodes.models.model_nodes import load_model, new_unet, save_model
from guidegraph.nodes.models.store import BLOCK, SCALE, pack_weights, unpack_weights


def make_state(seed: int, shape: tuple[int, ...], size: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": size * torch.randn(shape, generator=generator), "a.bias": torch.randn(7, generator=generator)}


@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from([(32, 32), (7, 3, 7, 11), (1, 1025), (2000, 1)]),
    size=st.floats(1e-6, 1e4),
)
def test_int8_comes_back_within_half_a_scale(seed: int, shape: tuple[int, ...], size: float) -> None:
    state = make_state(seed, shape, size)
    packed = pack_weights(state, torch.int8)
    weight, scale = packed["a.weight"], packed["a.weight" + SCALE]
    assert (weight.dtype, weight.shape, scale.dtype) == (torch.int8, shape, torch.float16)
    assert scale.shape == (-(-state["a.weight"].numel() // BLOCK),)
    assert packed["a.bias"].dtype == torch.float16
    restored = unpack_weights(packed)
    error = (restored["a.weight"] - state["a.weight"]).abs().flatten()
    bound = scale.float().repeat_interleave(BLOCK)[: error.numel()]
    largest = torch.nn.functional.pad(state["a.weight"].flatten(), (0, -error.numel() % BLOCK)).reshape(-1, BLOCK)
    rounding = largest.abs().amax(1).repeat_interleave(BLOCK)[: error.numel()] / 1000
    assert bool((error <= bound / 2 + rounding).all())
    assert restored["a.weight"].shape == shape


def test_zeros_and_single_numbers_stay() -> None:
    state = {"zero": torch.zeros(64, 64), "step": torch.tensor(3.0), "index": torch.arange(2000).reshape(2, 1000)}
    restored = unpack_weights(pack_weights(state, torch.int8))
    assert all(torch.equal(restored[name], value) for name, value in state.items())
    assert restored["step"].dtype == torch.float32
    assert restored["index"].dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_values_that_the_dtype_does_not_hold_are_refused(dtype: torch.dtype) -> None:
    state = {"a.weight": torch.full((64, 64), 1e9), "b": torch.full((2, 2), 1e5)}
    with pytest.raises(ValueError, match=r"values up to 1e\+0[59], which torch.float16 does not hold"):
        pack_weights(state, dtype)
    assert pack_weights(state, torch.bfloat16)["b"].isfinite().all()
    diverged = {"a.weight": torch.full((4, 4), torch.inf)}
    assert pack_weights(diverged, dtype)["a.weight"].isinf().all()


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("b:scale", torch.ones(3).half(), "'b:scale' has the scales of no tensor: the file lacks 'b'"),
        ("a:scale", torch.ones(3).half(), r"found torch.int8 \(64, 64\) and torch.float16 \(3,\)"),
        ("a:scale", torch.ones(64), r"expected int8 and a float16 for every 64 values, found .* torch.float32 \(64,\)"),
    ],
)
def test_scales_that_do_not_belong_are_named(name: str, tensor: Tensor, message: str) -> None:
    tensors = {"a": torch.ones(64, 64, dtype=torch.int8), name: tensor}
    with pytest.raises(ValueError, match=message):
        unpack_weights(tensors)


def test_a_model_saved_in_int8_is_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    denoiser = new_unet(seed=1, channels=32, multipliers=(1, 2), attention=(1,))
    for dtype in ("float16", "int8"):
        save_model(denoiser=denoiser, path=tmp_path / dtype, dtype=dtype)
    sizes = {dtype: (tmp_path / dtype / "denoiser.safetensors").stat().st_size for dtype in ("float16", "int8")}
    assert sizes["int8"] < 0.6 * sizes["float16"]
    first, second = (load_model(path=tmp_path / dtype).denoiser.state_dict() for dtype in ("float16", "int8"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=float(value.abs().max()) / 200 + 1e-6)


def test_a_damaged_scale_is_an_error_of_its_model(tmp_path: Path) -> None:
    save_model(denoiser=new_unet(channels=32), path=tmp_path, dtype="int8")
    file = tmp_path / "denoiser.safetensors"
    tensors = load_file(file)
    scale = next(name for name in tensors if name.endswith(SCALE))
    save_file({name: value for name, value in tensors.items() if name != scale}, file)
    with pytest.raises(ValueError, match=r"part 'denoiser' .* cannot be loaded"):
        load_model(path=tmp_path)
