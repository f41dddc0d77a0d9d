"""``--limit NAME=VALUE`` on the commands that read a workflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands.command import Command
from tests.commands.test_run import LOOP
from tests.must_end import must_end

WRONG = "--limit: bad-limit: there is no limit 'trip'; did you mean 'trips'?"


@pytest.mark.parametrize("command", ["run", "sweep", "validate", "plan", "draw", "export"])
def test_every_command_that_reads_a_workflow_takes_limits(cli: Command, command: str) -> None:
    path = cli.workflow("loop.yaml", LOOP % [1])
    more = ["-o", "bundle"] if command == "export" else []
    result = cli(command, path, *more, "--limit", "nodes=4")
    assert result.code == 2
    assert "too-large: with the workflows that it uses, this is 5 nodes; the limit is 4" in result.err
    result = cli(command, path, *more, "--limit", "trip=4")
    assert result.code == 2
    assert WRONG in result.err


def test_a_run_that_exceeds_a_limit_is_ended(cli: Command) -> None:
    path = cli.workflow("loop.yaml", LOOP % [1, 2, 3])
    result = cli("run", path, "--limit", "trips=2")
    assert result.code == 1
    assert "nodes.sample (loop): LimitExceeded: the loop takes 3 trips" in result.err
    result = cli("run", path, "--limit", "seconds=0.000001", "--out", "late")
    assert result.code == 1
    assert "error: the run took longer than the limit of 1e-06 s" in result.err
    assert '"status": "failed"' in (cli.folder / "late" / "run.json").read_text()
    assert cli("run", path, "--limit", "trips=3").code == 0


def test_a_cell_that_exceeds_the_time_limit_fails(cli: Command) -> None:
    path = cli.workflow("loop.yaml", LOOP % [1])
    result = cli("sweep", path, "--grid", "seconds=0,0.01", "--limit", "seconds=0.000001", "--out", "out")
    assert result.code == 1
    assert result.err.count("the run took longer than the limit") == 2
    assert "2 cells: 0 done (0 before), 2 failed" in result.out


def test_pipes_on_the_command_line_are_errors(cli: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with must_end():
        result = cli("run", tmp_path / "pipe")
        assert (result.code, "found a named pipe" in result.err) == (2, True)
        path = cli.workflow("loop.yaml", LOOP % [1])
        result = cli("sweep", path, "--from", tmp_path / "pipe")
        assert (result.code, "found a named pipe" in result.err) == (2, True)


def test_a_limit_exceeded_outside_a_node_is_not_an_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    from guidegraph.commands.shared.errors import exit_on_error
    from guidegraph_runtime.limits import check_limit

    with pytest.raises(SystemExit) as ended, exit_on_error(False):
        check_limit("file_bytes", 10**12, "'a' has 1 TB")
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: 'a' has 1 TB; the limit is 68.8 GB.")
