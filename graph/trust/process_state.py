"""Restoration of process state after each call of a node.

A node that changes the current directory, torch's default dtype or its number of threads affects every later node and
every other run in the process. Such changes are undone after the call, with a warning that names the node.
``NodeSpec.watch`` selects the state: torch's settings for guidegraph's own nodes that receive a model (1 µs per call);
for third-party nodes also the current directory, environment variables and seeds of random generators (4 µs, or 1.6
after another such node). The state is read into one tuple, which is taken apart only if it has changed.

Calls that overlap in several threads share the state saved before the first of them, so that a temporary change by one
of them is never saved as the state before another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from guidegraph.graph.trust.environment import make_version_reader, read_variables, restore_variables
from guidegraph.graph.trust.seed_detection import (
    GeneratorStates,
    StateMemory,
    find_numpy_state,
    find_python_generator,
    find_torch_state,
    import_numpy,
    read_cuda_states,
    restore_seeded,
    restore_seeded_cuda,
)
from guidegraph.graph.trust.torch_settings import list_torch_settings

if TYPE_CHECKING:
    from guidegraph.graph.ir import Call
    from guidegraph.graph.node import Watch

Values: TypeAlias = "tuple[Any, ...]"
PROCESS, THREAD, FOLDER, MARKS, VERSION = slice(2), slice(2, 5), 5, 6, 11
"""Parts of the values that are read: torch's settings of the process, and those of this thread; the rest is read for
third-party nodes alone: the current directory, pieces of the generators' states, and the version of the variables."""


@dataclass(slots=True, eq=False)
class SavedState:
    """The state before a call. variables: of the environment; ``None`` if only torch's settings are watched."""

    values: Values
    variables: Mapping[Any, Any] | None = None
    generators: GeneratorStates | None = None
    cuda: tuple[Any, ...] = ()


class StateKeeper:
    """The state that a third-party node left, for the next one.

    It holds between steps that follow each other directly. ``forget`` is called when other code may have run:
    observers, callbacks, or guidegraph's own nodes.
    """

    __slots__ = ("saved",)

    def __init__(self) -> None:
        self.saved: SavedState | None = None

    def forget(self) -> None:
        self.saved = None


class _Value(NamedTuple):
    """A piece of state: its name in messages, and its setter."""

    name: str
    set: Callable[[Any], object]


_active: list[SavedState] = []
"""For each active call, in all threads, the state before it or, where it is shared, before the first call."""
_runs: list[None] = []
_reported: ContextVar[set[tuple[str, str]] | None] = ContextVar("guidegraph_reported", default=None)


def _begin(now: SavedState, earlier: Sequence[SavedState]) -> SavedState:
    """Begin a call. Returns the state before it; what threads share is as it was before the first active call.

    earlier: the calls that were active before ``now`` was read, which may have seen their changes. Operations of lists
    are atomic, so no lock is needed.
    """
    if earlier or _active:
        calls = [*earlier, *_active, now]
        values = (*calls[0].values[PROCESS], *now.values[THREAD])
        if now.variables is not None:
            first = next(call for call in calls if call.variables is not None)
            values = (*values, first.values[FOLDER], *now.values[MARKS:])
            now = SavedState(values, first.variables, now.generators, now.cuda)
        else:
            now = SavedState(values)
    _active.append(now)
    return now


def _end(before: SavedState) -> None:
    """End the call that began with this state."""
    try:
        _active.remove(before)
    except ValueError:  # a run that began after an interrupt has cleared the list
        return


@contextmanager
def guard_run() -> Iterator[None]:
    """A run: warnings name a node and a change once, not at every call."""
    if not _runs:  # an interrupt may have come between the start and the end of a call
        _active.clear()
    _runs.append(None)
    token = _reported.set(set())
    try:
        yield
    finally:
        _reported.reset(token)
        _runs.pop()


def save_state(watch: Watch, keeper: StateKeeper | None = None) -> SavedState:
    """Save the state before a call. keeper: may know it from the step before."""
    saved = None if keeper is None or watch == "torch" else keeper.saved
    if saved is not None and not _active:
        _active.append(saved)
        return saved
    earlier = _active.copy()
    if watch == "torch":
        saved = SavedState(_get_readers().torch())
    elif saved is None:
        readers = _get_readers()
        saved = SavedState(readers.everything(), dict(read_variables()), readers.generators(), read_cuda_states())
    return _begin(saved, earlier)


def restore_state(saved: SavedState, call: Call, keeper: StateKeeper | None = None) -> None:
    """Restore state that changed since ``save_state``, with a warning that names the node."""
    readers, values = _get_readers(), saved.values
    if saved.variables is None:
        now = readers.torch()
        changed = [] if now == values else list(_restore_changed(values, now, readers.settings))
        _end(saved)
    else:
        now = readers.everything()
        same = now == values and (now[VERSION] is not None or read_variables() == saved.variables)
        if same and not saved.cuda and not readers.uses_cuda():
            _end(saved)
            if keeper is not None:
                keeper.saved = saved
            return
        changed = _restore_everything(saved, now, readers)
    for change in changed:
        _warn(call, change)


def _restore_everything(saved: SavedState, now: Values, readers: _Readers) -> list[str]:
    assert saved.generators is not None
    generators = readers.generators()
    changed = list(_restore_changed(saved.values, now, readers.settings))
    if read_variables() != saved.variables:
        changed.append(restore_variables(saved.variables or {}))
    _end(saved)
    seeded = restore_seeded(saved.generators, generators)
    seeded += restore_seeded_cuda(saved.cuda, read_cuda_states())
    return changed + [f"seeds {name}, which was put back" for name in seeded]


def _warn(call: Call, change: str) -> None:
    reported = _reported.get()
    if reported is not None:
        if (call.key, change) in reported:
            return
        reported.add((call.key, change))
    warnings.warn(f"{call.mark}: nodes.{call.key} ({call.spec.id}) {change}", stacklevel=4)


def _restore_changed(before: Values, now: Values, settings: tuple[_Value, ...]) -> Iterator[str]:
    """Restore the settings that changed. before, now: they begin with the values of these settings."""
    for old_value, new_value, value in zip(before, now, settings, strict=False):
        if old_value != new_value:
            old, new = (REMOVED if shown == "" else shown for shown in (old_value, new_value))
            try:
                value.set(old_value)
            except Exception as error:
                yield f"changes {value.name} to {new}, and it cannot be put back to {old}: {error}"
            else:
                yield f"changes {value.name} to {new}; it was put back to {old}"


REMOVED = "one that was removed"
"""In messages: the current directory if it is no more."""


class _Readers(NamedTuple):
    """Readers of torch's settings, of everything and of the generators' whole states, and the settings up to the
    current directory in that order."""

    torch: Callable[[], Values]
    everything: Callable[[], Values]
    generators: Callable[[], GeneratorStates]
    settings: tuple[_Value, ...]
    uses_cuda: Callable[[], bool]


@cache
def _get_readers() -> _Readers:
    """The readers and setters of the state. Imports torch, as the run does anyway."""
    import torch

    of_torch = list_torch_settings(torch)
    dtype, precision = of_torch.dtype.read, of_torch.precision.read
    threads, gradients, device = of_torch.threads.read, of_torch.gradients.read, _device_reader(torch)
    get_folder, watched, version = os.getcwd, of_torch[:5], make_version_reader()
    torch_state, (python_state, python) = find_torch_state(), find_python_generator()
    torch_start, torch_end, python_start = torch_state.pieces[0], torch_state.pieces[-1], python_state.pieces[0]
    numpy_piece = _make_numpy_reader()

    def read_torch() -> Values:
        return dtype(), precision(), threads(), gradients(), device()

    def read_everything() -> Values:
        try:
            folder = get_folder()
        except OSError:
            folder = ""
        return (
            dtype(),
            precision(),
            threads(),
            gradients(),
            device(),
            folder,
            torch_start.raw,
            torch_end.raw,
            python_start.raw,
            python.gauss_next,
            numpy_piece().raw,
            version(),
        )

    settings = (
        *(_Value(f"torch's {setting.name}", setting.set) for setting in watched),
        _Value("the current directory", os.chdir),
    )
    return _Readers(read_torch, read_everything, _read_generators, settings, torch.cuda.is_initialized)


def _read_generators() -> GeneratorStates:
    python_state, python = find_python_generator()
    numpy_state = find_numpy_state(import_numpy()())
    return GeneratorStates(
        find_torch_state().state.raw, python_state.state.raw, python.gauss_next, numpy_state.state.raw
    )


def _make_numpy_reader() -> Callable[[], StateMemory]:
    """A reader of the piece of NumPy's generator, which looks it up again when the generator was replaced."""
    get_generator: Callable[[], Any] | None = None
    kept: tuple[Any, StateMemory] | None = None  # replaced at once, since other threads read it

    def find_piece() -> StateMemory:
        nonlocal get_generator, kept
        if get_generator is None:
            get_generator = import_numpy()
        generator, last = get_generator(), kept
        if last is None or last[0] is not generator:
            kept = last = generator, find_numpy_state(generator).pieces[0]
        return last[1]

    return find_piece


def _device_reader(torch: Any) -> Callable[[], Any]:
    """A function that reads the device set by ``torch.set_default_device``, or None.

    ``torch.get_default_device`` takes 2 µs, since it also looks for ``with torch.device(…)``, which restores itself.
    """
    context = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if context is None:
        return torch.get_default_device  # type: ignore[no-any-return]

    def device() -> Any:
        mode = context.__dict__.get("device_context")  # getattr of an absent name takes 0.2 µs
        return None if mode is None else mode.device

    return device


def current_folder() -> str:
    """The current directory; "" if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""
