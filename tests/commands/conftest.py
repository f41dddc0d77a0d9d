from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.command import Command


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUIDEGRAPH_DEBUG", raising=False)
    return Command(tmp_path, capsys)
