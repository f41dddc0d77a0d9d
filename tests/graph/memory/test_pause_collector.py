"""The garbage collector rests while any thread pauses it, and works again afterwards."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph.graph.memory.pause_collector import MANY_OBJECTS, exempt_imports, pause_collector, pause_for_import


@pytest.fixture(autouse=True)
def enabled_collector() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


@pytest.fixture
def exempted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("guidegraph.graph.memory.pause_collector._exempts_imports", False)
    exempt_imports()
    yield
    gc.unfreeze()


def test_two_pauses_that_overlap_end_with_the_later_one() -> None:
    """As two threads have them: each may end first."""
    first, second = pause_collector(), pause_collector()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with pause_collector(), pause_collector():
        pass
    assert not gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="no"), pause_collector():
        raise ValueError("no")
    assert gc.isenabled()


@pytest.mark.usefixtures("exempted")
def test_the_collector_leaves_out_what_a_command_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_once.py").write_text("values = [[] for _ in range(1000)]")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with pause_for_import():
        imported_once = importlib.import_module("imported_once")
    after = gc.get_freeze_count()
    assert after >= before + len(imported_once.values)
    with pause_for_import():
        importlib.import_module("imported_once")
        kept = [[] for _ in range(1000)]
    assert gc.get_freeze_count() <= after
    assert gc.isenabled()
    assert kept
    sys.modules.pop("imported_once")


def test_outside_of_commands_everything_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_once.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with pause_for_import():
        importlib.import_module("imported_once")
    assert gc.get_freeze_count() == before
    sys.modules.pop("imported_once")


def test_a_command_exempts_its_imports() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))"
    command = [sys.executable, "-c", f"{code}; from guidegraph.commands import main; main()", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output.split()[-1]) > 10_000


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that the collector has looked through."""
    generations: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            generations.append(info["generation"])

    gc.collect()
    gc.callbacks.append(count)
    yield generations
    gc.callbacks.remove(count)


def test_many_objects_of_a_pause_are_old_at_once(collections: list[int]) -> None:
    with pause_collector():
        values = [[] for _ in range(MANY_OBJECTS + 1000)]  # type: ignore[var-annotated]
    later = [[] for _ in range(100)]  # type: ignore[var-annotated]
    assert collections == []
    old = {*map(id, gc.get_objects(generation=2))}
    assert {*map(id, values)} <= old
    assert old.isdisjoint(map(id, later))


def test_circles_that_pauses_left_are_freed_in_the_end(collections: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegraph.graph.memory.pause_collector.MANY_PROMOTED", 3 * MANY_OBJECTS)
    monkeypatch.setattr("guidegraph.graph.memory.pause_collector._promoted", 0)
    unused: list[weakref.ref[Circle]] = []
    for _ in range(5):
        with pause_collector():
            circles = [Circle() for _ in range(MANY_OBJECTS + 1000)]
        unused.append(weakref.ref(circles[0]))
        del circles
    assert 2 in collections
    assert unused[0]() is None


class Circle:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self
