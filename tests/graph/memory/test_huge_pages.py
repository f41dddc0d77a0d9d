"""Memory for weights: in huge pages where they are large, ordinary memory elsewhere."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from guidegraph.graph.device_context import use_device
from guidegraph.graph.hardware.policy import HUGE_PAGE, HUGE_WEIGHT, ComputePolicy
from guidegraph.graph.memory.huge_pages import allocate_weight
from guidegraph.nodes.checkpoints.filling import LayerRows, fill, join_rows
from guidegraph.nodes.checkpoints.read_tensors import read_tensors

THP = Path("/sys/kernel/mm/transparent_hugepage")
needs_huge_pages = pytest.mark.skipif(
    sys.platform != "linux" or not THP.is_dir() or mmap.PAGESIZE != 4096,
    reason="Linux with huge pages of 2 MiB alone reports them",
)
ROWS, COLUMNS = 1024, 1200
"""A weight of 4.7 MiB in float32: two huge pages and a rest."""


def advised_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor in memory for which huge pages were asked; raises for advice that reaches beyond it."""
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    total = low = high = 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            low, high = (int(address, 16) for address in span.groups())
        elif line.startswith("VmFlags:") and "hg" in line.split() and low < last and first < high:
            assert first <= low < high <= last, "pages beyond the weight would take memory"
            total += high - low
    return total


def test_large_weights_on_a_cpu_take_huge_pages() -> None:
    for device, sizes in (("cpu", [HUGE_WEIGHT]), ("cpu:0", [HUGE_WEIGHT]), ("cuda", []), ("meta", [])):
        policy = ComputePolicy(device)
        assert [size for size in (0, HUGE_WEIGHT - 1, HUGE_WEIGHT) if policy.takes_huge_pages(size)] == sizes


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (HUGE_WEIGHT // 2,), (3, 5), (0, 7), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_a_weight_is_a_plain_tensor_of_its_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with torch.device("meta"):
        weight = allocate_weight(shape, dtype)
    assert (weight.shape, weight.dtype, weight.device) == (shape, dtype, torch.device("cpu"))
    assert weight.is_contiguous()
    assert weight.untyped_storage().nbytes() == weight.nbytes
    other = allocate_weight(shape, dtype).zero_()
    values = torch.ones(shape).to(dtype)
    weight.copy_(values)
    assert torch.equal(weight.float(), values.float())
    assert not other.float().any()


@needs_huge_pages
def test_all_whole_pages_of_a_large_weight_are_huge_and_none_beyond_it() -> None:
    assert advised_bytes(allocate_weight((ROWS, COLUMNS), torch.float32)) == 2 * HUGE_PAGE
    assert advised_bytes(allocate_weight((2 * HUGE_WEIGHT,), torch.int8)) == 2 * HUGE_WEIGHT
    assert advised_bytes(allocate_weight((3, 5), torch.float32)) == 0


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), OSError(12, "Cannot allocate memory")])
def test_other_pages_serve_where_the_system_has_no_huge_ones(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(*args: object, **settings: object) -> mmap.mmap:
        raise error

    monkeypatch.setattr(mmap, "mmap", refuse)
    weight = allocate_weight((ROWS, COLUMNS), torch.float32).fill_(2)
    assert weight.sum() == 2 * ROWS * COLUMNS


@needs_huge_pages
def test_weights_that_are_joined_or_cast_as_they_load_lie_in_huge_pages(tmp_path: Path) -> None:
    stored = {f"{name}.weight": torch.randn(ROWS, COLUMNS) for name in ("first", "second", "plain")}
    save_file(stored, tmp_path / "a.safetensors")
    layers = {"first": LayerRows("joined", 0, ROWS), "second": LayerRows("joined", ROWS, ROWS)}
    tensors = join_rows(read_tensors(tmp_path / "a.safetensors"), layers)
    assert advised_bytes(tensors["joined.weight"]) == 4 * HUGE_PAGE
    assert advised_bytes(tensors["plain.weight"]) == 0, "it stays in the file"
    expected = torch.cat([stored["first.weight"], stored["second.weight"]])
    assert torch.equal(tensors["joined.weight"], expected)

    with torch.device("meta"):
        module = nn.ModuleDict({"joined": nn.Linear(COLUMNS, 2 * ROWS, bias=False)})
    with use_device("cpu", "bfloat16"):
        fill(module, {"joined.weight": tensors["joined.weight"]}, "a.safetensors")
    weight = module["joined"].weight
    assert isinstance(weight, nn.Parameter)
    assert torch.equal(weight, expected.to(torch.bfloat16))
    assert advised_bytes(weight) == 2 * HUGE_PAGE
