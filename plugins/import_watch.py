"""Watches the import of a plugin: its output, its duration, and its changes of the process.

Changed state is restored: a plugin that sets torch's default dtype would change the results of every workflow. Effects
that this process cannot see, such as a call of ``os._exit``, end it.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from guidegraph.graph.trust.process_state import current_folder
from guidegraph.graph.trust.torch_settings import list_torch_settings
from guidegraph.plugins.process_changes import Changes, compare_snapshots, record_exit_handlers, snapshot
from guidegraph_runtime.printing import visible

SLOW = 1.0
"""An import that takes longer than this, in seconds, is noted: it delays every command."""

State = dict[str, tuple[Any, Callable[[Any], object]]]
"""Values by name, each with its setter."""


class _OutputToStderr(io.TextIOBase):
    """Passes on output during an import to stderr, since a program may read a command's standard output."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text = (self.text + text)[:200]
        sys.stderr.write(visible(text))
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def watch_import(notes: list[str]) -> Iterator[None]:
    """Note effects of the block for the plugin's author; redirects output to stderr and restores state."""
    with_torch = "torch" in sys.modules
    before = _state(defaults=False)
    printed = _OutputToStderr()
    started = time.perf_counter()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        seconds = time.perf_counter() - started
        imported_torch = not with_torch and "torch" in sys.modules
        if printed.text.strip():
            notes.append(f"prints when it is imported: '{printed.text.strip().splitlines()[0][:60]}'; leave it out")
        if seconds > SLOW:
            cause = ", torch with it" if imported_torch else ""
            notes.append(
                f"takes {seconds:.1f} s to import{cause}, and commands wait for it: import slow modules inside "
                "the functions that need them"
            )
        if imported_torch:
            before |= _torch_state(sys.modules["torch"], defaults=True)
        notes += _restore_state(before)


class KeepBuiltins:
    """Puts back builtins that the block replaced or removed, and notes it. Those that it added stay.

    It is a class, and has to be the innermost of several contexts: the others call builtins when they end.
    text: the note, with ``{}`` for the builtin's name.
    """

    def __init__(
        self, notes: list[str], text: str = "replaces the builtin '{}' when it is imported; it was put back"
    ) -> None:
        self._notes, self._text = notes, text

    def __enter__(self) -> None:
        self._before = {**builtins.__dict__}

    def __exit__(self, *error: object) -> None:
        now = builtins.__dict__
        for name, value in self._before.items():
            if name != "_" and now.get(name, now) is not value:
                now[name] = value
                self._notes.append(self._text.format(name))


OF_TORCH = ("functions of modules", "warning filters", "exit handlers", "threads", "hooks", "Python", "torch")
"""Kinds of changes that importing torch also makes."""

changes_by_plugin: dict[str, Changes] = {}
"""Lasting changes of this process by each plugin's import, by plugin name; only plugins with changes."""


@contextmanager
def record_changes(plugin: str) -> Iterator[None]:
    """Record lasting changes by an import in ``changes_by_plugin``: they may explain a later error."""
    handlers: list[str] = []
    with_torch = "torch" in sys.modules
    before = snapshot(thorough=False)
    try:
        with record_exit_handlers(handlers):
            yield
    finally:
        new_changes = compare_snapshots(before, snapshot(thorough=False))
        if handlers:
            new_changes["exit handlers"] = handlers
        if not with_torch and "torch" in sys.modules:  # torch makes some changes itself
            new_changes = {kind: changes for kind, changes in new_changes.items() if kind not in OF_TORCH}
        if new_changes:
            changes_by_plugin[plugin] = new_changes


def _restore_state(before: State) -> Iterator[str]:
    """Restore changed values, and yield a note for each."""
    now = _state(defaults=False)
    for name, (value, restore) in before.items():
        if name in now and now[name][0] != value:
            with suppress(Exception):  # noted even if it cannot be restored
                restore(value)
            yield f"changes {name} to {now[name][0]} when it is imported; it was put back to {value}"


def _state(*, defaults: bool) -> State:
    state: State = {"the current directory": (current_folder(), os.chdir)}
    # A plugin may import only parts of torch, or fail during its import: only a complete torch has a state.
    torch = sys.modules.get("torch")
    return state | _torch_state(torch, defaults=defaults) if hasattr(torch, "set_float32_matmul_precision") else state


def _torch_state(torch: Any, *, defaults: bool) -> State:
    """The state of torch that affects all results: the current values, or torch's initial ones if ``defaults``.

    The initial number of threads depends on the machine, so it is left out of the defaults.
    """
    state: State = {}
    for setting in list_torch_settings(torch):
        for value in setting.initial if defaults else (setting.read(),):
            state[f"torch's {setting.name}"] = (value, setting.set)
    return state
