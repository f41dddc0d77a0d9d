"""Ctrl-C in a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.command import TOYS, environment, start
from tests.commands.test_run import LOOP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_within_a_step(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "loop.yaml").write_text(LOOP % list(range(10_000)))
    with start(["run", "loop.yaml", "--plugin", TOYS, "--out", "out", "--json"], tmp_path) as running:
        assert running.stdout
        assert running.stderr
        for line in running.stdout:
            if json.loads(line)["event"] == "loop_progress":
                running.send_signal(number)
                break
        remaining = [json.loads(line) for line in running.stdout]
        assert running.wait(20) == 130
        assert "cancelled" in running.stderr.read()
    assert sum(row["event"] == "loop_progress" for row in remaining) <= 3  # some had been sent already
    assert remaining[-1]["event"] == "run_finished"
    assert remaining[-1]["status"] == "cancelled"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["before.png", "run.json"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "cancelled"
    assert record["outputs"]["before"]["files"] == ["before.png"]


@pytest.mark.parametrize("module", ["guidegraph.commands.shared.supervised", "guidegraph.commands.nodes"])
def test_ctrl_c_during_imports_ends_quietly(module: str) -> None:
    code = f"""
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.argv = ["guidegraph", "nodes"]
from guidegraph.commands import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "cancelled\n")


def test_the_second_signal_does_not_wait_for_the_node(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text(LOOP % [1])
    slow = ["--set", "seconds=600"]
    with start(["run", "loop.yaml", "--plugin", TOYS, "--out", "out", "--json", *slow], tmp_path) as running:
        assert running.stdout
        assert running.stderr
        for line in running.stdout:
            if json.loads(line).get("path") == "nodes.sample":
                break
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        assert "once more" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(5) == 130
