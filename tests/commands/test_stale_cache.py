"""A change of whatever a plugin's node is made of is seen by the next process, which computes the node again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.command import Command, environment, process
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


def test_the_values_of_a_cache_are_verified(cli: Command) -> None:
    file = cli.workflow("draw.yaml", "guidegraph: 1\nnodes: {a: {use: toy.number}}\noutputs: {a: a}\n")
    assert cli("run", file, "--cache", "kept", "--out", "out").code == 0
    result = cli("run", file, "--cache", "kept", "--cache-verify", "1", "--out", "out", "--json")
    origins = [json.loads(line).get("origin") for line in result.out.splitlines()]
    assert (result.code, "verified" in origins) == (0, True)
    result = cli("run", file, "--cache-verify", "1")
    assert (result.code, "no-cache" in result.err) == (2, True)
