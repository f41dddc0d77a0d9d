"""The file of ``-o``: paths that cannot be written are problems of the arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.lab.tests.report.folders import WORKFLOW, run_folder
from tests.commands.command import Command


@pytest.fixture(params=["draw", "report", "schema"])
def command(request: pytest.FixtureRequest, cli: Command) -> list[str | Path]:
    """A command with ``-o`` as its last argument."""
    arguments = {"draw": [cli.workflow("draw.yaml", WORKFLOW)], "report": [run_folder(cli.folder / "run")]}
    return [request.param, *arguments.get(request.param, []), "-o"]


def test_a_folder_in_place_of_the_file_is_refused(cli: Command, command: list[str | Path]) -> None:
    Path("some").mkdir()
    result = cli(*command, "some")
    assert (result.code, result.err) == (2, "--output: not-a-file: 'some' is a folder; name the file to write\n")


def test_a_file_in_place_of_a_folder_is_refused(cli: Command, command: list[str | Path]) -> None:
    Path("afile").write_text("")
    for path in ("afile/page", "afile/inner/page"):
        result = cli(*command, path)
        assert (result.code, result.err) == (2, "--output: not-a-folder: 'afile' is not a folder\n")


def test_a_name_that_no_file_system_takes_is_refused(cli: Command, command: list[str | Path]) -> None:
    result = cli(*command, "x" * 5000)
    assert result.code == 2
    assert "--output: not-written: 'xxx" in result.err
    assert "cannot be written: File name too long; name another file" in result.err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_folder_that_takes_no_files_is_refused(cli: Command, command: list[str | Path]) -> None:
    result = cli(*command, "/proc/page")
    assert result.code == 2
    assert "--output: not-written: '/proc/page' cannot be written: " in result.err
