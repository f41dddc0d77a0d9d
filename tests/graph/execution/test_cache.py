"""Which values the memory and disk caches return, and which are computed again."""

from __future__ import annotations

import errno
import gc
import hashlib
import importlib
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import node
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.execution.cache import DiskCache, MemoryCache, nbytes
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.planning import digest
from guidegraph.graph.resolution.load import build
from guidegraph.graph.values.serialise import find_difference
from guidegraph.nodes.types import Condition, Prediction
from tests.graph.engine_nodes import REGISTRY, calls, run_text
from tests.graph.running import run_graph
from tests.work_counter import count_calls

TEXT = """
params: {by: 2.0, rows: 2}
nodes:
  n: {use: toy.number, with: {value: 3}}
  s: {use: toy.scale, in: {a: n, by: params.by}}
  t: {use: toy.tensor, in: {rows: params.rows}}
  o: {use: toy.opaque}
  u: {use: toy.unwrap, in: {a: o}}
  r: {use: toy.random}
  m: {use: toy.mean, in: {x: t}}
  out: {use: toy.total, in: {values: [s, u, m]}}
outputs: {out: out, t: t, r: r}
"""


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    calls.clear()
    return


def executed(result: RunResult) -> set[str]:
    return {path.removeprefix("nodes.") for path, origin in result.origins.items() if origin == "computed"}


def go(folder: Path, *, by: float = 2.0, rows: int = 2, **options: Any) -> RunResult:
    return run_text(TEXT, folder, {"by": by, "rows": rows}, **options)


def test_a_second_run_computes_only_what_is_impure(tmp_path: Path) -> None:
    memory = MemoryCache()
    first = go(tmp_path, memory=memory)
    assert executed(first) == {"n", "s", "t", "o", "u", "r", "m", "out"}
    second = go(tmp_path, memory=memory)
    assert executed(second) == {"r"}
    assert second.outputs["out"] == first.outputs["out"]


def test_a_change_of_the_runtime_recomputes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, source_digest = MemoryCache(), digest.source_digest
    everything = executed(go(tmp_path, memory=memory))
    monkeypatch.setattr(
        digest,
        "source_digest",
        lambda module: "changed" if module.startswith("guidegraph_runtime") else source_digest(module),
    )
    assert executed(go(tmp_path, memory=memory)) == everything


def test_a_changed_parameter_recomputes_what_depends_on_it_alone(tmp_path: Path) -> None:
    memory = MemoryCache()
    go(tmp_path, memory=memory)
    assert executed(go(tmp_path, memory=memory, by=5.0)) == {"s", "out", "r"}
    assert executed(go(tmp_path, memory=memory, rows=3)) == {"t", "m", "out", "r"}


def test_the_disk_keeps_what_serialises_and_what_feeds_only_hits_is_not_touched(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    go(tmp_path, cache=cache)
    result = go(tmp_path, cache=cache, by=5.0)
    assert executed(result) == {"s", "out", "r"}
    assert result.origins["nodes.u"] == "disk"
    assert "nodes.o" not in result.origins


def test_a_damaged_cache_file_is_computed_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    go(tmp_path, cache=cache)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    assert "out" in executed(go(tmp_path, cache=cache))


def test_device_and_dtype_are_part_of_the_key(tmp_path: Path) -> None:
    memory = MemoryCache()
    a = go(tmp_path, memory=memory)
    b = go(tmp_path, memory=memory, dtype="float64")
    assert a.digests["nodes.s"] != b.digests["nodes.s"]


def test_files_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    memory = MemoryCache()
    text = "nodes: {a: {use: toy.read, with: {path: a.txt}}}\noutputs: {a: a}"
    assert run_text(text, tmp_path, memory=memory).outputs["a"] == "one"
    (tmp_path / "a.txt").touch()
    assert executed(run_text(text, tmp_path, memory=memory)) == set()
    (tmp_path / "a.txt").write_text("two!")
    assert run_text(text, tmp_path, memory=memory).outputs["a"] == "two!"


def test_files_that_are_read_beside_another_count_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    memory = MemoryCache()
    text = "nodes: {a: {use: toy.read_both, with: {path: a.txt}}}\noutputs: {a: a}"
    assert run_text(text, tmp_path, memory=memory).outputs["a"] == "one"
    (tmp_path / "other.txt").write_text("unread")
    assert executed(run_text(text, tmp_path, memory=memory)) == set()
    for content in ("two", "three"):
        (tmp_path / "beside.txt").write_text(content)
        assert run_text(text, tmp_path, memory=memory).outputs["a"] == f"one{content}"
        assert executed(run_text(text, tmp_path, memory=memory)) == set()


def read_source_digest(module: str) -> str:
    """The digest of a module's sources as they are now."""
    digest._digest_code.cache_clear()
    return digest.source_digest(module)


def test_all_sources_of_a_package_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_nodes" / "deep").mkdir(parents=True)
    for name in ("__init__", "helper", "deep/__init__", "deep/nodes"):
        (tmp_path / "some_nodes" / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules = ("some_nodes", "some_nodes.deep.nodes")
    for name in modules:
        importlib.import_module(name)

    def digests() -> list[str]:
        return [read_source_digest(name) for name in modules]

    before = digests()
    assert digests() == before
    (tmp_path / "some_nodes" / "helper.py").write_text("VALUE = 22\n")
    assert [a != b for a, b in zip(before, digests(), strict=True)] == [True, True]
    for name in ("some_nodes", "some_nodes.deep", "some_nodes.deep.nodes"):
        sys.modules.pop(name)


CALLS_A_SOURCE = 70
"""A bound on the number of calls to digest one file of a package: 44 when this was written."""


def test_the_sources_of_a_package_are_digested_with_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many_nodes").mkdir()
    for name in ("__init__", *(f"module_{i}" for i in range(99))):
        (tmp_path / "many_nodes" / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("many_nodes")
    assert count_calls(lambda: read_source_digest("many_nodes")) / 100 < CALLS_A_SOURCE
    sys.modules.pop("many_nodes")


@pytest.mark.parametrize("size", [1, digest.SMALL_FILE + 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "file.bin").write_bytes(b"x" * size)
    expected = hashlib.blake2b(b"x" * size, digest_size=16).hexdigest()
    assert digest.file_digest(tmp_path / "file.bin") == expected


def test_modules_that_a_single_file_imports_from_its_folder_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "single": "import helper_of_single\nfrom json import dumps\n",
        "helper_of_single": "from deeper_of_single import double\n",
        "deeper_of_single": "def double(x): return 2 * x\n",
        "stranger": "VALUE = 1\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("single", "stranger"):
        importlib.import_module(name)
    before = read_source_digest("single")
    (tmp_path / "stranger.py").write_text("VALUE = 22\n")
    assert read_source_digest("single") == before
    (tmp_path / "deeper_of_single.py").write_text("def double(x): return 22 * x\n")
    assert read_source_digest("single") != before
    for name in texts:
        sys.modules.pop(name)


def test_the_sources_of_a_built_in_node_are_all_of_guidegraph_nodes(tmp_path: Path) -> None:
    """A node in one room may use any other room: an edit in nodes/models makes a sampler's value stale."""
    package = importlib.import_module("guidegraph.nodes")
    sampler, other = "guidegraph.nodes.sampling.schedule", "nodes/models/own/unet.py"
    importlib.import_module(sampler)
    copy = tmp_path / "nodes"
    shutil.copytree(Path(str(package.__file__)).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "__file__", str(copy / "__init__.py"))
        before = read_source_digest(sampler)
        assert not before.startswith(digest.FRESH)
        assert read_source_digest(sampler) == before
        (tmp_path / other).write_text("changed")
        assert read_source_digest(sampler) != before


def test_files_behind_a_link_to_a_folder_count_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_text("first")
    (tmp_path / "model" / "unet").symlink_to(tmp_path / "weights", target_is_directory=True)
    first = digest.path_digest(tmp_path / "model")
    (tmp_path / "weights" / "w.bin").write_text("the second")
    assert digest.path_digest(tmp_path / "model") != first
    (tmp_path / "weights" / "w.bin").write_text("first")
    assert digest.path_digest(tmp_path / "model") == first
    (tmp_path / "weights" / "back").symlink_to(tmp_path / "model", target_is_directory=True)
    assert digest.path_digest(tmp_path / "model").startswith(digest.FRESH)


def test_what_a_desktop_leaves_in_a_folder_is_no_change_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    before = digest.path_digest(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"left behind")
    assert digest.path_digest(tmp_path) == before
    (tmp_path / "notes").symlink_to(tmp_path / "nowhere")
    actual = digest.path_digest(tmp_path)
    assert actual != before
    assert digest.path_digest(tmp_path) == actual  # not another one each time: a training goes on
    assert not actual.startswith(digest.FRESH)
    (tmp_path / "b.png").write_bytes(b"2")
    assert digest.path_digest(tmp_path) != actual


def test_a_value_changed_in_place_is_not_served_again(tmp_path: Path) -> None:
    memory = MemoryCache()
    go(tmp_path, memory=memory).outputs["t"].zero_()
    assert torch.equal(go(tmp_path, memory=memory).outputs["t"], torch.ones(2, 3))


def test_many_small_values_take_no_more_memory_than_they_count() -> None:
    memory, count = MemoryCache(), 20_000
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(count):
            memory.put(f"{i:032x}", (1000 + i,))
        assert memory.size / 1.2 < tracemalloc.get_traced_memory()[0] < memory.size * 1.2
    finally:
        tracemalloc.stop()


def test_memory_stays_below_its_limit_and_keeps_the_recent() -> None:
    memory = MemoryCache(limit=5000)
    for i in range(20):
        memory.put(str(i), (torch.zeros(250),))
    assert memory.size <= 5000
    assert memory.get("19") is not None
    assert memory.get("0") is None


def test_the_size_of_models_and_structures_is_counted() -> None:
    assert nbytes(torch.nn.Linear(10, 10)) == 440
    assert nbytes(Prediction(torch.zeros(4), "eps", torch.zeros(4))) >= 32


class Linked:
    """An object that leads to all others of its kind."""

    links: list[Linked]


def test_memory_that_a_value_holds_several_times_counts_once() -> None:
    tensor = torch.zeros(4, 256)
    assert nbytes(tensor) == nbytes([tensor, *tensor, {"again": tensor[1]}]) == 4096
    objects = [Linked() for _ in range(300)]
    for item in objects:
        item.links = objects
    assert nbytes(objects) < 300 * 1000


UNUSUAL: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": lambda: torch.empty(3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
}


@node("toy.unusual")
def unusual(*, kind: str) -> Any:
    """A tensor that has no dense values."""
    return UNUSUAL[kind]()


@pytest.mark.filterwarnings("ignore")  # torch's, about layouts that may change
@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_tensor_of_any_layout_passes_the_caches(tmp_path: Path, kind: str) -> None:
    registry = Registry({**REGISTRY.nodes, "toy.unusual": get_spec(unusual)})
    path = tmp_path / "workflow.yaml"
    path.write_text(f"guidegraph: 1\nnodes: {{a: {{use: toy.unusual, with: {{kind: {kind}}}}}}}\noutputs: {{a: a}}\n")
    memory = MemoryCache()
    for _ in range(2):
        value = run_graph(build(path, registry), memory=memory, cache=tmp_path / "cache").outputs["a"]
        assert value.layout == UNUSUAL[kind]().layout
    assert 0 < memory.size < 1000


def test_structured_values_come_back_from_disk(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path)
    value = (Condition(tokens=torch.ones(1, 2, 3), mask=torch.tensor([[True, False]])), [1, "a", {"b": None}], 2.5)
    disk.put("ab" * 16, value)
    back = disk.get("ab" * 16, "cpu")
    assert back is not None
    assert torch.equal(back[0].tokens, value[0].tokens)
    assert back[0].mask.dtype == torch.bool
    assert back[1:] == value[1:]


def test_a_folder_that_cannot_be_looked_at_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> bool:
        raise OSError(errno.ESTALE, "stale file handle")

    disk = DiskCache(tmp_path)
    monkeypatch.setattr(Path, "exists", fail)
    for digest_start in ("ab", "cd"):
        disk.put(digest_start * 16, (1.0,))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the cache keeps nothing more of this run, which goes on without it"
    ]


def test_values_of_the_disk_cache_are_verified_on_request(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = go(tmp_path, cache=cache)
    result = go(tmp_path, cache=cache, cache_verify=1)
    stored = {f"nodes.{name}" for name in ("s", "u", "t", "m", "out")}
    assert {path for path, origin in result.origins.items() if origin == "verified"} == stored | {"nodes.n"}
    assert result.outputs["out"] == first.outputs["out"]
    counts = [len(executed(go(tmp_path, cache=cache, cache_verify=1000))) for _ in range(3)]
    assert counts == [1, 1, 1]  # one in a thousand of few: only what is impure is computed


@pytest.mark.parametrize(
    ("value", "difference"),
    [
        (torch.full((2, 3), 1.5), "6 of 6 elements of a tensor, by up to 0.5"),
        (torch.ones(2, 4), r"a tensor torch.float32 \(2, 4\) in the cache, torch.float32 \(2, 3\) now"),
        (torch.full((2, 3), float("nan")), "6 of 6 elements of a tensor, by up to nan"),
        (3.0, "a float in the cache, a Tensor now"),
    ],
)
def test_a_stale_value_is_an_error_that_names_node_and_file(tmp_path: Path, value: Any, difference: str) -> None:
    cache = tmp_path / "cache"
    digest_of_t = go(tmp_path, cache=cache).digests["nodes.t"]
    disk = DiskCache(cache)
    disk.path(digest_of_t).unlink()
    disk.put(digest_of_t, (value,))
    with pytest.raises(GuidegraphError, match=f"nodes.t .toy.tensor.: .*{difference}") as raised:
        go(tmp_path, cache=cache, cache_verify=1)
    assert str(disk.path(digest_of_t)) in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new"), [(0.0, -0.0), (1, 1.0), ("a", "b"), (torch.tensor(0.0), torch.tensor(-0.0)), ([1], (1,))]
)
def test_values_are_compared_bit_by_bit(old: Any, new: Any) -> None:
    assert find_difference(old, new)
    assert not find_difference(old, old)
    assert not find_difference(*([torch.tensor([float("nan")]), float("nan")] for _ in range(2)))
    permuted = torch.arange(6.0).reshape(2, 3).T
    assert not find_difference(permuted, permuted.contiguous())
