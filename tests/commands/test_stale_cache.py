"""A change of whatever a plugin's node is made of is seen by the next process, which computes the node again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.command import environment, process
from tests.graph.planning.plugin_ways import WAYS, WORKFLOW, write_file_plugin, write_package_plugin


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["file", "package"])
@pytest.mark.parametrize("way", WAYS)
def test_a_changed_helper_is_never_stale(tmp_path: Path, way: str, layout: str) -> None:
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    environment_ = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    for number in (2, 33):
        options = []
        if layout == "file":
            options = ["--plugin", str(write_file_plugin(tmp_path, WAYS[way], number))]
        else:
            write_package_plugin(tmp_path, WAYS[way], number)
        result = process(
            ["run", "draw.yaml", "--cache", "kept", "--out", "out", "--quiet", *options], tmp_path, env=environment_
        )
        assert result.returncode == 0, result.stderr
        assert json.loads((tmp_path / "out" / "a.json").read_text()) == number
