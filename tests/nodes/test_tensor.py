"""Tensors from files keep dtype, shape and values; a wrong file or key is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.tensor import as_latent, as_noise, cast, concatenate, load_tensor, select, slice_axis


@pytest.fixture
def array() -> np.ndarray:
    return np.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool", ">f4", "<i2"])
def test_npy_keeps_dtype_and_values(tmp_path: Path, array: np.ndarray, dtype: str) -> None:
    stored = array.astype(dtype)
    np.save(tmp_path / "a.npy", stored)
    with use_device("cpu", "float16"):  # the run's dtype is for new values, not for stored ones
        loaded = load_tensor(path=tmp_path / "a.npy")
    assert loaded.numpy().dtype == stored.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded.numpy(), stored)


def test_a_number_and_columns_first_arrays_keep_their_shape(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "zero.npy", np.float32(3))
    np.save(tmp_path / "order.npy", np.asfortranarray(array))
    assert load_tensor(path=tmp_path / "zero.npy").shape == ()
    np.testing.assert_array_equal(load_tensor(path=tmp_path / "order.npy").numpy(), array)


def test_npz_needs_no_key_where_it_holds_one_array(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "one.npz", x=array)
    np.savez(tmp_path / "two.npz", x=array, y=-array)
    np.testing.assert_array_equal(load_tensor(path=tmp_path / "one.npz").numpy(), array)
    np.testing.assert_array_equal(load_tensor(path=tmp_path / "two.npz", key="y").numpy(), -array)
    with pytest.raises(ValueError, match="holds 2 tensors: choose one with key; keys: x, y"):
        load_tensor(path=tmp_path / "two.npz")


def test_safetensors_keeps_bfloat16(tmp_path: Path) -> None:
    stored = {"latent": torch.ones(1, 4, 2, 2, dtype=torch.bfloat16), "noise": torch.zeros(3)}
    save_file(stored, tmp_path / "t.safetensors")
    loaded = load_tensor(path=tmp_path / "t.safetensors", key="latent")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded, stored["latent"])
    with pytest.raises(ValueError, match="has no tensor 'latents'; did you mean 'latent'"):
        load_tensor(path=tmp_path / "t.safetensors", key="latents")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "plain.npy", np.zeros(2))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    (tmp_path / "broken.npz").write_bytes(b"nothing of the kind")
    for name, key, message in [
        ("objects.npy", "", "objects.npy cannot be read"),
        ("text.npy", "", "none of torch's"),
        ("plain.npy", "x", "leave out key 'x'"),
        ("broken.safetensors", "", "broken.safetensors cannot be read as .safetensors"),
        ("broken.npz", "", "broken.npz cannot be read as .npz"),
        ("tensor.pt", "", "expected a .npy, .npz or .safetensors file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_tensor(path=tmp_path / name, key=key)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_tensor(path=tmp_path / "absent.npy")


def test_batches_are_concatenated_and_selected_from() -> None:
    x, y = torch.zeros(2, 3), torch.ones(1, 3)
    batch = concatenate([x, y])
    assert torch.equal(select(batch, index=2), y)
    assert torch.equal(select(batch, index=-1), y)
    assert torch.equal(select(batch, index=-3), x[:1])
    with pytest.raises(ValueError, match="index 3 is outside of a batch of 3"):
        select(batch, index=3)


def test_conversions_change_no_value() -> None:
    x = torch.rand(1, 3, 4, 4)
    assert as_latent(x) is x
    assert as_noise(x) is x
    assert cast(x, dtype="float64").dtype == torch.float64
    with pytest.raises(ValueError, match="expected 4 axes"):
        as_latent(x[0])


def test_slice_takes_elements_of_any_axis() -> None:
    tensor = torch.arange(12).reshape(3, 4)
    assert slice_axis(tensor, start=1).tolist() == tensor[1:].tolist()
    assert slice_axis(tensor, axis=1, start=1, stop=3).tolist() == tensor[:, 1:3].tolist()
    assert slice_axis(tensor, axis=-1, start=-1).tolist() == tensor[:, -1:].tolist()
    bad: dict[str, int]
    for bad, message in (({"start": 3}, "none of the 3 entries"), ({"axis": 2}, "there is no axis 2")):
        with pytest.raises(ValueError, match=message):
            slice_axis(tensor, **bad)
