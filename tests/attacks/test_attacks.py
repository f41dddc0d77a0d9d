"""Every attack is harmless: the command ends with a short error, and nothing is read, written or run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from guidegraph.commands import main
from guidegraph_runtime.cli import main as main_of_bundles
from tests.attacks import exports, files, plugins, recipes, resources, stopped_runs
from tests.attacks.arena import ATTACKS, EXPECTED, KEPT, SECRET, Arena, Outcome
from tests.paths import ROOT

MODULES = (recipes, exports, files, resources, plugins, stopped_runs)


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arena:
    folder, outside = tmp_path / "here", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (outside / "secret.txt").write_text(SECRET)
    (outside / "kept.txt").write_text(KEPT)
    Image.new("RGB", (3, 3), (7, 8, 9)).save(outside / "photo.png")

    def command(entry: Callable[[list[str]], object]) -> Callable[..., Outcome]:
        def run(*arguments: str | Path) -> Outcome:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                entry([*map(str, arguments)])
            out, err = capsys.readouterr()
            return Outcome(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

        return run

    return Arena(folder, outside, command(main), command(main_of_bundles))


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("does", ATTACKS)
def test_an_attack_is_harmless(does: str, arena: Arena) -> None:
    before = read_files(arena.outside)
    outcome = ATTACKS[does](arena)
    after = read_files(arena.outside)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= {"other.yaml", "secret.yaml"}, "an attack left a file behind"
    assert outcome.code != 0, outcome
    assert EXPECTED[does] in outcome.err, outcome.err
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    assert SECRET not in outcome.out + outcome.err
    assert not arena.find_leaks()


def test_the_docs_list_every_attack() -> None:
    page = (ROOT / "docs" / "understand" / "security.md").read_text(encoding="utf-8")
    listed = [line.removeprefix("- ").rstrip(".") for line in page.splitlines() if line.startswith("- ")]
    assert [does for does in ATTACKS if does not in listed] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`pytest tests/attacks`: {len(ATTACKS)} attacks" in readme
