"""The state of the process, put back after each call of a node.

A node that changes the current directory, torch's default dtype or the number of its threads changes every node after
it, and every other run in the process. What a call of a node leaves changed is put back, with a warning that names the
node. ``NodeSpec.watch`` says what is looked at: torch's settings around the calls of guidegraph's own nodes that are
given a model (2.4 µs a call), and the current directory, environment variables and seeds of random generators too
around the calls of all others (16 µs).

Calls that overlap, in other threads, share the state that was there before the first of them: what one of them changes
for a while is never taken for what was there before another.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from guidegraph.graph.trust.generators import Generators, put_back_seeded, read_generators

if TYPE_CHECKING:
    from guidegraph.graph.ir import Call
    from guidegraph.graph.node import Watch


class Kept(NamedTuple):
    """What there was before a call: values of the process and of this thread, and more for other people's nodes."""

    process: tuple[Any, ...]
    thread: tuple[Any, ...]
    rest: Rest | None


class Rest(NamedTuple):
    """What is looked at around the calls of nodes that do not come with guidegraph."""

    folder: tuple[Any, ...]
    variables: dict[Any, Any]
    generators: Generators


class _Value(NamedTuple):
    """A value by its name in messages, and what sets it."""

    name: str
    set: Callable[[Any], object]


class _Calls:
    """The calls that go on in all threads, and what was there before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._before: tuple[Any, ...] = ()

    def begin(self, now: tuple[Any, ...]) -> tuple[Any, ...]:
        """Count a call in. What was there before: now, or before the calls that go on."""
        with self._lock:
            if not self._count:
                self._before = now
            self._count += 1
            return self._before

    def begin_first(self) -> bool:
        """Count one in, and whether it is the only one."""
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


_all_calls, _foreign_calls, _runs = _Calls(), _Calls(), _Calls()
_told: ContextVar[set[tuple[str, str]] | None] = ContextVar("guidegraph_told", default=None)


@contextmanager
def guarded_run() -> Iterator[None]:
    """A run: a node of it that changes something is named once for each thing, and not at every call."""
    if _runs.begin_first():
        _all_calls.forget()
        _foreign_calls.forget()
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)
        _runs.end()


def keep_state(watch: Watch) -> Kept:
    """Read the state before a call."""
    torch_state = _torch_state()
    before = _all_calls.begin(torch_state.process())
    rest = None
    if watch == "everything":
        rest = Rest(_foreign_calls.begin((current_folder(),)), _variables(), read_generators())
    return Kept(before, torch_state.thread(), rest)


def put_back(kept: Kept, call: Call) -> None:
    """Put back what has changed since ``keep_state``, and warn of the node that did it."""
    torch_state = _torch_state()
    changed: list[str] = []
    if (now := torch_state.process()) != kept.process:
        changed += _set_different(kept.process, now, torch_state.process_values)
    if (now := torch_state.thread()) != kept.thread:
        changed += _set_different(kept.thread, now, torch_state.thread_values)
    _all_calls.end()
    if kept.rest is not None:
        changed += _put_back_rest(kept.rest)
    for what in changed:
        _warn(call, what)


def _put_back_rest(rest: Rest) -> list[str]:
    changed = [*_set_different(rest.folder, (current_folder(),), (_Value("the current directory", os.chdir),))]
    _foreign_calls.end()
    if _variables() != rest.variables:
        changed.append(_put_back_variables(rest.variables))
    return changed + [f"seeds {name}, which was put back" for name in put_back_seeded(rest.generators)]


def _warn(call: Call, what: str) -> None:
    told = _told.get()
    if told is not None:
        if (call.key, what) in told:
            return
        told.add((call.key, what))
    warnings.warn(f"{call.mark}: nodes.{call.key} ({call.spec.id}) {what}", stacklevel=4)


def _set_different(before: tuple[Any, ...], now: tuple[Any, ...], values: tuple[_Value, ...]) -> Iterator[str]:
    for old, new, value in zip(before, now, values, strict=True):
        if old != new:
            try:
                value.set(old)
            except Exception as error:
                yield f"changes {value.name} to {new}, and it cannot be put back to {old}: {error}"
            else:
                yield f"changes {value.name} to {new}; it was put back to {old}"


class _TorchState(NamedTuple):
    """What reads torch's state of the process and of a thread, and what the values are."""

    process: Callable[[], tuple[Any, ...]]
    thread: Callable[[], tuple[Any, ...]]
    process_values: tuple[_Value, ...]
    thread_values: tuple[_Value, ...]


@cache
def _torch_state() -> _TorchState:
    """torch is imported by the run."""
    import torch

    dtype, threads, precision = torch.get_default_dtype, torch.get_num_threads, torch.get_float32_matmul_precision
    gradients, device = torch.is_grad_enabled, _default_device(torch)
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


def _default_device(torch: Any) -> Callable[[], Any]:
    """What reads the device that ``torch.set_default_device`` has set, or None.

    ``torch.get_default_device`` takes 2 µs, as it looks for ``with torch.device(…)`` too, which ends by itself.
    """
    context = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if context is None:
        return torch.get_default_device  # type: ignore[no-any-return]

    def device() -> Any:
        mode = getattr(context, "device_context", None)
        return None if mode is None else mode.device

    return device


def current_folder() -> str:
    """The current directory; "" where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _variables() -> dict[Any, Any]:
    """The environment as the process holds it: ``dict(os.environ)`` decodes each variable, and takes 30 µs."""
    return dict(getattr(os.environ, "_data", os.environ))


def _put_back_variables(before: dict[Any, Any]) -> str:
    now = _variables()
    names = sorted({_text(name) for name in {*before, *now} if before.get(name) != now.get(name)})
    decoded = {_text(name): _text(value) for name, value in before.items()}
    for name in names:
        if name in decoded:
            os.environ[name] = decoded[name]
        else:
            os.environ.pop(name, None)
    return f"changes environment variables, which were put back: {', '.join(names)}"


def _text(part: bytes | str) -> str:
    return os.fsdecode(part)
