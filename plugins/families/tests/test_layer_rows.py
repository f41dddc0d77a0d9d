"""Layers that a file stores apart: joined in the order of their rows, or left as they are if they do not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph.nodes.checkpoints.filling import LayerRows, join_rows
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph_families.dit.folder import join_qkv

LAYERS = {f"a.{letter}": LayerRows("a.qkv", 2 * number, 2) for number, letter in enumerate("qkv")}


def join_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return join_rows(tensors, LAYERS)


@pytest.mark.parametrize("join", [join_layers, join_qkv])
def test_parts_are_joined_in_the_order_of_their_rows(join: Callable[..., dict[str, Tensor]]) -> None:
    parts = {f"a.{letter}.weight": torch.randn(2, 3) for letter in "vkq"}
    joined = join({**parts, "b.weight": torch.ones(1)})
    assert joined.keys() == {"a.qkv.weight", "b.weight"}
    assert torch.equal(joined["a.qkv.weight"], torch.cat([parts[f"a.{letter}.weight"] for letter in "qkv"]))


@pytest.mark.parametrize("join", [join_layers, join_qkv])
@pytest.mark.parametrize("key", [torch.zeros(2, 4), torch.zeros(2), torch.zeros(()), None])
def test_parts_that_do_not_fit_together_stay(join: Callable[..., dict[str, Tensor]], key: Tensor | None) -> None:
    parts = {"a.q.weight": torch.zeros(2, 3), "a.v.weight": torch.zeros(2, 3)}
    tensors = parts if key is None else {**parts, "a.k.weight": key}
    assert join(tensors).keys() == tensors.keys()


def test_the_halves_of_a_layer_are_swapped() -> None:
    rows = {"norm": LayerRows("head", swapped=True)}
    assert join_rows({"norm.bias": torch.arange(4)}, rows)["head.bias"].tolist() == [2, 3, 0, 1]
    assert join_rows({"norm.bias": torch.tensor(1)}, rows).keys() == {"norm.bias"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("join", [join_layers, join_qkv])
def test_joined_parts_of_a_mapped_file_leave_memory(join: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    parts = {f"a.{letter}.weight": torch.randn(2, 1 << 20) for letter in "qkv"}
    save_file(parts, tmp_path / "a.safetensors")
    tensors = read_tensors(tmp_path / "a.safetensors")
    before = file_memory()
    joined = join(tensors)["a.qkv.weight"]
    assert file_memory() - before < joined.nbytes / 4
    assert torch.equal(joined, torch.cat([*parts.values()]))
    assert all(torch.equal(tensors[name], part) for name, part in parts.items()), "they come back from the file"
    assert file_memory() - before > joined.nbytes / 2


def file_memory() -> int:
    """Bytes of files in this process's memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile:"))
