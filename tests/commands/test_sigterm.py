"""The first SIGTERM ends every command; `timeout`, `docker stop` and job queues send only child."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.command import TOYS, environment, start

PLUGIN = """
import sys, time
from guidegraph import hookimpl, node


@node("slow.wait")
def wait() -> float:
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(600)
    return 1.0


@hookimpl
def guidegraph_nodes():
    return [wait]
"""
WORKFLOW = """
guidegraph: 1
nodes: {before: {use: toy.picture}, late: {use: slow.wait}}
outputs: {before: before, late: late}
"""


def test_the_first_sigterm_does_not_wait_for_the_node(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PLUGIN)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    plugins = ["--plugin", TOYS, "--plugin", "slow.py"]
    with start(["run", "w.yaml", *plugins, "--out", "out", "--quiet"], tmp_path) as running:
        assert running.stderr
        assert running.stderr.readline() == "asleep\n"
        running.send_signal(signal.SIGTERM)
        try:
            assert running.wait(60) == 130
        finally:
            running.kill()
        assert "ends in at most 5 seconds" in running.stderr.read()
    files = sorted(p.name for p in (tmp_path / "out").iterdir() if p.name != ".guidegraph.lock")  # nobody holds it
    assert files == ["before.png", "run.json"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["status"], record["error"]) == ("cancelled", "the process was ended amid the run")


SLOW = """
import ctypes, threading, time
from guidegraph_runtime.machine.termination import before_exit, end_on_sigterm

mutex = ctypes.create_string_buffer(64)

def print_ready():
    while mutex.raw[0] != 2:  # in a mutex of glibc: someone waits for it
        time.sleep(0.01)
    print("ready", flush=True)

threading.Thread(target=print_ready, daemon=True).start()
with end_on_sigterm(), before_exit(lambda: print("ended at once", flush=True)):
    try:
        %s
    finally:
        print("ended tidily", flush=True)
"""
DEADLOCK = "[ctypes.CDLL(None).pthread_mutex_lock(mutex) for _ in range(2)]"


@pytest.mark.parametrize(
    ("body", "code", "output"),
    [
        ("print('ready', flush=True); time.sleep(600)", -signal.SIGINT, "ended tidily\n"),
        (DEADLOCK, 130, "ended at once\n"),
    ],
    ids=["Python", "C"],
)
def test_sigterm_interrupts_a_block_and_ends_the_process_of_an_uninterruptible_call(
    tmp_path: Path, body: str, code: int, output: str
) -> None:
    command = [sys.executable, "-c", SLOW % body]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        try:
            assert (child.wait(30), child.stdout.read()) == (code, output)
        finally:
            child.kill()
