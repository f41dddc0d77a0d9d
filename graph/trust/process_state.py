"""Restoration of process state after each call of a node.

A node that changes the current directory, torch's default dtype or its number of threads affects every later node and
every other run in the process. Such changes are undone after the call, with a warning that names the node.
``NodeSpec.watch`` selects the state: torch's settings for guidegraph's own nodes that receive a model (2 µs per
call); for third-party nodes also the current directory, environment variables and seeds of random generators (14 µs).

Calls that overlap in several threads share the state saved before the first of them, so that a temporary change by one
of them is never saved as the state before another.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from guidegraph.graph.trust.seed_detection import GeneratorStates, read_generators, restore_seeded

if TYPE_CHECKING:
    from guidegraph.graph.ir import Call
    from guidegraph.graph.node import Watch


class SavedState(NamedTuple):
    """The state before a call: values of the process, of this thread, and, for third-party nodes, more."""

    process: tuple[Any, ...]
    thread: tuple[Any, ...]
    foreign: ForeignState | None


class ForeignState(NamedTuple):
    """The additional state saved for third-party nodes."""

    folder: tuple[Any, ...]
    variables: dict[Any, Any]
    generators: GeneratorStates


class _Value(NamedTuple):
    """A piece of state: its name in messages, and its setter."""

    name: str
    set: Callable[[Any], object]


class _ActiveCalls:
    """The number of active calls in all threads, and the state before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._before: tuple[Any, ...] = ()

    def begin(self, now: tuple[Any, ...]) -> tuple[Any, ...]:
        """Begin a call; returns the state before the first active call, ``now`` if this is the first."""
        with self._lock:
            if not self._count:
                self._before = now
            self._count += 1
            return self._before

    def begin_first(self) -> bool:
        """Begin a call; returns whether it is the only active one."""
        with self._lock:
            self._count += 1
            return self._count == 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1

    def forget(self) -> None:
        """Start over: an interrupt may have come between ``begin`` and ``end``."""
        with self._lock:
            self._count = 0


_all_calls, _foreign_calls, _runs = _ActiveCalls(), _ActiveCalls(), _ActiveCalls()
_reported: ContextVar[set[tuple[str, str]] | None] = ContextVar("guidegraph_reported", default=None)


@contextmanager
def guard_run() -> Iterator[None]:
    """A run: warnings name a node and a change once, not at every call."""
    if _runs.begin_first():
        _all_calls.forget()
        _foreign_calls.forget()
    token = _reported.set(set())
    try:
        yield
    finally:
        _reported.reset(token)
        _runs.end()


def save_state(watch: Watch) -> SavedState:
    """Save the state before a call."""
    torch_state = _get_torch_state()
    before = _all_calls.begin(torch_state.process())
    foreign = None
    if watch == "everything":
        foreign = ForeignState(_foreign_calls.begin((current_folder(),)), dict(_raw_environment()), read_generators())
    return SavedState(before, torch_state.thread(), foreign)


def restore_state(saved: SavedState, call: Call) -> None:
    """Restore state that changed since ``save_state``, with a warning that names the node."""
    torch_state = _get_torch_state()
    changed: list[str] = []
    if (now := torch_state.process()) != saved.process:
        changed += _restore_changed(saved.process, now, torch_state.process_values)
    if (now := torch_state.thread()) != saved.thread:
        changed += _restore_changed(saved.thread, now, torch_state.thread_values)
    _all_calls.end()
    if saved.foreign is not None:
        changed += _restore_foreign(saved.foreign)
    for change in changed:
        _warn(call, change)


def _restore_foreign(foreign: ForeignState) -> list[str]:
    changed: list[str] = []
    if (folder := (current_folder(),)) != foreign.folder:
        changed += _restore_changed(foreign.folder, folder, (_Value("the current directory", os.chdir),))
    _foreign_calls.end()
    if _raw_environment() != foreign.variables:
        changed.append(_restore_variables(foreign.variables))
    if seeded := restore_seeded(foreign.generators):
        changed += [f"seeds {name}, which was put back" for name in seeded]
    return changed


def _warn(call: Call, change: str) -> None:
    reported = _reported.get()
    if reported is not None:
        if (call.key, change) in reported:
            return
        reported.add((call.key, change))
    warnings.warn(f"{call.mark}: nodes.{call.key} ({call.spec.id}) {change}", stacklevel=4)


def _restore_changed(before: tuple[Any, ...], now: tuple[Any, ...], values: tuple[_Value, ...]) -> Iterator[str]:
    for old_value, new_value, value in zip(before, now, values, strict=True):
        if old_value != new_value:
            try:
                value.set(old_value)
            except Exception as error:
                yield f"changes {value.name} to {new_value}, and it cannot be put back to {old_value}: {error}"
            else:
                yield f"changes {value.name} to {new_value}; it was put back to {old_value}"


class _TorchState(NamedTuple):
    """Readers of torch's per-process and per-thread state, and its values in the same order."""

    process: Callable[[], tuple[Any, ...]]
    thread: Callable[[], tuple[Any, ...]]
    process_values: tuple[_Value, ...]
    thread_values: tuple[_Value, ...]


@cache
def _get_torch_state() -> _TorchState:
    """The readers and setters of torch's state. Imports torch, as the run does anyway."""
    import torch

    dtype, threads, precision = torch.get_default_dtype, torch.get_num_threads, torch.get_float32_matmul_precision
    gradients, device = torch.is_grad_enabled, _device_reader(torch)
    return _TorchState(
        lambda: (dtype(), precision()),
        lambda: (threads(), gradients(), device()),
        (
            _Value("torch's default dtype", torch.set_default_dtype),
            _Value("torch's precision of matrix products", torch.set_float32_matmul_precision),
        ),
        (
            _Value("torch's number of threads", torch.set_num_threads),
            _Value("torch's recording of gradients", torch.set_grad_enabled),
            _Value("torch's default device", torch.set_default_device),
        ),
    )


def _device_reader(torch: Any) -> Callable[[], Any]:
    """A function that reads the device set by ``torch.set_default_device``, or None.

    ``torch.get_default_device`` takes 2 µs, since it also looks for ``with torch.device(…)``, which restores itself.
    """
    context = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if context is None:
        return torch.get_default_device  # type: ignore[no-any-return]

    def device() -> Any:
        mode = getattr(context, "device_context", None)
        return None if mode is None else mode.device

    return device


def current_folder() -> str:
    """The current directory; "" if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _raw_environment() -> Mapping[Any, Any]:
    """The environment without decoding, which would take 30 µs."""
    variables: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    return variables


def _restore_variables(before: dict[Any, Any]) -> str:
    now = dict(_raw_environment())
    names = sorted({_decode(name) for name in {*before, *now} if before.get(name) != now.get(name)})
    decoded = {_decode(name): _decode(value) for name, value in before.items()}
    for name in names:
        if name in decoded:
            os.environ[name] = decoded[name]
        else:
            os.environ.pop(name, None)
    return f"changes environment variables, which were put back: {', '.join(names)}"


def _decode(value: bytes | str) -> str:
    return os.fsdecode(value)
