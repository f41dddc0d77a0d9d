"""Messages and files of the command line for a full disk, a folder in use and leftovers of a killed run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from guidegraph_runtime.files import atomic_write as temporary
from guidegraph_runtime.files import locks
from guidegraph_runtime.files.locks import FOLDER_LOCK, hold_lock
from tests.commands.command import Command
from tests.commands.test_run import LOOP, names
from tests.os_limits import file_limit
from tests.runtime.files.test_temporary_names import make_stale_file

LARGE = """
guidegraph: 1
params: {batch: 1}
nodes:
  small: {use: toy.number}
  image: {use: toy.picture, in: {batch: params.batch}}
  large: {use: noise.gaussian, with: {shape: [3, %s, 8]}}
outputs: {small: small, large: large}
"""
TOO_LARGE = "cannot be written: it would be larger than a file may be here; raise the limit (ulimit -f)"


@pytest.fixture
def large(cli: Command) -> Path:
    """A workflow with an output larger than the limit, and a record below it."""
    return cli.workflow("large.yaml", LARGE % 1000)


def test_an_output_that_does_not_fit_on_the_disk_is_named_and_the_others_are_kept(cli: Command, large: Path) -> None:
    large.write_text(LARGE % 8)
    assert cli("run", large, "--out", "out").code == 0
    before = Path("out/large.safetensors").read_bytes()
    large.write_text(LARGE % 1000)
    with file_limit(20_000):
        result = cli("run", large, "--out", "out")
    assert result.code == 1
    assert (
        f"{large}:8:32: output-failed: output 'large' has no file: '{cli.folder / 'out/large.safetensors'}' cannot"
        in result.err
    )
    assert TOO_LARGE in result.err
    assert Path("out/large.safetensors").read_bytes() == before
    assert names(Path("out")) == ["large.safetensors", "run.json", "small.json"]


def test_a_record_that_does_not_fit_on_the_disk_is_named(cli: Command, large: Path) -> None:
    with file_limit(10):
        result = cli("run", large, "--out", "out")
    assert result.code == 1
    assert result.err.startswith(f"error: '{cli.folder / 'out/run.json'}' {TOO_LARGE}")
    assert names(Path("out")) == []


def test_a_full_cache_is_reported_once_and_does_not_end_the_run(
    cli: Command, large: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = LARGE.replace("outputs:", "  more: {use: noise.gaussian, with: {shape: [3, %s, 8]}}\noutputs:").replace(
        "large: large}", "large: large, more: more}"
    )
    large.write_text(text % (8, 9))
    real = temporary.temporary_path
    tried: list[Path] = []

    def full(path: Path, *suffixes: str) -> Path:
        if "cache" in path.parts:
            tried.append(path)
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr("guidegraph_runtime.files.atomic_write.temporary_path", full)
    result = cli("run", large, "--out", "out", "--cache", "cache")
    assert result.code == 0
    assert [path.name for path in tried] == [tried[0].name]
    (message,) = (text for text in caplog.messages if "importing the plugin" not in text)  # said if it takes long
    assert "keeps nothing more of this run, which goes on without it: '" in message
    assert "no space is left on the disk" in message


@pytest.mark.parametrize("command", ["draw", "schema"])
def test_files_of_other_commands_that_do_not_fit_on_the_disk(cli: Command, large: Path, command: str) -> None:
    workflow = [] if command == "schema" else [large]
    with file_limit(100):
        result = cli(command, *workflow, "-o", "written")
    assert (result.code, Path("written").exists()) == (1, False)
    assert result.err.startswith(f"error: 'written' {TOO_LARGE}")


def test_a_sweep_names_the_table_that_does_not_fit_on_the_disk(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", LARGE % 8)
    assert cli("sweep", workflow, "--grid", "batch=1,2", "--out", "out").code == 0
    with file_limit(20):
        result = cli("sweep", workflow, "--grid", "batch=1,2,3", "--out", "out")
    assert result.code == 1
    assert f"' {TOO_LARGE}" in result.err
    assert cli("sweep", workflow, "--grid", "batch=1,2,3", "--out", "out").code == 0
    assert len(Path("out/table.csv").read_text().splitlines()) == 4


def test_a_folder_in_use_is_refused_and_unchanged(cli: Command, large: Path) -> None:
    out = Path("out")
    for command in (["run", large], ["sweep", large, "--grid", "batch=1,2"]):
        with hold_lock(out / FOLDER_LOCK, out, "guidegraph run"):
            result = cli(*command, "--out", out)
            assert names(out) == [FOLDER_LOCK]
        assert result.code == 2
        expected = f"--out: folder-busy: guidegraph run (process {os.getpid()} on "
        assert result.err.startswith(expected)
        assert f"writes to '{out}' now: wait until it ends, or choose another folder" in result.err
        assert cli(*command, "--out", out).code == 0
        assert FOLDER_LOCK not in names(out)
        out = Path("another")


def test_a_run_holds_its_folder_while_it_runs(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []
    workflow = cli.workflow("loop.yaml", LOOP % [1.0, 2.0])
    release = locks._release

    def see(descriptor: int, file: Path) -> None:
        held.extend([*names(file.parent), json.loads(file.read_text())["what"]])
        release(descriptor, file)

    monkeypatch.setattr(locks, "_release", see)
    assert cli("run", workflow, "--out", "out").code == 0
    assert held == [FOLDER_LOCK, "before.png", "run.json", "x.json", "guidegraph run"]
    assert names(Path("out")) == ["before.png", "run.json", "x.json"]


def test_leftovers_of_a_killed_run_are_removed_and_reported(cli: Command, large: Path) -> None:
    out = Path("out")
    out.mkdir()
    make_stale_file(out / "large.safetensors")
    (out / FOLDER_LOCK).write_text("")
    mine = [".notes-1.tmp", "large.tmp"]
    for name in mine:
        (out / name).write_text("mine")
    (out / "run.json").write_text('{"status": "running", "started": "2026-01-31T12:00:00+01:00"}')
    result = cli("run", large, "--out", out)
    assert result.code == 0
    expected = "note: the last run into 'out', started 2026-01-31T12:00:00+01:00, was killed"
    assert result.err.startswith(expected)
    assert names(out) == sorted([*mine, "large.safetensors", "run.json", "small.json"])
    assert cli("run", large, "--out", out).err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["nodes"], ["--version"], ["run", "--help"]])
def test_output_that_cannot_be_printed_is_an_error(
    cli: Command, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = cli(*command)
    assert result.code == 1
    assert result.err.startswith("error: the output cannot be printed: no space is left on the disk")


def test_without_stderr_the_exit_code_is_the_same(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli("validate", "nothing.yaml").code == 2
