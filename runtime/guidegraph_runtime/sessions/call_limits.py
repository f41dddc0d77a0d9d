"""Limits on the time and memory of calls into onnxruntime.

A graph may contain an endless loop, or compute the shape of a tensor at run time, which no check of the file can see.
So one thread watches the calls in progress and makes onnxruntime end those that take too long, and values on the CPU
share one arena of limited size.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from guidegraph_runtime.limits import current_limits, show_limit
from guidegraph_runtime.machine.byte_sizes import show_size
from guidegraph_runtime.machine.memory import machine_memory

_NEVER = float("inf")


class CallWatch:
    """Sets ``terminate`` in the run options of calls that exceed their time: onnxruntime stops at the next operator.

    The lock and the queue are written in C, so an interrupt in the middle of a block cannot leave them held.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all calls and the thread, which a forked process does not have."""
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._calls: dict[int, tuple[float, Any]] = {}
        self._numbers = count()
        self._thread: threading.Thread | None = None
        self._due = _NEVER

    @contextmanager
    def watch(self, options: Any, seconds: float | None) -> Iterator[None]:
        """Watch a call with these run options, which may take ``seconds``, for the duration of the block."""
        options.terminate = False
        if seconds is None:
            yield
            return
        number, end = next(self._numbers), time.monotonic() + seconds
        try:
            with self._lock:
                self._calls[number] = end, options
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="guidegraph-call-limits", daemon=True)
                    self._thread.start()
                elif end < self._due:
                    self._wake.put(None)
            yield
        finally:
            with self._lock:
                self._calls.pop(number, None)

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                for number in [number for number, (end, _) in self._calls.items() if end <= now]:
                    _, options = self._calls.pop(number)
                    options.terminate = True
                self._due = min((end for end, _ in self._calls.values()), default=_NEVER)
                seconds = min(self._due - now, threading.TIMEOUT_MAX)
            # Most calls end well within their time, so the thread is not woken for each of them.
            try:
                self._wake.get(timeout=seconds)
            except Empty:
                continue


WATCH = CallWatch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCH.reset)

_arena_lock = threading.Lock()
_arena_bytes: int | None = None


def limit_memory(onnxruntime: Any) -> None:
    """Create the process's arena for values on the CPU, once."""
    global _arena_bytes
    with _arena_lock:
        if _arena_bytes is None:
            limit = current_limits().memory_bytes or default_memory()
            memory = onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            )
            onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(limit, -1, -1, -1))
            _arena_bytes = limit


def default_memory() -> int:
    """Three quarters of the memory of this machine or its container, in bytes; 2**40 if unknown."""
    total = machine_memory()
    return 2**40 if total is None else total * 3 // 4


def explain_limit(error: BaseException, seconds: float | None) -> str | None:
    """Explain an error of onnxruntime that a limit caused; None for any other error."""
    text = str(error)
    if "terminate flag" in text:
        return (
            f"the call took longer than the limit of {show_limit('call_seconds', seconds)}. If it may take longer, "
            "raise the limit: --limit call_seconds=VALUE"
        )
    if "Available memory of" in text and "is smaller than requested" in text:
        return (
            f"the call needs more memory than the limit of {show_size(_arena_bytes or 0)}. If this machine has it, "
            "raise the limit: --limit memory_bytes=VALUE"
        )
    return None
