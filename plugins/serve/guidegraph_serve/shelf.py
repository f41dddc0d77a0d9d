"""The bundles of a server: opened when a request needs them, and dropped, least recently used first, to save memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, Input, Manifest
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.machine.memory import show_size
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.observers import ServeObserver, call_each
from guidegraph_serve.uploads import SENT_TYPES

TURN_SECONDS = 10.0
"""How long a busy bundle keeps its memory while another waits for it."""


@dataclass
class ShelfEntry:
    """A bundle that the server offers.

    checks: the bundle without its graphs, which checks requests. size: of its files. bundle: while it is open. users:
    1 while its worker uses it or opens it. used: when it was last needed, by the monotonic clock; opened: when it was
    opened.
    """

    name: str
    folder: Path
    checks: Bundle
    size: int
    bundle: Bundle | None = None
    users: int = 0
    used: float = 0.0
    opened: float = 0.0

    @property
    def manifest(self) -> Manifest:
        return self.checks.manifest

    @property
    def inputs(self) -> dict[str, Input]:
        """The inputs that a request may set: those that are no files, and files that it may carry."""
        inputs = self.manifest.inputs
        return {name: spec for name, spec in inputs.items() if spec.type not in FILE_TYPES or spec.type in SENT_TYPES}

    @property
    def takes_files(self) -> bool:
        """Whether requests may send it pictures or tensors."""
        return any(spec.type in SENT_TYPES for spec in self.manifest.inputs.values())

    @property
    def takes_memory(self) -> bool:
        """Whether it is open, or is being opened."""
        return self.bundle is not None or self.users > 0


class BundleShelf:
    """Bundles by name, of which as many are open as fit into the memory.

    memory: bytes for the files of open bundles; None for no limit. Raises ``BundleError`` for a bundle that is invalid,
    larger than the memory, or needs a file with each request.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        settings: SessionSettings,
        memory: int | None = None,
        observers: Sequence[ServeObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._memory, self._observers, self._clock = settings, memory, observers, clock
        self._waiting: list[str] = []
        self._changed = Condition()
        self.entries = {name: self._check(name, folder) for name, folder in folders.items()}

    def _check(self, name: str, folder: Path) -> ShelfEntry:
        bundle = Bundle(folder, self._settings)
        size = sum(file.size for file in bundle.manifest.files.values())
        if self._memory is not None and size > self._memory:
            message = f"'{name}' has files of {show_size(size)}, and --memory is {show_size(self._memory)}: raise it"
            raise BundleError(str(folder), "too-large", message)
        for key, spec in bundle.manifest.inputs.items():
            if spec.required and spec.type in FILE_TYPES and spec.type not in SENT_TYPES:
                message = (
                    f"'{key}' is a file that each run needs and no request may send: give it a default, and export"
                )
                raise BundleError(str(folder), "needs-file", message)
        bundle.release_graphs()
        return ShelfEntry(name, folder, bundle, size)

    @property
    def open_bytes(self) -> int:
        """The size of the files of the open bundles."""
        return sum(entry.size for entry in self.entries.values() if entry.takes_memory)

    def acquire(self, name: str, timeout: float) -> Bundle | None:
        """Open a bundle, or take the open one, for its worker. None if it has to wait longer than the timeout.

        Raises ``BundleError`` if the bundle's folder has changed since the start.
        """
        entry = self.entries[name]
        with self._changed:
            if name not in self._waiting:
                self._waiting.append(name)
            if not self._changed.wait_for(lambda: self._make_room(entry), timeout):
                return None
            self._waiting.remove(name)
            entry.users, entry.used = entry.users + 1, self._clock()
            if entry.bundle is not None:
                return entry.bundle
        try:
            started = self._clock()
            bundle = Bundle(entry.folder, self._settings)
            if bundle.digest != entry.checks.digest:
                message = f"'{name}' was changed since the server started: start the server again"
                raise BundleError(str(entry.folder), "bundle-changed", message)
            call_each(self._observers, lambda observer: observer.on_open(name, self._clock() - started))
        except BaseException:
            self.release(name)
            raise
        with self._changed:
            entry.bundle, entry.opened = bundle, self._clock()
        return bundle

    def release(self, name: str) -> None:
        """End the use of a bundle; it stays open until others need its memory."""
        with self._changed:
            entry = self.entries[name]
            entry.users, entry.used = entry.users - 1, self._clock()
            self._changed.notify_all()

    def leave_queue(self, name: str) -> None:
        """No longer wait for room."""
        with self._changed:
            if name in self._waiting:
                self._waiting.remove(name)
            self._changed.notify_all()

    def is_due(self, name: str) -> bool:
        """Whether the worker of a bundle should end its runs and release it, since another waits for its memory."""
        with self._changed:
            return self._is_due(self.entries[name])

    def _is_due(self, entry: ShelfEntry) -> bool:
        return self._find_first_waiting() is not None and self._clock() - entry.opened >= TURN_SECONDS

    def _find_first_waiting(self) -> str | None:
        """The bundle that has waited longest for memory."""
        return next((name for name in self._waiting if not self.entries[name].takes_memory), None)

    def close(self) -> None:
        """Drop all bundles that nobody uses."""
        with self._changed:
            for entry in self.entries.values():
                if entry.bundle is not None and not entry.users:
                    self._drop(entry)

    def _make_room(self, entry: ShelfEntry) -> bool:
        """Drop unused bundles until this one fits. Whoever has waited longest for memory goes first."""
        if self._memory is None:
            return True
        if entry.bundle is not None:
            return not self._is_due(entry)
        if entry.name != self._find_first_waiting():
            return False
        unused = [other for other in self.entries.values() if other.bundle is not None and not other.users]
        for other in sorted(unused, key=lambda other: other.used):
            if self.open_bytes + entry.size <= self._memory:
                break
            self._drop(other)
        return self.open_bytes + entry.size <= self._memory

    def _drop(self, entry: ShelfEntry) -> None:
        entry.bundle = None
        call_each(self._observers, lambda observer: observer.on_drop(entry.name))
