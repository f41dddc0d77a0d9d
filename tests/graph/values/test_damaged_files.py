"""Damaged files: a flipped bit in a cached value or checkpoint is detected, and so is a file under a wrong name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from guidegraph import Condition
from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.cache import DiskCache
from guidegraph.graph.training.checkpoint import STATE_FILE, CheckpointError, TrainingState, read_state, write_state
from guidegraph.graph.types import register_structured
from guidegraph.graph.values.serialise import CHECKSUM
from tests.graph.engine_nodes import run_text
from tests.graph.training.test_fit import text

KEY, OTHER = "ab" * 16, "cd" * 16


def flip_bits(data: bytes, every: int) -> Iterator[tuple[int, bytes]]:
    """Copies of the data with one bit flipped, one copy for every ``every`` bytes."""
    for i in range(0, len(data), every):
        yield i, data[:i] + bytes([data[i] ^ (1 << (i // every) % 8)]) + data[i + 1 :]


def same(a: Any, b: Any) -> bool:
    """Whether two values are bitwise equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Condition):
        return isinstance(b, Condition) and same(vars(a), vars(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def cached_values() -> tuple[Any, ...]:
    """Values for a cache: tensors of several dtypes, numbers, texts and a structured value."""
    register_structured()
    tensors = [torch.arange(40.0), torch.tensor(3, dtype=torch.int16), torch.ones(2, 3, dtype=torch.bfloat16)]
    return tensors, {"a": 2.5, "b": [1, "text", None, True]}, Condition(tokens=torch.ones(1, 2, 3))


def state() -> TrainingState:
    return TrainingState(7, {"model.a.weight": torch.arange(30.0), "rng": torch.arange(9, dtype=torch.uint8)},
                 {"history": {"loss": {"stacked": torch.ones(7)}}, "carry": {"best": 0.25}}, "fp32")  # fmt: skip


def entry(folder: Path, key: str = KEY) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cached_value_with_a_flipped_bit_is_not_used(every: int, tmp_path: Path) -> None:
    logging.disable()
    cache, value = DiskCache(tmp_path), cached_values()
    cache.put(KEY, value)
    data = entry(tmp_path).read_bytes()
    refused = 0
    for offset, damaged in flip_bits(data, every):
        entry(tmp_path).write_bytes(damaged)
        loaded = cache.get(KEY, "cpu")
        assert loaded is None or same(loaded, value), f"byte {offset}"
        assert entry(tmp_path).exists() == (loaded is not None)
        refused += loaded is None
    logging.disable(logging.NOTSET)
    assert refused > 0.9 * len(data) / every
    entry(tmp_path).write_bytes(data)
    assert same(cache.get(KEY, "cpu"), value)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_checkpoint_with_a_flipped_bit_is_not_resumed(every: int, tmp_path: Path) -> None:
    write_state(tmp_path, "key", state())
    data = (tmp_path / STATE_FILE).read_bytes()
    refused = 0
    for offset, damaged in flip_bits(data, every):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        loaded: TrainingState | None = None
        with suppress(CheckpointError):
            loaded = read_state(tmp_path, "key")
        assert loaded is None or same(vars(loaded), vars(state())), f"byte {offset}"
        refused += loaded is None
    assert refused > 0.9 * len(data) / every


def test_a_damaged_entry_is_computed_again_and_replaced_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    nodes = "nodes: {t: {use: toy.tensor}}\noutputs: {t: t}"
    digest = run_text(nodes, tmp_path, cache=cache).digests["nodes.t"]
    path = entry(tmp_path / "cache", digest)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 64]))
    again = run_text(nodes, tmp_path, cache=cache)
    assert again.origins == {"nodes.t": "computed"}
    assert torch.equal(again.outputs["t"], torch.ones(2, 3))
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert len(path.read_bytes()) == len(content)
    assert run_text(nodes, tmp_path, cache=cache).origins == {"nodes.t": "disk"}


def test_a_cached_value_under_another_name_is_not_used(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.put(KEY, (torch.ones(3),))
    cache.put(OTHER, (torch.zeros(3),))
    swapped = entry(tmp_path, OTHER).read_bytes()
    entry(tmp_path).write_bytes(swapped)
    assert cache.get(KEY, "cpu") is None
    assert cache.get(OTHER, "cpu") is not None
    cache.put(KEY, (torch.ones(3),))
    assert same(cache.get(KEY, "cpu"), (torch.ones(3),))


def test_a_loaded_value_does_not_change_with_its_file(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.put(KEY, (torch.ones(100_000),))
    back = cache.get(KEY, "cpu")
    with entry(tmp_path).open("r+b") as file:
        file.seek(200_000)
        file.write(bytes(1000))
    assert same(back, (torch.ones(100_000),))


def test_a_sparse_tensor_is_not_kept_on_disk(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.put(KEY, (torch.eye(3).to_sparse(),))
    assert cache.get(KEY, "cpu") is None


def remove_checksum(path: Path) -> None:
    with safe_open(str(path), "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    del metadata[CHECKSUM]
    save_file(tensors, str(path), metadata)


def test_files_without_a_checksum_are_damaged(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    cache.put(KEY, cached_values())
    remove_checksum(entry(tmp_path / "cache"))
    assert cache.get(KEY, "cpu") is None
    run_text(text(6, checkpoint=True), tmp_path)
    remove_checksum(tmp_path / "ckpt" / STATE_FILE)
    with pytest.raises(NodeError, match="is damaged: its checksum is 'none', and that of its contents"):
        run_text(text(10, checkpoint=True), tmp_path)


def test_training_does_not_resume_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    run_text(text(6, checkpoint=True), tmp_path)
    path = tmp_path / "ckpt" / STATE_FILE
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    weight = next(info["data_offsets"][0] for name, info in header.items() if name.endswith(".weight"))
    data[8 + length + weight + 3] ^= 0x20  # of a weight's exponent
    path.write_bytes(data)
    with pytest.raises(NodeError, match=r"damaged.*restore it from a copy, or move it away"):
        run_text(text(10, checkpoint=True), tmp_path)
