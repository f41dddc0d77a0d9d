"""Calls that take too long are told to end, whatever the calls before them were allowed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from guidegraph_runtime.sessions.call_limits import WATCH, CallWatch, call_for
from tests.paths import ROOT


class Options:
    """The part of `onnxruntime.RunOptions` that a watch sets."""

    def __init__(self) -> None:
        self._terminated = Event()

    @property
    def terminate(self) -> bool:
        return self._terminated.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        (self._terminated.set if value else self._terminated.clear)()

    def wait(self) -> bool:
        """Wait until the call is told to end; False after 30 s."""
        return self._terminated.wait(30)


def is_terminated(watch: CallWatch, seconds: float) -> bool:
    """Whether a call that takes longer than its limit is told to end."""
    options = Options()
    with watch.watch(options, seconds):
        return options.wait()


@pytest.mark.parametrize("earlier", [None, 1e-3, 3600.0, 1e15, float("inf")])
def test_a_call_after_one_of_another_limit(earlier: float | None) -> None:
    watch = CallWatch()
    with watch.watch(Options(), earlier):
        pass
    assert is_terminated(watch, 0.01)


def test_a_call_within_a_longer_one() -> None:
    watch, long = CallWatch(), Options()
    with watch.watch(long, 1e15):
        assert is_terminated(watch, 0.01)
        assert is_terminated(watch, 0.01)
        assert not long.terminate


def test_a_call_that_ends_in_time_is_let_be() -> None:
    watch, options = CallWatch(), Options()
    with watch.watch(options, 0.05):
        pass
    assert is_terminated(watch, 0.1)
    assert not options.terminate


@pytest.mark.skipif(sys.platform != "linux", reason="a forked process")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_watch_of_its_own() -> None:
    assert is_terminated(WATCH, 0.01)
    child = os.fork()
    if child == 0:
        os._exit(0 if is_terminated(WATCH, 0.01) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("seconds", [None, 3600.0])
def test_a_call_that_nobody_waits_for_any_longer_is_ended(seconds: float | None) -> None:
    first, second = Event(), Event()
    first.set()
    second.set()
    watch, shared, other, unasked = CallWatch(), Options(), Options(), Options()
    with (
        watch.watch(unasked, seconds),
        call_for(first.is_set, second.is_set),
        watch.watch(shared, seconds),
        call_for(first.is_set),
        watch.watch(other, seconds),
    ):
        second.clear()
        watch.end_unwanted()
        assert not shared.terminate, "the other one still waits"
        first.clear()
        watch.end_unwanted()
        assert (shared.terminate, other.terminate, unasked.terminate) == (True, True, False)
    with call_for(first.is_set), watch.watch(other, seconds):
        assert other.terminate, "from the start, if nobody waits by then"


TWO_SIZES = """
import sys
from pathlib import Path
from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits, enforce_limits
from guidegraph_runtime.sessions.call_limits import release_arena
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle

def read_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith("RssAnon"))

bundle = Bundle(write_loop_bundle(Path(sys.argv[1]) / "a", joins=JOINS, picture=True), SessionSettings.on("cpu"))
with enforce_limits(Limits(memory_bytes=80_000_000)):
    bundle.run(steps=1, batch=1)
    before = read_memory()
    for size in (700, 650, 700, 600, 3000, 700):
        try:
            bundle.run_with({"steps": 1, "batch": 1}, nodes={"noise.shape": [2, size, size]})
            print(size)
        except BundleError as error:
            print(size, error.code)
release_arena()
print("kept" if read_memory() - before > 40 else "returned")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_after_one_size_another_finds_room_and_the_memory_is_given_back(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    result = subprocess.run(
        [sys.executable, "-c", TWO_SIZES, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["700", "650", "700", "600", "3000 needs-memory", "700", "returned"]


FREE_BLOCKS = """
import sys
import numpy as np
from guidegraph_runtime.sessions.call_limits import keep_large_blocks_apart
def read_kilobytes():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:"))
if sys.argv[1] == "apart":
    keep_large_blocks_apart()
for _ in range(3):
    block = np.ones(3 << 20, np.uint8)
    del block  # glibc's threshold grows to its size
before, large, small = read_kilobytes(), [], []
for _ in range(40):
    large.append(np.ones(2 << 20, np.uint8))
    small.append(np.ones(100_000, np.uint8))
del large
print(read_kilobytes() - before)
"""
"""Frees 40 blocks of 2 MiB, each with one of 100 kB behind it that stays; prints by how much the process has grown."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such threshold")
def test_large_blocks_that_are_freed_go_back_to_the_system() -> None:
    grown = {}
    for mode in ("apart", "default"):
        command = [sys.executable, "-c", FREE_BLOCKS, mode]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        grown[mode] = int(done.stdout)
    assert grown["apart"] < 20 << 10 < grown["default"]
