"""The command in a process of its own where other people's plugins take part, so that none of them can end it unseen.

A plugin runs in the process of the command. One that calls C's ``_exit(0)``, also from a thread or in an exit handler,
would make ``validate`` end with 0 and without a word. So the command is forked off before any plugin is imported, and
its parent, which runs no code of a plugin, waits for it. The command says through a socket which plugin it imports, and
with which code it is about to end. A process that ends with 0 and did not say so has failed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from guidegraph.cli.cancel import SIGNALS, parent
from guidegraph.cli.errors import CANCELLED, FAILED, say
from guidegraph.plugins.entries import HOST, canonical, distribution_of, entry_points, remember_entry_points
from guidegraph.plugins.importing import Imports, limit_seconds, tell_imports, too_long
from guidegraph.plugins.manager import DISABLE, disabled_by_environment

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GRACE = 5.0
"""Seconds beyond the limit of an import until the parent ends the command, where it has not done so itself."""
_PERIOD = 0.25
_BEGAN, _ENDED, _EXIT, _LISTENS = b"b", b"e", b"x", b"l"
_QUIET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGPIPE)


def needs_supervision(modules: Sequence[str], installed: bool) -> bool:
    """Whether plugins that do not come with guidegraph take part, and this system can fork and wait for signals."""
    if not (hasattr(os, "fork") and hasattr(signal, "sigtimedwait")) or threading.active_count() > 1:
        return False
    if modules:
        return True
    disabled = disabled_by_environment()
    return installed and any(
        entry.name not in disabled and canonical(distribution_of(entry)[0]) != HOST for entry in entry_points()
    )


def in_own_process(
    work: Callable[[list[str]], NoReturn], arguments: list[str], modules: Sequence[str], installed: bool
) -> NoReturn:
    """Run a command, which ends with ``SystemExit``: in a process of its own where others' plugins take part."""
    try:
        remember_entry_points()
        alone = not needs_supervision(modules, installed)
    except Exception:  # the loader says what is wrong with them, and imports none
        alone = True
    if alone:
        tell_imports(Imports(say=say, end=_end_at_once))
        work(arguments)
    report = supervise()
    tell_imports(report.imports())
    parent.signals, parent.listening = report.line, report.listens
    try:
        work(arguments)
    except SystemExit as ended:
        report.exits(ended.code if isinstance(ended.code, int) else FAILED if ended.code else 0)
        raise


class Report:
    """The command's end of the line."""

    def __init__(self, line: socket.socket):
        self.line = line

    def imports(self) -> Imports:
        return Imports(lambda name: self._write(_BEGAN, name), lambda name: self._write(_ENDED, name), say, self.end)

    def listens(self, listens: bool) -> None:
        """Say whether signals that come through the line are read."""
        self._write(_LISTENS, str(int(listens)))

    def exits(self, code: int) -> None:
        """Say with which code the command is about to end."""
        self._write(_EXIT, str(code))

    def end(self, message: str) -> NoReturn:
        """End the process, from any thread."""
        self.exits(FAILED)
        _end_at_once(message)

    def _write(self, kind: bytes, text: str) -> None:
        with suppress(OSError):  # the parent was killed
            self.line.sendall(kind + text.encode("utf-8", "replace").replace(b"\n", b" ")[:200] + b"\n")


def supervise() -> Report:
    """Fork. Returns in the command's process alone; the parent waits, and ends with the command's exit code."""
    ours, theirs = socket.socketpair()
    signals = {*PASSED_ON, signal.SIGCHLD}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent that ignores it hands that down
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    own = os.getpid()
    with warnings.catch_warnings():  # NumPy's threads: it is made for that, and no thread of Python's is there
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        theirs.close()
        ours.setblocking(False)
        _Watch(child, ours, limit_seconds() + GRACE).wait(signals)()
    ours.close()
    _die_with(own)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Report(theirs)


@dataclass
class _Watch:
    """The parent's view of the command.

    plugins: those that were imported; code: what the command said it ends with. listening: whether it reads
    signals from the line.
    """

    child: int
    line: socket.socket
    limit: float
    importing: str = ""
    since: float = 0.0
    plugins: tuple[str, ...] = ()
    code: int | None = None
    listening: bool = False
    _rest: bytes = b""

    def wait(self, signals: set[signal.Signals]) -> Callable[[], NoReturn]:
        """Pass signals on until the command has ended. What ends this process as the command did."""
        while True:
            received = signal.sigtimedwait(signals, _PERIOD)
            self.read()
            if received is not None and received.si_signo != signal.SIGCHLD:
                self.pass_on(received)
            if self.importing and time.monotonic() - self.since > self.limit:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)
                say(too_long(self.importing, self.limit - GRACE))
                return lambda: _exit(FAILED)
            ended, status = os.waitpid(self.child, os.WNOHANG)
            if ended:
                self.read()
                return self.ended(os.waitstatus_to_exitcode(status))

    def pass_on(self, received: signal.struct_siginfo) -> None:
        """Let the command have a signal, unless it is from the terminal (Ctrl-C) and has reached it too."""
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
                    self.told(line[:1], line[1:].decode("utf-8", "replace"))

    def told(self, kind: bytes, text: str) -> None:
        if kind == _BEGAN:
            self.importing, self.since = text, time.monotonic()
            self.plugins = (*self.plugins, text)
        elif kind == _ENDED:
            self.importing = ""
        elif kind == _LISTENS:
            self.listening = text == "1"
        elif kind == _EXIT and text.isdigit():
            self.code = int(text)

    def ended(self, code: int) -> Callable[[], NoReturn]:
        """code: the command's exit code, or a signal below zero."""
        if code < 0:
            number = signal.Signals(-code)
            if number not in _QUIET:
                say(self.blame(f"crashed ({number.name})"))
            return lambda: _die_of(number)
        if self.code is None and code != CANCELLED:
            say(self.blame(f"was ended with exit code {code}"))
            return lambda: _exit(code or FAILED)
        return lambda: _exit(code or self.code or 0)

    def blame(self, how: str) -> str:
        if self.importing:
            way_out = f"leave it out: {DISABLE}={self.importing} or --no-plugins"
            return f"error: the process {how} while the plugin '{self.importing}' was imported; {way_out}"
        names = ", ".join(f"'{name}'" for name in self.plugins)
        after = f"; plugins in it: {names}; try --no-plugins" if names else ""
        return f"error: the process {how} before the command was done{after}"


def _end_at_once(message: str) -> NoReturn:
    say(message)
    _exit(FAILED)


def _exit(code: int) -> NoReturn:
    """End this process at once, whatever a plugin has put in the place of ``os._exit``."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _real_exit(code)


_real_exit = os._exit


def _die_of(number: signal.Signals) -> NoReturn:
    """End by a signal as the command did, and leave no second core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    _real_exit(128 + number)


def _die_with(pid: int) -> None:
    """Have the system end this process when its parent is killed: nobody would be left to stop it. Linux alone can."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        _real_exit(FAILED)
