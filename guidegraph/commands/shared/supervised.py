"""Run the command in a child process when third-party plugins are used, so that none of them can end it unnoticed.

A plugin runs in the process of the command. One that calls C's ``_exit(0)``, even from a thread or an exit handler,
would make ``validate`` exit silently with 0. So the command is forked before any plugin is imported, and the parent,
which runs no plugin code, waits for it. Over a socket the command reports which plugin it imports and the exit code it
is about to use. A process that exits with 0 without reporting it has failed.

The parent passes its signals on. The first one during a run sets the cancel token, so the run ends within a step; the
second exits at once. Programs send SIGTERM only once. If the run has not ended a few seconds later, because a node is
in a long call, the process exits.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from guidegraph.commands.shared.errors import CANCELLED, FAILED
from guidegraph.commands.shared.printing import print_note
from guidegraph.graph.cancellation import CancelToken, ignore_interrupt
from guidegraph.plugins.entry_points import (
    DISABLE,
    is_own,
    list_entry_points,
    read_disabled_plugins,
    read_distribution,
    remember_entry_points,
)
from guidegraph.plugins.import_guard import (
    ImportReports,
    format_slow_import,
    format_timeout,
    limit_seconds,
    set_import_reports,
)
from guidegraph_runtime.machine.termination import GRACE, GracePeriod, end_at_once, watch_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Parent:
    """The parent of a command that ``supervised`` runs in a process of its own, if it has one.

    signals: the socket on which it forwards its signals, one byte each. listening: called with whether they are read.
    """

    signals: socket.socket | None = None
    listening: Callable[[bool], object] = bool


parent = Parent()


@contextmanager
def cancel_on_signals(token: CancelToken, say: Callable[[str], None]) -> Iterator[None]:
    """Context manager: SIGINT and SIGTERM cancel ``token``. Outside the main thread it does nothing."""
    grace = GracePeriod()

    def on_signal(number: int) -> None:
        if token.cancelled:
            end_at_once()
        token.cancel()
        if number == signal.SIGTERM:
            grace.begin()
            say(f"cancelling; ends in at most {GRACE:g} seconds")
        else:
            say("cancelling; once more to end at once")

    try:
        with watch_signals(dict.fromkeys(SIGNALS, ignore_interrupt), on_signal, parent.signals):
            parent.listening(True)
            try:
                yield
            finally:
                parent.listening(False)
    finally:
        grace.stop()


PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KILL_AFTER = 5.0
"""Seconds beyond the import limit after which the parent kills a command that has not ended by itself."""
_PERIOD = 0.25
NAME_AFTER = 5.0
"""Seconds after which the parent names a slow import, unless the command did: a busy interpreter runs no thread."""
_BEGAN, _ENDED, _EXIT, _LISTENS, _NAMED = b"b", b"e", b"x", b"l", b"n"
_QUIET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGPIPE)


def needs_supervision(modules: Sequence[str], installed: bool) -> bool:
    """Whether third-party plugins are used, and this system can fork and wait for signals."""
    if not (hasattr(os, "fork") and hasattr(signal, "sigtimedwait")) or threading.active_count() > 1:
        return False
    if modules:
        return True
    disabled = read_disabled_plugins()
    return installed and any(
        entry.name not in disabled and not is_own(read_distribution(entry)[0]) for entry in list_entry_points()
    )


def supervise(modules: Sequence[str], installed: bool) -> ParentLink | None:
    """If third-party plugins are used, go on in a child process, with a link to this one; only the child returns.

    ``None`` in a process that goes on itself. modules and installed: as for ``needs_supervision``.
    """
    try:
        remember_entry_points()
        in_process = not needs_supervision(modules, installed)
    except Exception:  # the loader reports the problem, and imports none
        in_process = True
    if in_process:
        set_import_reports(ImportReports(print_line=print_note, abort=_end_at_once))
        return None
    link = fork_command()
    set_import_reports(link.imports())
    parent.signals, parent.listening = link.line, link.listens
    return link


class ParentLink:
    """The command's end of the socket to its parent."""

    def __init__(self, line: socket.socket):
        self.line = line

    def imports(self) -> ImportReports:
        def print_line(line: str) -> None:
            print_note(line)
            self._write(_NAMED, line)

        return ImportReports(
            lambda name: self._write(_BEGAN, name), lambda name: self._write(_ENDED, name), print_line, self.end
        )

    def listens(self, listening: bool) -> None:
        """Tell the parent whether signals sent over the socket are read."""
        self._write(_LISTENS, str(int(listening)))

    def exits(self, code: int) -> None:
        """Tell the parent the exit code that the command is about to use."""
        self._write(_EXIT, str(code))

    def end(self, message: str) -> NoReturn:
        """End the process, from any thread."""
        self.exits(FAILED)
        _end_at_once(message)

    def _write(self, kind: bytes, text: str) -> None:
        with suppress(OSError):  # the parent was killed
            self.line.sendall(kind + text.encode("utf-8", "replace").replace(b"\n", b" ")[:200] + b"\n")


def fork_command() -> ParentLink:
    """Fork. Returns only in the child; the parent waits and exits with the child's exit code."""
    parent_end, child_end = socket.socketpair()
    signals = {*PASSED_ON, signal.SIGCHLD}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignoring it may have been inherited
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent_pid = os.getpid()
    with warnings.catch_warnings():  # NumPy's threads cause it; NumPy handles a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        child_end.close()
        parent_end.setblocking(False)
        _Watch(child, parent_end, limit_seconds() + KILL_AFTER).wait(signals)()
    parent_end.close()
    _die_with(parent_pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return ParentLink(child_end)


@dataclass
class _Watch:
    """The parent's view of the command.

    plugins: those imported so far. was_named: whether the current import was reported as slow. code: the exit code that
    the command announced. listening: whether it reads signals from the socket.
    """

    child: int
    line: socket.socket
    limit: float
    importing: str = ""
    since: float = 0.0
    plugins: tuple[str, ...] = ()
    was_named: bool = False
    code: int | None = None
    listening: bool = False
    _rest: bytes = b""

    def wait(self, signals: set[signal.Signals]) -> Callable[[], NoReturn]:
        """Forward signals until the command has ended. Returns a function that ends this process in the same way."""
        while True:
            received = signal.sigtimedwait(signals, _PERIOD)
            self.read()
            if received is not None and received.si_signo != signal.SIGCHLD:
                self.pass_on(received)
            if self.importing and not self.was_named and time.monotonic() - self.since > NAME_AFTER:
                self.was_named = True
                print_note(format_slow_import(self.importing))
            if self.importing and time.monotonic() - self.since > self.limit:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)
                print_note(format_timeout(self.importing, self.limit - KILL_AFTER))
                return lambda: _exit(FAILED)
            ended, status = os.waitpid(self.child, os.WNOHANG)
            if ended:
                self.read()
                return self.make_exit(os.waitstatus_to_exitcode(status))

    def pass_on(self, received: signal.struct_siginfo) -> None:
        """Forward a signal, unless it came from the terminal (Ctrl-C), which reaches the command too."""
        if not received.si_pid:
            return
        self.read()
        with suppress(ProcessLookupError, BlockingIOError, ConnectionError):
            if self.listening and received.si_signo in SIGNALS:
                self.line.send(bytes([received.si_signo]))
            else:
                os.kill(self.child, received.si_signo)

    def read(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while data := self.line.recv(65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self.receive(line[:1], line[1:].decode("utf-8", "replace"))

    def receive(self, kind: bytes, text: str) -> None:
        if kind == _BEGAN:
            self.importing, self.since, self.was_named = text, time.monotonic(), False
            self.plugins = (*self.plugins, text)
        elif kind == _ENDED:
            self.importing = ""
        elif kind == _NAMED:
            self.was_named = True
        elif kind == _LISTENS:
            self.listening = text == "1"
        elif kind == _EXIT and text.isdigit():
            self.code = int(text)

    def make_exit(self, exit_code: int) -> Callable[[], NoReturn]:
        """A function that ends this process in the same way. exit_code: negative for a signal."""
        if exit_code < 0:
            number = signal.Signals(-exit_code)
            if number not in _QUIET or (self.importing and number == signal.SIGKILL):
                print_note(self.blame(f"crashed ({number.name})"))
            return lambda: _die_of(number)
        if self.code is None and exit_code != CANCELLED:
            print_note(self.blame(f"was ended with exit code {exit_code}"))
            return lambda: _exit(exit_code or FAILED)
        return lambda: _exit(exit_code or self.code or 0)

    def blame(self, event: str) -> str:
        if self.importing:
            way_out = f"leave it out: {DISABLE}={self.importing} or --no-plugins"
            return f"error: the process {event} while the plugin '{self.importing}' was imported; {way_out}"
        names = ", ".join(f"'{name}'" for name in self.plugins)
        suspects = f"; plugins in it: {names}; try --no-plugins" if names else ""
        return f"error: the process {event} before the command was done{suspects}"


def _end_at_once(message: str) -> NoReturn:
    print_note(message)
    _exit(FAILED)


def _exit(code: int) -> NoReturn:
    """Exit at once, even if a plugin has replaced ``os._exit``."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _real_exit(code)


_real_exit = os._exit


def _die_of(number: signal.Signals) -> NoReturn:
    """End by the same signal as the command, without a second core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    _real_exit(128 + number)


def _die_with(pid: int) -> None:
    """Have the kernel kill this process when its parent is killed (Linux only)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        _real_exit(FAILED)
