"""The folder of a bundle: one export at a time, and recovery after a killed export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guidegraph.graph.export import bundle as writing
from guidegraph_runtime.files.atomic_write import temporary_path
from guidegraph_runtime.files.locks import hold_lock
from guidegraph_runtime.machine.shortages import WriteError
from tests.commands.command import Command
from tests.graph.export.test_export_command import TINY, export
from tests.graph.export.test_export_command import cli as cli  # the fixture
from tests.os_limits import file_limit
from tests.runtime.files.test_temporary_names import DEAD


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def of_dead_process(path: Path) -> Path:
    return path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{DEAD}-"))


def killed_export(folder: Path) -> None:
    """What an export leaves that was killed just when the old bundle had made way for the new one."""
    out = (folder / "bundle").resolve()
    half = of_dead_process(temporary_path(out))
    half.mkdir()
    (half / "step.onnx").write_text("half")
    old = of_dead_process(temporary_path(writing._backup_path(out), "old"))
    old.mkdir()
    (old / "bundle.json").write_text("{}")


def replace_with(out: Path, text: str = "new", *, fail: bool = False) -> None:
    with writing._replace_folder(out) as folder:
        (folder / "bundle.json").write_text(text)
        if fail:
            raise RuntimeError("stopped")


def test_the_bundle_that_was_replaced_when_an_export_was_killed_comes_back(tmp_path: Path) -> None:
    killed_export(tmp_path)
    with pytest.raises(RuntimeError, match="stopped"):
        replace_with(tmp_path / "bundle", fail=True)
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "{}"


def test_it_goes_where_there_is_a_bundle_again(tmp_path: Path) -> None:
    replace_with(tmp_path / "bundle")
    killed_export(tmp_path)
    replace_with(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "new"


def test_that_of_another_bundle_stays(tmp_path: Path) -> None:
    killed_export(tmp_path)
    replace_with(tmp_path / "bundle-2")
    old = of_dead_process(temporary_path(writing._backup_path(tmp_path / "bundle"), "old")).name.rpartition("-")[0]
    assert [name.rpartition("-")[0] for name in names(tmp_path)] == [old, "bundle"]


@pytest.mark.parametrize("arguments", [("-o", "new/bundle"), ("-o", "new/tiny.onnx", "--single-file")])
def test_the_place_of_an_export_in_progress_is_refused(cli: Command, arguments: tuple[str, ...]) -> None:
    nodes = str(Path(__file__).with_name("tiny_nodes.py"))
    place = Path(arguments[1]).resolve()
    with hold_lock(place.with_name(f".{place.name}.lock"), place, "guidegraph export"):
        result = cli("export", cli.workflow("tiny.yaml", TINY), *arguments, "--plugin", nodes)
        assert names(place.parent) == [f".{place.name}.lock"]
    assert result.code == 2
    assert result.err.startswith(f"--output: folder-busy: guidegraph export (process {os.getpid()} on ")
    assert names(cli.folder) == ["tiny.yaml"]


def test_a_bundle_without_room_is_named_and_leaves_the_old_one(tmp_path: Path) -> None:
    replace_with(tmp_path / "bundle", "old")
    with file_limit(500), pytest.raises(WriteError, match=r"bundle' cannot be written: it would be larger"):
        replace_with(tmp_path / "bundle", "new" * 500)
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


@pytest.mark.slow
def test_an_export_without_room_is_one_message(cli: Command) -> None:
    """TINY's ONNX graph takes more than 500 bytes."""
    Path("bundle").mkdir()
    (Path("bundle") / "bundle.json").write_text("{}")
    with file_limit(500):
        result = export(cli, TINY, "--no-reference")
    assert result.code == 1
    assert result.err.startswith(
        f"error: '{cli.folder / 'bundle'}' cannot be written: it would be larger than a file may"
    )
    assert names(cli.folder) == ["bundle", "tiny.yaml"]
    assert (Path("bundle") / "bundle.json").read_text() == "{}"
