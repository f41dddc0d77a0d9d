"""Limits on the time and memory of calls into onnxruntime.

A graph may contain an endless loop, or compute the shape of a tensor at run time, which no check of the file can see.
So one thread watches the calls in progress and makes onnxruntime end those that take too long, and values on the CPU
share one arena of limited size. A call whose result nobody waits for any longer is ended too.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from guidegraph_runtime.limits import current_limits, show_limit
from guidegraph_runtime.machine.memory import machine_memory, show_size

_NEVER = float("inf")
_SAME_AS_REQUESTED = 1
"""How the arena grows: to the next power of two, it would take up to twice the memory of a call."""
SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"
"""The key of run options that gives the arena's free memory back after a call; "cpu:0" is the arena of the CPU.

Otherwise the pieces of one size stay, and a call of another size finds no room beside them.
"""
NEEDS_MEMORY = "needs-memory"
"""The error code of a call that has not enough memory."""


_waiting: ContextVar[tuple[Callable[[], bool], ...]] = ContextVar("guidegraph_waiting", default=())
"""Whether each of those for whom a call is made still waits for its result; () for a call that nobody cancels."""


@contextmanager
def call_for(*waiting: Callable[[], bool]) -> Iterator[None]:
    """Make the calls of the block for some who may cease to wait. waiting: whether each still waits."""
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(token)


def is_unwanted(waiting: tuple[Callable[[], bool], ...] | None = None) -> bool:
    """Whether nobody waits any longer for the result of a call: by default for one of this thread."""
    waiting = _waiting.get() if waiting is None else waiting
    return bool(waiting) and not any(still_waits() for still_waits in waiting)


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
        self._calls: dict[int, tuple[float, Any, tuple[Callable[[], bool], ...]]] = {}
        self._numbers = count()
        self._thread: threading.Thread | None = None
        self._due = _NEVER

    @contextmanager
    def watch(self, options: Any, seconds: float | None) -> Iterator[None]:
        """Watch a call with these run options, which may take ``seconds``, for the duration of the block."""
        options.terminate = False
        waiting = _waiting.get()
        if seconds is None and not waiting:
            yield
            return
        number, end = next(self._numbers), _NEVER if seconds is None else time.monotonic() + seconds
        try:
            with self._lock:
                self._calls[number] = end, options, waiting
                if is_unwanted(waiting):
                    options.terminate = True
                if seconds is not None and (self._thread is None or not self._thread.is_alive()):
                    self._thread = threading.Thread(target=self._run, name="guidegraph-call-limits", daemon=True)
                    self._thread.start()
                elif end < self._due:
                    self._wake.put(None)
            yield
        finally:
            with self._lock:
                self._calls.pop(number, None)

    def end_unwanted(self) -> None:
        """End the calls for whose results nobody waits any longer. Call it when somebody has ceased to wait."""
        with self._lock:
            for _, options, waiting in self._calls.values():
                if is_unwanted(waiting):
                    options.terminate = True

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                for number in [number for number, (end, *_) in self._calls.items() if end <= now]:
                    _, options, _ = self._calls.pop(number)
                    options.terminate = True
                self._due = min((end for end, *_ in self._calls.values()), default=_NEVER)
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
_arena_call: Callable[[], object] | None = None
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt (malloc.h of glibc)."""
_IDENTITY = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a01"
    "79120a0a08080112040a02080142040a001011"
)
"""An ONNX graph y = x of one float (opset 17), since onnxruntime shrinks its arena at the end of a call alone."""


def limit_memory(onnxruntime: Any) -> None:
    """Create the process's arena for values on the CPU, once."""
    global _arena_bytes
    with _arena_lock:
        if _arena_bytes is None:
            limit = current_limits().memory_bytes or default_memory()
            memory = onnxruntime.OrtMemoryInfo(
                "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
            )
            onnxruntime.create_and_register_allocator(
                memory, onnxruntime.OrtArenaCfg(limit, _SAME_AS_REQUESTED, -1, -1)
            )
            _arena_bytes = limit


def release_arena() -> None:
    """Give free memory back to the system: the arena's, of values that were freed after the last call, and malloc's."""
    global _arena_call
    with _arena_lock:
        if _arena_bytes is None:
            return
        if _arena_call is None:
            import numpy as np
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.add_session_config_entry("session.use_env_allocators", "1")
            session = onnxruntime.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"])
            run_options = onnxruntime.RunOptions()
            run_options.add_run_config_entry(SHRINK_ARENA, "cpu:0")
            binding = session.io_binding()  # to memory of its own: an output in the arena would hold a region of it
            value = onnxruntime.OrtValue.ortvalue_from_numpy
            binding.bind_ortvalue_input("x", value(np.zeros(1, np.float32)))
            binding.bind_ortvalue_output("y", value(np.zeros(1, np.float32)))
            _arena_call = partial(session.run_with_iobinding, binding, run_options)
        _arena_call()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc, which keeps what threads have freed


def keep_large_blocks_apart() -> None:
    """Let glibc give each block of 1 MiB and more back to the system as soon as it is freed. Other systems do nothing.

    By default glibc takes ever larger blocks from its heap (M_MMAP_THRESHOLD grows to 32 MiB), where the pieces of one
    request's size are left between those of others.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(parameter, 1 << 20)


def default_memory() -> int:
    """Three quarters of the memory of this machine or its container, in bytes; 2**40 if unknown."""
    total = machine_memory()
    return 2**40 if total is None else total * 3 // 4


def explain_limit(error: BaseException, seconds: float | None) -> tuple[str, str] | None:
    """The code and the explanation of an error of onnxruntime that a limit caused; None for any other error."""
    text = str(error)
    if "terminate flag" in text and is_unwanted():
        return "cancelled", "the call was ended, since nobody waits for its result"
    if "terminate flag" in text:
        return (
            "limit-reached",
            f"the call took longer than the limit of {show_limit('call_seconds', seconds)}. If it may take longer, "
            "raise the limit: --limit call_seconds=VALUE",
        )
    if "Available memory of" in text and "is smaller than requested" in text:
        return (
            NEEDS_MEMORY,
            f"the call needs more memory than the limit of {show_size(_arena_bytes or 0)}. If this machine has it, "
            "raise the limit: --limit memory_bytes=VALUE",
        )
    return None
