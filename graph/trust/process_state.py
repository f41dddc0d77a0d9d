"""Restoration of process state after each call of a node.

A node that changes the current directory, torch's default dtype or its number of threads affects every later node and
every other run in the process. Such changes are undone after the call, with a warning that names the node.
``NodeSpec.watch`` selects the state: torch's settings for guidegraph's own nodes that receive a model (1 µs per call);
for third-party nodes also the current directory, environment variables and the seeds of torch's generators (2 to 3 µs).
The state is read into one tuple, which is taken apart only if it has changed.

A node may draw from torch's generators, which advances them as usual. A node that calls ``torch.manual_seed``
determines all later draws; the seed of the generator, which a draw does not change, shows it. Seeds of Python's and
NumPy's generators cannot be read, so those are left as the node leaves them.

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
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from guidegraph.graph.late import torch

if TYPE_CHECKING:
    from guidegraph.graph.ir import Call
    from guidegraph.graph.node import Watch


class DevicePrecision(NamedTuple):
    """The precision for each device, a value of `fp32_precision`: ieee, tf32, bf16 or none."""

    cuda: str
    cpu: str

    def __str__(self) -> str:
        return f"{self.cuda} on CUDA and {self.cpu} on the CPU"


Precision: TypeAlias = str | DevicePrecision
"""highest, high or medium; by device where these words do not describe it."""


def make_precision_reader(torch: Any) -> Callable[[], Precision]:
    """A function that reads the precision."""
    read_word = torch.get_float32_matmul_precision
    backends = torch.backends

    def read_precision() -> Precision:
        try:
            word: str = read_word()
        except RuntimeError:
            return DevicePrecision(backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)
        return word

    return read_precision


def set_precision(torch: Any, precision: Precision) -> None:
    """Set a precision that was read before."""
    if isinstance(precision, str):
        torch.set_float32_matmul_precision(precision)
    else:
        torch.backends.cuda.matmul.fp32_precision = precision.cuda
        torch.backends.mkldnn.matmul.fp32_precision = precision.cpu


class Setting(NamedTuple):
    """A setting of the process. name: as in messages. initial: its first value; empty if the machine decides."""

    name: str
    read: Callable[[], Any]
    set: Callable[[Any], object]
    initial: tuple[Any, ...]


class TorchSettings(NamedTuple):
    """The settings of the process and of each thread, and the use of deterministic algorithms."""

    dtype: Setting
    precision: Setting
    threads: Setting
    gradients: Setting
    device: Setting
    deterministic: Setting


def list_torch_settings(torch: Any) -> TorchSettings:
    """The settings of the module torch."""
    return TorchSettings(
        Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
        Setting(
            "torch's precision of matrix products",
            make_precision_reader(torch),
            partial(set_precision, torch),
            ("highest",),
        ),
        Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads, ()),
        Setting("torch's recording of gradients", torch.is_grad_enabled, torch.set_grad_enabled, (True,)),
        Setting(
            "torch's default device",
            lambda: str(torch.get_default_device()),
            lambda device: torch.set_default_device(None if device == "cpu" else device),
            ("cpu",),
        ),
        Setting(
            "torch's use of deterministic algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            (False,),
        ),
    )


Values: TypeAlias = "tuple[Any, ...]"
PROCESS, THREAD, FOLDER, SEEDS = slice(2), slice(2, 5), 5, slice(6, 8)
"""Parts of the values that are read: torch's settings of the process and of this thread; the rest is read for
third-party nodes alone: the current directory, and the seeds of torch's generators on the CPU and on CUDA devices."""


@dataclass(slots=True, eq=False)
class SavedState:
    """The state before a call. variables: of the environment; ``None`` if only torch's settings are watched.
    generators: the states of torch's generators."""

    values: Values
    variables: Mapping[Any, Any] | None = None
    generators: tuple[torch.Tensor, ...] = ()


def _read_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


FOLDER_SETTING = Setting("the current directory", _read_folder, os.chdir, ())
"""The current directory; "" if it was removed."""


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


_active: list[SavedState] = []
"""For each active call, in all threads, the state before it; shared state is from before the first call."""
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
            values = (*values, first.values[FOLDER], *now.values[SEEDS])
            now = SavedState(values, first.variables, now.generators)
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
        saved = SavedState(readers.everything(), dict(_read_variables()), readers.generators())
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
        if now == values and _read_variables() == saved.variables:
            _end(saved)
            if keeper is not None and call.spec.pure:  # another may have drawn: the generators' states are out of date
                keeper.saved = saved
            return
        changed = list(_restore_changed(values, now, readers.settings))
        if _read_variables() != saved.variables:
            changed.append(_restore_variables(saved.variables))
        _end(saved)
        changed += _restore_seeded(saved, now)
    for change in changed:
        reported = _reported.get()
        if reported is not None:
            if (call.key, change) in reported:
                continue
            reported.add((call.key, change))
        warnings.warn(f"{call.mark}: nodes.{call.key} ({call.spec.id}) {change}", stacklevel=3)


def _restore_seeded(saved: SavedState, now: Values) -> Iterator[str]:
    """Set each generator of torch's that has another seed now back to its state before the call."""
    (cpu, cuda), (cpu_now, cuda_now) = saved.values[SEEDS], now[SEEDS]
    before, after = (cpu, *cuda), (cpu_now, *cuda_now)
    for i, (generator, state) in enumerate(zip(_list_generators(), saved.generators, strict=False)):
        if before[i] != after[i]:
            generator.set_state(state)
            yield f"seeds torch's random generator{f' of cuda:{i - 1}' if i else ''}, which was put back"


def _list_generators() -> tuple[Any, ...]:
    """torch's generators of the CPU and, if CUDA is in use, of its devices. They cannot be read during a capture."""
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return (torch.default_generator,)
    return (torch.default_generator, *torch.cuda.default_generators)


def _read_variables() -> Mapping[Any, Any]:
    """The environment without decoding, which would take 30 µs; not a copy."""
    variables: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
    return variables


def _restore_variables(before: Mapping[Any, Any]) -> str:
    """Restore the variables. Returns a message that names them. before: a copy from ``_read_variables``."""
    now = dict(_read_variables())
    names = sorted(os.fsdecode(name) for name in {*before, *now} if before.get(name) != now.get(name))
    decoded = {os.fsdecode(name): os.fsdecode(value) for name, value in before.items()}
    for name in names:
        if name in decoded:
            os.environ[name] = decoded[name]
        else:
            os.environ.pop(name, None)
    return f"changes environment variables, which were put back: {', '.join(names)}"


def _restore_changed(before: Values, now: Values, settings: tuple[Setting, ...]) -> Iterator[str]:
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
    """Readers of torch's settings, of everything and of the generators' states, and the settings up to the current
    directory in that order."""

    torch: Callable[[], Values]
    everything: Callable[[], Values]
    generators: Callable[[], tuple[torch.Tensor, ...]]
    settings: tuple[Setting, ...]


@cache
def _get_readers() -> _Readers:
    """The readers and setters of the state. Imports torch, as the run does anyway."""
    of_torch = list_torch_settings(torch)
    dtype, precision = of_torch.dtype.read, of_torch.precision.read
    threads, gradients, device = of_torch.threads.read, of_torch.gradients.read, _device_reader(torch)
    cpu: Any = torch.default_generator
    cuda: Any = torch.cuda
    seed, get_state, uses_cuda, no_seeds = cpu.initial_seed, cpu.get_state, cuda.is_initialized, ()

    def read_torch() -> Values:
        return dtype(), precision(), threads(), gradients(), device()

    def read_everything() -> Values:
        seeds = tuple(generator.initial_seed() for generator in _list_generators()[1:]) if uses_cuda() else no_seeds
        return dtype(), precision(), threads(), gradients(), device(), _read_folder(), seed(), seeds

    def read_generators() -> tuple[torch.Tensor, ...]:
        return tuple(generator.get_state() for generator in _list_generators()) if uses_cuda() else (get_state(),)

    return _Readers(read_torch, read_everything, read_generators, (*of_torch[:5], FOLDER_SETTING))


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
