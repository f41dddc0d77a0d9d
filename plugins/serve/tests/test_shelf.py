"""Bundles are opened at need and dropped, least recently used first, under a budget of memory."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from weakref import ref

import pytest

from guidegraph_runtime import BundleError
from guidegraph_serve.jobs import DrawRequest, RequestRefused, ServeOptions
from guidegraph_serve.observers import ServeObserver
from guidegraph_serve.service import Service
from guidegraph_serve.shelf import TURN_SECONDS, BundleShelf
from plugins.serve.tests.conftest import CPU
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle


class Opened(ServeObserver):
    """Lists what is opened and dropped."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_open(self, bundle: str, seconds: float) -> None:
        self.events.append(f"open {bundle}")

    def on_drop(self, bundle: str) -> None:
        self.events.append(f"drop {bundle}")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {name: write_loop_bundle(tmp_path / name, joins=JOINS) for name in "abc"}


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.onnx"))


def make_shelf(folders: dict[str, Path], count: int, observer: Opened, clock: Clock) -> BundleShelf:
    """A shelf with room for so many of the bundles, which are of one size."""
    return BundleShelf(folders, CPU, size_of(folders["a"]) * count, [observer], clock)


def test_the_least_recently_used_goes_first(folders: dict[str, Path]) -> None:
    observer = Opened()
    shelf = make_shelf(folders, 2, observer, Clock())
    assert shelf.open_bytes == 0
    for name in "abac":
        assert shelf.acquire(name, 0) is not None
        shelf.release(name)
    assert observer.events == ["open a", "open b", "drop b", "open c"]
    assert shelf.open_bytes == 2 * size_of(folders["a"])


def test_a_bundle_in_use_stays_until_its_turn_is_over(folders: dict[str, Path]) -> None:
    observer, clock = Opened(), Clock()
    shelf = make_shelf(folders, 1, observer, clock)
    assert shelf.acquire("a", 0) is not None
    assert shelf.acquire("b", 0) is None
    assert not shelf.is_due("a")
    clock.now += TURN_SECONDS
    assert shelf.is_due("a")
    shelf.release("a")
    assert shelf.acquire("a", 0) is None, "it is the turn of b"
    assert shelf.acquire("c", 0) is None, "b has waited longer"
    assert shelf.acquire("b", 0) is not None
    shelf.release("b")
    assert shelf.acquire("a", 0) is not None
    assert observer.events == ["open a", "drop a", "open b", "drop b", "open a"]


def test_who_no_longer_waits_lets_others_go_on(folders: dict[str, Path]) -> None:
    clock = Clock()
    shelf = make_shelf(folders, 1, Opened(), clock)
    assert shelf.acquire("a", 0) is not None
    assert shelf.acquire("b", 0) is None
    clock.now += TURN_SECONDS
    shelf.leave_queue("b")
    assert not shelf.is_due("a")


def test_a_bundle_larger_than_the_memory_is_refused_at_the_start(folders: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match=r"'a' has files of .*, and --memory is 100 bytes: raise it"):
        BundleShelf(folders, CPU, 100)


def test_a_bundle_that_needs_a_file_is_refused_and_one_with_a_default_takes_none(tmp_path: Path) -> None:
    folder = write_loop_bundle(tmp_path / "a", joins=JOINS)
    value = json.loads((folder / "bundle.json").read_text())
    del value["digest"]
    value["inputs"]["photo"] = {"type": "path", "required": True}
    (folder / "bundle.json").write_bytes(seal_manifest(value))
    with pytest.raises(BundleError, match="'photo' is a file that each run needs and no request may send"):
        BundleShelf({"a": folder}, CPU)
    value["inputs"]["photo"] = {"type": "path", "default": "step.onnx"}
    (folder / "bundle.json").write_bytes(seal_manifest(value))
    service = Service({"a": folder}, CPU)
    with pytest.raises(RequestRefused, match="'photo' is a file that no request may send"):
        service.submit(DrawRequest("a", {"photo": "/etc/passwd"}))


def test_a_bundle_that_was_changed_on_disk_is_not_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    shelf = BundleShelf(folders, CPU)
    shutil.rmtree(folders["a"])
    write_loop_bundle(folders["a"], joins=JOINS, collect=True)
    with pytest.raises(BundleError, match="was changed since the server started"):
        shelf.acquire("a", 0)
    assert shelf.open_bytes == 0


def test_a_dropped_bundle_leaves_no_memory_behind(folders: dict[str, Path]) -> None:
    service = Service(folders, CPU, ServeOptions(bundle_memory=size_of(folders["a"])))
    service.start()
    try:
        assert service.submit(DrawRequest("a", {})).ended.wait(60)
        bundle = service.entries["a"].bundle
        assert bundle is not None
        exists = ref(bundle)
        del bundle
        assert service.submit(DrawRequest("b", {})).ended.wait(60)
        gc.collect()
        assert service.entries["b"].bundle is not None
        assert exists() is None
    finally:
        service.stop()


def test_requests_to_more_bundles_than_fit_are_all_answered(folders: dict[str, Path]) -> None:
    observer = Opened()
    options = ServeOptions(bundle_memory=size_of(folders["a"]))
    service = Service(folders, CPU, options, [observer])
    service.start()
    try:
        jobs = [service.submit(DrawRequest(name, {"seed": i})) for i in range(3) for name in "abc"]
        for job in jobs:
            assert job.ended.wait(60)
        assert [job.status for job in jobs] == ["done"] * 9
    finally:
        service.stop()
    assert {event for event in observer.events if event.startswith("open")} == {"open a", "open b", "open c"}
    opened = 0
    for event in observer.events:
        opened += 1 if event.startswith("open") else -1
        assert opened <= 1
    assert opened == 0, "stop drops all bundles"
