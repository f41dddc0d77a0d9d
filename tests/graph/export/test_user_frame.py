"""Locations of errors: which frames are the user's code."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from guidegraph.graph.execution import loop_context
from guidegraph.graph.export import user_frame


def frame(file: Path) -> traceback.FrameSummary:
    return traceback.FrameSummary(str(file), 7, "f")


def test_no_file_of_the_engine_or_of_a_library_is_the_users_code() -> None:
    engine, library = Path(str(loop_context.__file__)), Path(json.__file__)
    assert user_frame.user_frame([frame(Path(__file__)), frame(engine), frame(library)]) == f"{__file__}:7"
    assert user_frame.user_frame([frame(engine)]) == ""


def test_an_installed_engine_is_told_from_installed_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    engine, plugin = (python / "site-packages" / name for name in ("guidegraph/graph/call.py", "theirs.py"))
    for file in (engine, plugin):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(user_frame, "_folders", lambda: (python, engine.parent))
    assert user_frame.user_frame([frame(plugin), frame(engine)]) == f"{plugin}:7"
    user_frame.is_library.cache_clear()
