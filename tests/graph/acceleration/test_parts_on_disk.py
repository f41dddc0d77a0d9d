"""The store of exported parts: what it returns, what it removes, and which sizes a graph takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guidegraph.graph.acceleration.onnx_backend import fit_shapes
from guidegraph.graph.acceleration.part import WatchedSize
from guidegraph.graph.acceleration.part_values import TOLERANCE, compare, find_repeated
from guidegraph.graph.acceleration.store import (
    COMPARED,
    DESCRIPTION,
    GRAPH,
    MOST_COMPARED,
    MOST_GRAPHS,
    GraphDescription,
    PartStore,
    Refusal,
)

DESCRIBED = GraphDescription(
    (("x", ("batch", 3, "height")), ("t", ("batch",)), ("rows", ("rows", 2))),
    ("y",),
    {"height": 4},
    (WatchedSize(0, 2.0, "it grows to {size:.3g}", True),),
)


def add(store: PartStore, key: str, data: bytes = b"graph") -> None:
    store.add(key, DESCRIBED, lambda path: path.write_bytes(data))


def find(store: PartStore, key: str) -> bytes | None:
    graph = store.find(key, lambda _: True)
    return None if graph is None else graph.files[GRAPH]


def test_a_graph_is_found_again_with_its_description(tmp_path: Path) -> None:
    add(PartStore(tmp_path), "key")
    graph = PartStore(tmp_path).find("key", lambda described: described.outputs == ("y",))
    assert graph is not None
    assert (graph.description, graph.files) == (DESCRIBED, {GRAPH: b"graph"})
    assert find(PartStore(tmp_path), "other") is None
    assert PartStore(tmp_path).find("key", lambda _: False) is None


@pytest.mark.parametrize(
    ("file", "contents"), [(GRAPH, b"groph"), (GRAPH, b""), (DESCRIPTION, b"{}"), (DESCRIPTION, b"\xff")]
)
def test_a_damaged_graph_is_removed(tmp_path: Path, file: str, contents: bytes) -> None:
    store = PartStore(tmp_path)
    add(store, "key")
    (path,) = tmp_path.glob(f"key/*/{file}")
    path.write_bytes(contents)
    assert find(store, "key") is None
    assert not path.parent.exists()


def test_the_least_recently_used_graphs_are_removed(tmp_path: Path) -> None:
    store = PartStore(tmp_path, most_bytes=3000)
    for i, key in enumerate(("a", "b")):
        add(store, key, b"x" * 1000)
        (folder,) = tmp_path.glob(f"{key}/*")
        os.utime(folder, (i, i))
    assert find(store, "a") is not None, "which makes it the latest"
    add(store, "c", b"x" * 1000)
    assert [find(store, key) is not None for key in "abc"] == [True, False, True]


def test_of_a_parts_graphs_for_fixed_sizes_the_latest_are_kept(tmp_path: Path) -> None:
    store = PartStore(tmp_path)
    for size in range(MOST_GRAPHS + 2):
        described = replace(DESCRIBED, inputs=(("x", (size + 1,)),))
        store.add("key", described, lambda path: path.write_bytes(b"graph"))
        for folder in tmp_path.glob("key/*"):
            os.utime(folder, (folder.stat().st_mtime - 10,) * 2)
    add(store, "other")
    kept: list[GraphDescription] = []
    store.find("key", lambda described: bool(kept.append(described)))
    assert sorted(described.inputs[0][1][0] for described in kept) == [*range(3, MOST_GRAPHS + 3)]
    assert find(store, "other") == b"graph"


def test_no_temporary_files_remain(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        PartStore(tmp_path).add("key", DESCRIBED, fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_refusal_is_noted(tmp_path: Path) -> None:
    PartStore(tmp_path).add_refusal("key", Refusal(2, "a branch"))
    assert PartStore(tmp_path).find_refusal("key") == Refusal(2, "a branch")
    assert PartStore(tmp_path).find_refusal("other") is None
    assert PartStore(None).find_refusal("key") is None


def test_without_a_folder_a_graph_is_only_returned() -> None:
    graph = PartStore(None).add("key", DESCRIBED, lambda path: path.write_bytes(b"graph"))
    assert graph.files == {GRAPH: b"graph"}


@pytest.mark.parametrize(
    ("shapes", "taken"),
    [
        ([(2, 3, 8), (2,), (5, 2)], [(2, 3, 8), (2,), (5, 2)]),
        ([(2, 3, 8), (1,), (5, 2)], [(2, 3, 8), (2,), (5, 2)]),
        ([(2, 3, 8), (3,), (5, 2)], None),
        ([(2, 3, 6), (2,), (5, 2)], None),
        ([(2, 4, 8), (2,), (5, 2)], None),
        ([(2, 3, 8), (2,), (5,)], None),
        ([(0, 3, 8), (0,), (5, 2)], None),
    ],
)
def test_a_batch_of_one_is_expanded_and_other_sizes_must_fit(
    shapes: list[tuple[int, ...]], taken: list[tuple[int, ...]] | None
) -> None:
    assert fit_shapes(DESCRIBED, shapes) == taken


def test_results_must_be_close_of_the_same_shape_and_finite_at_the_same_places() -> None:
    x = torch.tensor([1.0, -3.0, torch.inf, torch.nan])
    assert compare([x], [x]) == ""
    assert compare([x + TOLERANCE], [x]) == ""
    assert "from torch's" in compare([x + 4 * TOLERANCE], [x])
    assert "not finite" in compare([x.nan_to_num()], [x])
    assert "in place of" in compare([x[:2]], [x])
    assert "in place of" in compare([x.double()], [x])
    assert compare([], [x]) == "its graph gives 0 tensors in place of 1"
    assert "from torch's" in compare([torch.tensor([2])], [torch.tensor([1])])


def test_a_result_that_torch_has_once_may_be_repeated_for_each_sample() -> None:
    once = torch.tensor([[4, 5]])
    assert compare([once.repeat(3, 1)], [once]) == ""
    assert find_repeated([once.repeat(3, 1), once], [once, once]) == (True, False)
    assert "from torch's" in compare([torch.tensor([[4, 5], [4, 5], [4, 6]])], [once])
    assert "in place of" in compare([torch.tensor([[4], [4]])], [once])
    assert "in place of" in compare([torch.tensor(4).repeat(3)], [torch.tensor(4)])


def test_the_situations_in_which_a_graph_was_compared_are_noted_until_another_is_added(tmp_path: Path) -> None:
    store = PartStore(tmp_path)
    store.note_compared("key", "8 x 8")
    assert not store.was_compared("key", "8 x 8"), "there is no graph"
    add(store, "key")
    for i in range(MOST_COMPARED + 1):
        store.note_compared("key", f"{i}")
    assert PartStore(tmp_path).was_compared("key", f"{MOST_COMPARED}")
    assert not store.was_compared("key", "0"), "the oldest"
    (tmp_path / "key" / COMPARED).write_bytes(b"{")
    assert not store.was_compared("key", "1")
    store.note_compared("key", "1")
    assert find(store, "key") == b"graph"
    add(store, "key", b"other")
    assert not store.was_compared("key", "1")
    assert not PartStore(None).was_compared("key", "1")
