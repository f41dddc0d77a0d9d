"""Plugins cannot end a command silently or block it for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from guidegraph.commands.shared import supervised
from guidegraph.plugins import import_guard
from guidegraph.plugins.import_guard import ImportReports, set_import_reports
from guidegraph.plugins.manager import PluginManager
from tests.commands.command import TOYS, Command, start
from tests.commands.conftest import cli
from tests.plugins.test_broken_plugins import Site, node
from tests.plugins.test_manager import GOOD, HOOK, NODE, Installed, installed, status

__all__ = ["cli", "installed"]

FINE = "guidegraph: 1\nnodes: {a: {use: schedule.linear}}\noutputs: {a: a}\n"
WRONG = "guidegraph: 1\nnodes: {a: {use: schedule.lineal}}\noutputs: {a: a}\n"
C = "import ctypes\n"
AT_EXIT = "import atexit, os\natexit.register(os._exit, 0)\natexit.register(lambda: os._exit(0))\n"
ENDS = {
    "c_exit": (C + "ctypes.CDLL(None)._exit(0)", FINE, 1, "the process was ended with exit code 0 while the plugin"),
    "becomes": (C + "ctypes.CDLL(None).execl(b'/bin/true', b'true', None)", FINE, 1, "exit code 0 while the plugin"),
    "at_exit": (AT_EXIT + node("at_exit"), WRONG, 2, "did you mean 'schedule.linear'?"),
    "crashes": (C + "ctypes.string_at(0)", FINE, -signal.SIGSEGV, "the process crashed (SIGSEGV) while the plugin"),
}
SLOW_ENDS = ("becomes", "crashes")


def with_plugin(folder: Path, name: str, code: str) -> Site:
    site = Site(folder)
    site.add(name, f"gg_{name}", code, f"[guidegraph]\n{name} = gg_{name}\n")
    return site


def write_workflow(folder: Path, text: str) -> Path:
    path = folder / "w.yaml"
    path.write_text(text)
    return path


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="a command is supervised where signals can be awaited")
@pytest.mark.parametrize("name", ["c_exit", "at_exit", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_ENDS)])
def test_a_command_that_a_plugin_ends_fails(tmp_path: Path, name: str) -> None:
    code, workflow, exit_code, message = ENDS[name]
    result = with_plugin(tmp_path, name, code).guidegraph("run", write_workflow(tmp_path, workflow))
    assert result.returncode == exit_code
    assert message in result.stderr
    assert name == "at_exit" or f"GUIDEGRAPH_DISABLE_PLUGINS={name} or --no-plugins" in result.stderr


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="a command is supervised where signals can be awaited")
def test_an_import_that_blocks_the_interpreter_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of the command can run then; its parent ends it."""
    monkeypatch.setenv("GUIDEGRAPH_PLUGIN_SECONDS", "0.5")
    site = with_plugin(tmp_path, "hangs", C + "ctypes.PyDLL(None).sleep(1000)")
    result = site.guidegraph("run", write_workflow(tmp_path, FINE))
    assert result.returncode == 1
    assert "the plugin 'hangs' takes longer than 0.5 s to import; leave it out: GUIDEGRAPH_DISABLE" in result.stderr


@pytest.mark.parametrize(
    "call", ["os._exit(0)", "os.execlp('true', 'true')", "os.execv('/bin/true', ['true'])", "posix._exit(0)"]
)
def test_ending_the_process_is_an_error_of_the_plugin(installed: Installed, call: str) -> None:
    module = call.partition(".")[0]
    installed.add("ends", f"import {module}\ntry:\n    {call}\nexcept Exception:\n    pass\n")
    installed.add("good", GOOD)
    manager = PluginManager()
    assert status(manager, "good").ok
    assert status(manager, "ends").state == "failed"
    assert "would end the command" in status(manager, "ends").reason


def test_exit_functions_kept_by_a_plugin_work_after_its_import(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "_exit", calls.append)
    installed.add("keeps", "from os import _exit\n" + NODE.format(id="keeps.twice"))
    PluginManager()
    import gg_test_keeps  # type: ignore[import-not-found]

    gg_test_keeps._exit(3)
    os._exit(4)
    assert calls == [3, 4]


def test_a_slow_import_is_named_and_a_very_slow_one_ended(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_guard, "REPORT_AFTER", 0.001)
    monkeypatch.setenv("GUIDEGRAPH_PLUGIN_SECONDS", "0.01")
    lines: list[str] = []
    ended = threading.Event()

    def end(message: str) -> None:
        lines.append(message)
        ended.set()

    before = set_import_reports(ImportReports(print_line=lines.append, abort=end))  # type: ignore[arg-type]
    monkeypatch.setattr(threading, "import_ended", ended, raising=False)
    try:
        installed.add("slow", "import threading\nthreading.import_ended.wait(20)\n" + NODE.format(id="slow.twice"))
        PluginManager()
    finally:
        set_import_reports(before)
    assert lines[0] == "importing the plugin 'slow' …"
    assert lines[1].startswith("error: the plugin 'slow' takes longer than 0.01 s to import; leave it out: GUIDEGRAPH_")


def test_the_cause_of_the_end_of_a_supervised_command_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    report, parent = supervised.ParentLink(theirs), supervised._Watch(0, ours, 60.0)
    imports = report.imports()
    imports.on_start("first")
    imports.on_end("first")
    imports.on_start("second\n")
    parent.read()
    assert (parent.importing, parent.plugins, parent.code) == ("second ", ("first", "second "), None)
    imports.print_line("importing the plugin 'second' …")
    assert not parent.was_named
    parent.read()
    assert parent.was_named
    imports.on_end("second")
    report.exits(2)
    parent.read()
    assert (parent.importing, parent.code) == ("", 2)
    ours.close()
    theirs.close()
    parent.code = None
    parent.make_exit(0)
    message = (
        "error: the process was ended with exit code 0 before the command was done; plugins in it: 'first', 'second '"
    )
    assert message in capsys.readouterr().err
    parent.importing = "third"
    parent.make_exit(-signal.SIGKILL)
    assert "crashed (SIGKILL) while the plugin 'third' was imported" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="a command is supervised where signals can be awaited")
@pytest.mark.parametrize("command", ["validate", "run", "plan", "draw", "nodes", "schema", "sweep"])
def test_an_import_that_blocks_the_interpreter_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("GUIDEGRAPH_PLUGIN_SECONDS", "2")  # the parent waits 5 s longer
    uses = write_workflow(tmp_path, "guidegraph: 1\nnodes: {a: {use: hangs.one}}\noutputs: {a: a}\n")
    file = [] if command in ("nodes", "schema") else [uses]
    more = ["--seeds", "1,2"] if command == "sweep" else []
    site = with_plugin(tmp_path, "hangs", C + "ctypes.PyDLL(None).sleep(1000)")
    result = site.guidegraph(command, *file, *more)
    assert result.returncode == 1
    assert result.stderr.startswith("importing the plugin 'hangs' …\n")


NOISY = """
import atexit, os, subprocess, sys
os.write(1, b"noise\\n")
print("noise", file=sys.__stdout__, flush=True)
subprocess.run(["echo", "noise"])
atexit.register(print, "noise")
"""
WRITES = """
@node("noisy.write")
def write() -> float:
    print("noise")
    os.write(1, b"noise\\n")
    for path in ("outside.txt", "out/inside.txt", "kept/cached.txt", "removed.txt"):
        with open(path, "w") as file:
            file.write("text")
    os.remove("removed.txt")
    return 1.0
"""


def test_json_stays_json_and_files_outside_of_the_folder_are_recorded(tmp_path: Path) -> None:
    code = "from guidegraph import hookimpl, node\n" + NOISY + WRITES + HOOK.replace("twice", "write")
    site = with_plugin(tmp_path, "noisy", code)
    text = "guidegraph: 1\nnodes: {a: {use: noisy.write}}\noutputs: {a: a}\n"
    for folder in ("out", "kept"):
        (tmp_path / folder).mkdir()
    result = site.guidegraph("run", write_workflow(tmp_path, text), "--out", "out", "--cache", "kept", "--json")
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()][-1] == "run_finished"
    assert result.stderr.count("noise") == 6
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["written_outside"] == [str(tmp_path / "outside.txt")]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="a command is supervised where signals can be awaited")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [False, True])
def test_a_signal_to_a_supervised_command_cancels_it(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    loop = "guidegraph: 1\nparams: {n: 2000}\nnodes:\n  zero: {use: toy.number}\n  s:\n"
    loop += (
        "    loop: {over: params.n, as: i}\n    carry: {x: zero}\n    body: {y: {use: toy.sleep, in: {x: carry.x}}}\n"
    )
    path = write_workflow(tmp_path, loop + "    next: {x: y}\noutputs: {x: s.x}\n")
    running = start(["run", path, "--out", "out", "--plugin", TOYS], tmp_path, group=True)
    record = tmp_path / "out" / "run.json"
    while not record.exists():
        assert running.poll() is None
        time.sleep(0.05)
    (os.killpg if group else os.kill)(running.pid, number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.endswith("cancelled\n")
    assert json.loads(record.read_text())["status"] == "cancelled"


def test_the_version_and_the_help_of_a_command_need_no_plugin(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("plugins were imported")

    monkeypatch.setattr("guidegraph.plugins.manager.PluginManager", fail)
    assert cli("--version").code == 0
    assert cli("validate", "--help").code == 0
