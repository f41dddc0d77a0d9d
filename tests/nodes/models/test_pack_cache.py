"""Packed weights at several input sizes: each size has its own layout, within a limit of memory."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from guidegraph.nodes.models.networks import packed_convolution
from guidegraph.nodes.models.networks.packed_convolution import PackCache, PackedConv2d

SIZES = (4, 8, 12, 16, 32)


class Toy:
    """A cache over a weight of 16 bytes, in which a size's layout is its first number."""

    def __init__(self, limit: int) -> None:
        self.packs: list[int] = []
        self.cache = PackCache(limit, lambda copy: (bytes([int(copy[0])]), copy.nbytes))

    def get(self, weight: Tensor, layout: int, height: int = 0) -> Tensor:
        def pack() -> Tensor:
            self.packs.append(layout)
            return torch.full((4,), float(layout))

        storage = StorageWeakRef(weight.untyped_storage())
        return self.cache.get((storage.cdata,), (layout, height), storage, weight._version, pack)


def test_each_layout_is_packed_once_and_sizes_of_one_layout_share_it() -> None:
    toy, weight = Toy(1 << 20), torch.zeros(4)
    for _ in range(3):
        for layout in (1, 2, 3):
            assert float(toy.get(weight, layout)[0]) == layout
    assert toy.packs == [1, 2, 3]
    assert toy.get(weight, 2, height=7) is toy.get(weight, 2)
    assert toy.packs == [1, 2, 3, 2]  # once more, to learn the layout
    assert len(toy.cache.copies(weight.untyped_storage()._cdata)) == 3


def test_spare_copies_are_bounded_and_the_last_one_is_always_kept() -> None:
    toy, weights = Toy(limit=40), [torch.zeros(4) for _ in range(3)]
    for weight in weights:
        toy.get(weight, 1)
    assert toy.cache.spare_bytes == 0  # 48 bytes, each the last of its weight
    for weight in weights:
        toy.get(weight, 2)
    assert toy.cache.spare_bytes == 32  # the copy that went out of use first is gone
    assert [len(toy.cache.copies(weight.untyped_storage()._cdata)) for weight in weights] == [1, 2, 2]
    toy.packs.clear()
    for weight in reversed(weights):
        toy.get(weight, 1)
    assert toy.packs == [1]
    assert toy.cache.spare_bytes <= 40


def test_a_copy_that_is_in_use_again_is_not_spare() -> None:
    toy, weight = Toy(1 << 20), torch.zeros(4)
    for layout in (1, 2, 1):
        toy.get(weight, layout)
    assert toy.cache.spare_bytes == 16
    toy.cache.spare_limit = 0
    toy.get(weight, 3)
    assert toy.cache.spare_bytes == 0
    assert [float(copy[0]) for copy in toy.cache.copies(weight.untyped_storage()._cdata)] == [3]


def test_a_changed_or_lost_weight_takes_its_spare_copies_with_it() -> None:
    toy, weight = Toy(1 << 20), torch.zeros(4)
    for layout in (1, 2):
        toy.get(weight, layout)
    weight.add_(1)
    toy.get(weight, 2)
    assert toy.packs == [1, 2, 2]
    assert toy.cache.spare_bytes == 0
    toy.get(weight, 1)
    toy.cache.forget(weight.untyped_storage()._cdata)
    assert (len(toy.cache), toy.cache.spare_bytes) == (0, 0)
    for layout in (1, 2):
        toy.get(weight, layout)
    del weight
    gc.collect()
    toy.cache.forget_unused()
    assert (len(toy.cache), toy.cache.spare_bytes) == (0, 0)


def test_the_sizes_that_are_remembered_are_bounded() -> None:
    toy, weight = Toy(1 << 20), torch.zeros(4)
    for height in range(2 * packed_convolution.SIZES):
        toy.get(weight, height % 2, height)
    (remembered,) = toy.cache._weights.values()
    assert len(remembered.sizes) == packed_convolution.SIZES
    assert len(remembered.copies) == 2


def test_threads_share_copies() -> None:
    toy, weights = Toy(limit=64), [torch.zeros(4) for _ in range(4)]
    failures: list[object] = []
    start = threading.Barrier(4)

    def work(shift: int) -> None:
        start.wait()
        for i in range(400):
            layout = 1 + (i + shift) % 3
            copy = toy.get(weights[i % 4], layout)
            if float(copy[0]) != layout:
                failures.append((layout, copy))

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert toy.cache.spare_bytes <= 64
    spare = {(key, layout) for key, layout in toy.cache._spare}
    for key, weight in toy.cache._weights.items():
        assert {layout for layout in weight.copies if layout != weight.current} == {b for a, b in spare if a == key}


needs_onednn = pytest.mark.skipif(not packed_convolution.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def packed_shapes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A cache of its own, and the input shapes for which oneDNN packed a weight."""
    shapes: list[list[int]] = []
    pack = packed_convolution._operators()._reorder_convolution_weight

    class Operators:
        def __getattr__(self, name: str) -> Callable[..., object]:
            if name != "_reorder_convolution_weight":
                return getattr(torch.ops.mkldnn, name)  # type: ignore[no-any-return]

            def counting(*args: object) -> object:
                shapes.append(list(args[-1]))  # type: ignore[call-overload]
                return pack(*args)

            return counting

    monkeypatch.setattr(packed_convolution, "_operators", Operators)
    monkeypatch.setattr(
        packed_convolution, "CACHE", PackCache(packed_convolution.SPARE, packed_convolution.measure_layout)
    )
    return shapes


def convolution() -> PackedConv2d:
    torch.manual_seed(0)
    return PackedConv2d(192, 192, 3, padding=1).eval().requires_grad_(False)


def fresh_layout(layer: PackedConv2d, x: Tensor) -> bytes:
    """The layout that a fresh process packs for an input."""
    settings = ([1, 1], [1, 1], [1, 1], 1)
    return packed_convolution.measure_layout(
        torch.ops.mkldnn._reorder_convolution_weight(layer.weight, *settings, list(x.shape))
    )[0]


@needs_onednn
@pytest.mark.parametrize("order", list(itertools.permutations(SIZES))[::30])
@torch.no_grad()
def test_each_size_has_its_own_layout_in_any_order(order: tuple[int, ...], packed_shapes: list[list[int]]) -> None:
    layer = convolution()
    inputs = {n: torch.randn(2, 192, n, n) for n in SIZES}
    for n in (*order, *order):
        torch.testing.assert_close(
            layer(inputs[n]), nn.functional.conv2d(inputs[n], layer.weight, layer.bias, padding=1), rtol=1e-4, atol=1e-4
        )
        (weight,) = packed_convolution.CACHE._weights.values()
        assert weight.current == fresh_layout(layer, inputs[n])
    assert packed_shapes == [[2, 192, n, n] for n in order]  # each size is packed once, at its first call
    layouts = {fresh_layout(layer, x) for x in inputs.values()}
    assert set(weight.copies) == layouts
    assert packed_convolution.CACHE.spare_bytes == sum(
        packed_convolution.measure_layout(weight.copies[layout])[1] for layout in layouts - {weight.current}
    )


@needs_onednn
@torch.no_grad()
def test_without_spare_memory_only_the_last_layout_is_kept(packed_shapes: list[list[int]]) -> None:
    packed_convolution.CACHE.spare_limit = 0
    layer = convolution()
    for n in (*SIZES, *SIZES):
        layer(torch.randn(1, 192, n, n))
        assert packed_convolution.CACHE.spare_bytes == 0
        assert len(packed_convolution.CACHE.copies(layer.weight.untyped_storage()._cdata)) == 1


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """The objects of the process so far, in a whole run of the tests millions, are left out of collections."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize("method", ["forget_unused", "copies"])
def test_a_collection_in_the_middle_may_forget_weights(method: str) -> None:
    """Layers in reference cycles are finalised by a collection, which any allocation may start."""
    toy, weights = Toy(1 << 20), [torch.zeros(4) for _ in range(200)]
    addresses = [weight.untyped_storage()._cdata for weight in weights]
    for weight in weights:
        toy.get(weight, 1)

    class Layer:
        def __init__(self, address: int) -> None:
            self.address, self.cycle = address, self

        def __del__(self) -> None:
            toy.cache.forget(self.address)

    threshold = gc.get_threshold()
    for address in addresses[150:]:
        gc.collect()
        gc.disable()
        Layer(address)
        gc.set_threshold(50)  # reached while the 200 weights are listed
        gc.enable()
        try:
            toy.cache.forget_unused() if method == "forget_unused" else toy.cache.copies(addresses[0])
        finally:
            gc.set_threshold(*threshold)
    gc.collect()
    assert len(toy.cache) == 150
