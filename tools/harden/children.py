"""Run commands in processes forked from this one, so that nothing is imported again."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

MOST_MEMORY = 8 << 30
"""Bytes of address space beyond what this process has; a child that asks for more gets an error of its own."""


@dataclass(frozen=True)
class ChildExit:
    """How a child ended. code: its exit code, or minus the signal; ``None`` where its time was over."""

    code: int | None
    out: str

    @property
    def unfit(self) -> str:
        """Why no command should end so; empty where it may."""
        if self.code is None:
            return "it hung"
        if self.code < 0:
            return f"signal {-self.code}"
        if self.code not in (0, 1, 2, 130):
            return f"exit code {self.code}"
        return next((word for word in ("Traceback", "internal-error", "internal error") if word in self.out), "")


Entry: TypeAlias = Callable[[Sequence[str]], object]


def run_child(entry: Entry, arguments: Sequence[str], folder: Path, seconds: float) -> ChildExit:
    """Run the entry point of a command line in a forked child with a time limit."""
    with tempfile.TemporaryFile() as output:
        child = fork_child(entry, arguments, folder, output.fileno())
        code = wait_for(child, seconds)
        output.seek(0)
        return ChildExit(code, output.read().decode(errors="replace"))


def fork_child(entry: Entry, arguments: Sequence[str], folder: Path, output: int) -> int:
    """Run a command line's entry point in a forked child, printing to a descriptor; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, used + MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            entry(arguments)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait_for(child: int, seconds: float) -> int | None:
    """A child's exit code, or minus its signal; ``None`` where it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
