"""Imports each plugin in its own process, and reports the effects of the import.

A plugin may end that process, hang, or change global state; the audit reports it. One process has guidegraph
imported and is forked for each plugin. On systems without fork, each plugin gets a new process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import EntryPoint
from typing import NoReturn

from guidegraph.plugins.import_by_name import import_plugin_module
from guidegraph.plugins.import_guard import REPORT_AFTER, limit_seconds
from guidegraph.plugins.import_watch import KeepBuiltins
from guidegraph.plugins.process_changes import Changes, compare_snapshots, record_exit_handlers, snapshot

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from guidegraph.plugins.audit import main; main()"
_real_exit = os._exit
_encode = json.JSONEncoder().encode
"""Bound here: a plugin may replace functions of modules."""


@dataclass(frozen=True)
class AuditTarget:
    """A plugin to import: its name, and the value of its entry point; empty for a module given by name."""

    name: str
    value: str = ""


@dataclass(frozen=True)
class Audit:
    """The result of an import. ended: the message if it ended the process or took too long; otherwise empty.

    imports_torch: whether it imports torch, which delays every command. changes: lasting changes of the process, in
    words, by kind.
    """

    seconds: float = 0.0
    ended: str = ""
    imports_torch: bool = False
    changes: Changes = field(default_factory=dict)


def audit_plugins(plugins: Sequence[AuditTarget]) -> dict[AuditTarget, Audit]:
    """Import each plugin in its own process, one after the other."""
    groups = [plugins] if hasattr(os, "fork") else [[plugin] for plugin in plugins]
    return {plugin: audit for group in groups if group for plugin, audit in zip(group, _audit(group), strict=True)}


def _audit(plugins: Sequence[AuditTarget]) -> list[Audit]:
    seconds = limit_seconds()
    order = json.dumps({"seconds": seconds, "plugins": [[plugin.name, plugin.value] for plugin in plugins]})
    command = [sys.executable, "-c", _START, json.dumps(sys.path)]
    limit = 60 + 2 * (seconds + 1) * len(plugins)
    try:
        result = subprocess.run(command, input=order, stdout=subprocess.PIPE, text=True, timeout=limit, check=False)
        return [Audit(**audit) for audit in json.loads(result.stdout)]
    except subprocess.TimeoutExpired:
        ended = f"takes longer than {seconds:g} s to import"
    except ValueError:
        ended = f"ends the process with exit code {result.returncode}"
    return [Audit(ended=ended)] * len(plugins)


def main() -> NoReturn:
    """Run the auditing process: reads an order from stdin, writes the audits to stdout."""
    from guidegraph.plugins.manager import PluginManager

    order = json.load(sys.stdin)
    answer = os.dup(1)
    null_device = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # notes report a plugin's output
        os.dup2(null_device, stream)
    PluginManager(entry_points=False).complete()
    examine = _audit_in_forks if hasattr(os, "fork") else _audit_here
    audits = [examine(AuditTarget(*target), order["seconds"]) for target in order["plugins"]]
    os.write(answer, json.dumps([asdict(audit) for audit in audits]).encode())
    _real_exit(0)


def _audit_in_forks(plugin: AuditTarget, seconds: float) -> Audit:
    """Audit a plugin; if it imports torch, audit it again with torch already imported, to leave out torch's effects."""
    audit = _audit_in_fork(plugin, seconds, with_torch=False)
    if audit.ended or not audit.imports_torch:
        return audit
    again = _audit_in_fork(plugin, seconds, with_torch=True)
    return replace(audit, ended=again.ended, changes=again.changes)


def _audit_in_fork(plugin: AuditTarget, seconds: float, *, with_torch: bool) -> Audit:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(1, 2)
        try:
            audit = _audit_here(plugin, seconds, with_torch=with_torch)
            _write(writing, _encode(asdict(audit)).encode() + b"\n")
        finally:
            _real_exit(0)
    os.close(writing)
    started = time.monotonic()
    text = _read_answer(plugin.name, reading, seconds * (1 + with_torch))
    if text is None or text.endswith(b"\n"):  # it hangs, or has reported: do not wait for exit handlers
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    passed = time.monotonic() - started
    if text is None:
        return Audit(passed, f"takes longer than {seconds:g} s to import")
    if not text.endswith(b"\n"):
        code = os.waitstatus_to_exitcode(status)
        how = f"ends the process with exit code {code}" if code >= 0 else f"crashes ({signal.Signals(-code).name})"
        return Audit(passed, f"{how} when it is imported")
    return Audit(**json.loads(text))


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _read_answer(name: str, pipe: int, seconds: float) -> bytes | None:
    """Read a pipe up to its end or a newline; None after `seconds`. Reports a slow plugin by name."""
    text, started, reported = b"", time.monotonic(), False
    with os.fdopen(pipe, "rb", buffering=0) as stream:
        while True:
            passed = time.monotonic() - started
            if passed > seconds:
                return None
            if passed > REPORT_AFTER and not reported:
                reported = True
                os.write(2, f"importing the plugin {name!r} …\n".encode())
            if not select.select([stream], [], [], 0.1)[0]:
                continue
            data = stream.read(65536)
            text += data
            if not data or text.endswith(b"\n"):
                return text


def _audit_here(plugin: AuditTarget, seconds: float, *, with_torch: bool = False) -> Audit:
    """Import a plugin in this process, and return the lasting changes."""
    if with_torch:
        import torch  # noqa: F401
    handlers: list[str] = []
    builtins: list[str] = []
    before = snapshot()
    started = time.monotonic()
    # The loader reports failures.
    with record_exit_handlers(handlers), suppress(BaseException), KeepBuiltins(builtins, "{} changed"):
        if plugin.value:
            EntryPoint(plugin.name, plugin.value, "guidegraph").load()
        else:
            import_plugin_module(plugin.name)
    passed = time.monotonic() - started
    changes = compare_snapshots(before, snapshot())
    if handlers:
        changes["exit handlers"] = handlers
    if builtins:
        changes["builtins"] = [*changes.get("builtins", []), *builtins]
    return Audit(passed, "", "torch" in sys.modules, changes)
