"""The policy of a device: layouts, emulated dtypes, and what a person is told about them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from guidegraph.graph.hardware import policy
from guidegraph.graph.hardware.policy import PACKED_PIXELS, ComputePolicy, Layout
from tests.graph.engine_nodes import run_text

CPU = ComputePolicy("cpu")
WORKFLOW = "nodes: {number: {use: toy.number}}\noutputs: {number: number}"


def fake_processor(
    monkeypatch: pytest.MonkeyPatch, *, avx512: bool = False, bf16: bool = False, fp16: bool = False
) -> None:
    """An x86 processor with these instruction sets."""
    monkeypatch.setattr(policy, "is_x86", lambda: True)
    monkeypatch.setattr(policy, "has_avx512", lambda: avx512)
    monkeypatch.setattr(policy, "computes_bf16", lambda device: bf16)
    monkeypatch.setattr(policy, "computes_fp16", lambda device: fp16)


@pytest.mark.parametrize(
    ("dtype", "small", "large"),
    [
        (torch.float32, "packed", "as_given"),
        (torch.bfloat16, "packed", "channels_last"),
        (torch.float16, "as_given", "as_given"),
        (torch.float64, "as_given", "as_given"),
        (torch.complex64, "as_given", "as_given"),
    ],
)
def test_the_layout_depends_on_device_dtype_and_size(dtype: torch.dtype, small: Layout, large: Layout) -> None:
    assert CPU.layout(dtype, PACKED_PIXELS) == small
    assert CPU.layout(dtype, PACKED_PIXELS + 1) == large
    for device in ("cuda", "cuda:1", "meta"):
        assert {ComputePolicy(device).layout(dtype, pixels) for pixels in (1, PACKED_PIXELS + 1)} == {"as_given"}


@pytest.mark.parametrize(("keys", "spare"), [(7, 0), (8, 8), (16, 0), (24, 8), (77, 3), (154, 6), (168, 0), (1024, 0)])
def test_keys_are_filled_up_for_wide_kernels_alone(monkeypatch: pytest.MonkeyPatch, keys: int, spare: int) -> None:
    monkeypatch.setattr(policy, "vectorises_in_avx512", lambda: True)
    assert CPU.spare_keys(torch.float32, keys) == spare
    assert CPU.spare_keys(torch.bfloat16, keys) == 0
    assert ComputePolicy("cuda").spare_keys(torch.float32, keys) == 0
    monkeypatch.setattr(policy, "vectorises_in_avx512", lambda: False)
    assert CPU.spare_keys(torch.float32, keys) == 0


@pytest.mark.parametrize(
    ("width", "keys", "spare"), [(1, 128, 15), (8, 128, 8), (8, 127, 0), (9, 128, 0), (16, 1024, 0)]
)
def test_narrow_heads_are_widened_on_amd_alone(
    monkeypatch: pytest.MonkeyPatch, width: int, keys: int, spare: int
) -> None:
    monkeypatch.setattr(policy, "is_amd", lambda: True)
    assert CPU.spare_width(torch.float32, width, 128, keys) == spare
    assert CPU.spare_width(torch.bfloat16, width, 128, keys) == 0
    assert ComputePolicy("cuda").spare_width(torch.float32, width, 128, keys) == 0
    monkeypatch.setattr(policy, "is_amd", lambda: False)
    assert CPU.spare_width(torch.float32, width, 128, keys) == 0


@pytest.mark.parametrize(
    ("dtype", "processor", "factor", "choice"),
    [
        ("float16", {}, "8 to 37", "choose float32, the default"),
        ("bfloat16", {}, "8 to 37", "choose float32, the default"),
        ("float16", {"avx512": True}, "9 to 46", "choose float32, the default"),
        ("bfloat16", {"avx512": True}, "1.8 to 2.6", "choose float32, the default"),
        (
            "float16",
            {"avx512": True, "bf16": True},
            "9 to 46",
            "float32, the default, or bfloat16, which this processor",
        ),
    ],
)
def test_an_emulated_dtype_is_told_with_its_cost_and_what_to_choose(
    dtype: str, processor: dict[str, bool], factor: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_processor(monkeypatch, **processor)
    note = CPU.describe_emulation(dtype)
    assert note.startswith(f"{dtype} is only emulated on this processor: a step takes {factor} times as long")
    assert choice in note
    assert ("bfloat16, which" in note) is processor.get("bf16", False)


def test_nothing_is_told_of_other_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processor(monkeypatch)
    assert [CPU.describe_emulation(dtype) for dtype in ("float32", "float64")] == ["", ""]
    fake_processor(monkeypatch, bf16=True, fp16=True)
    assert [CPU.describe_emulation(dtype) for dtype in ("float16", "bfloat16")] == ["", ""]
    fake_processor(monkeypatch)
    monkeypatch.setattr(policy, "is_x86", lambda: False)  # not measured
    assert [CPU.describe_emulation(dtype) for dtype in ("float16", "bfloat16")] == ["", ""]
    assert ComputePolicy("meta").describe_emulation("bfloat16") == ""


def test_an_older_gpu_emulates_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu = ComputePolicy("cuda:1")
    assert gpu.describe_emulation("bfloat16") == "bfloat16 is only emulated on cuda:1: choose float16 or float32"
    assert gpu.describe_emulation("float16") == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert gpu.describe_emulation("bfloat16") == ""


def test_nothing_is_told_of_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert ComputePolicy("cuda:1").describe_emulation("bfloat16") == ""


def test_a_cpu_may_have_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processor(monkeypatch)
    assert ComputePolicy("cpu:0").describe_emulation("bfloat16") == CPU.describe_emulation("bfloat16") != ""
    assert ComputePolicy("cpu:0").describe_training_cost() == CPU.describe_training_cost()


def test_a_warning_of_emulation_is_never_the_error_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run_text(WORKFLOW, tmp_path, dtype="bfloat16", device="cuda:7")


def test_a_run_in_an_emulated_dtype_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processor(monkeypatch)
    with pytest.warns(UserWarning, match="float16 is only emulated on this processor"):
        run_text(WORKFLOW, tmp_path, dtype="float16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_text(WORKFLOW, tmp_path, dtype="float64")


def test_one_row_in_bfloat16_is_a_product_with_a_vector_where_amx_rearranges_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy, "uses_onednn", lambda: True)
    for amx, avx512 in ((True, True), (False, True), (True, False)):
        monkeypatch.setattr(policy, "has_amx", lambda amx=amx: amx)
        monkeypatch.setattr(policy, "vectorises_in_avx512", lambda avx512=avx512: avx512)
        assert CPU.multiplies_by_vector(torch.bfloat16, 1) == (amx and avx512)
        assert not CPU.multiplies_by_vector(torch.bfloat16, 2)
        assert not CPU.multiplies_by_vector(torch.float32, 1)
        assert not ComputePolicy("cuda").multiplies_by_vector(torch.bfloat16, 1)
