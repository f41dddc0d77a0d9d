"""A change of whatever a plugin's node is made of is seen by the next process, which computes the node again."""

from __future__ import annotations

import json
from dataclasses import replace
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


def test_the_next_process_finds_what_has_not_changed(tmp_path: Path) -> None:
    """Whatever order Python gives the names in a set."""
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    inner = (
        "import ways_b, ways_c, json, numpy, random; Path(__file__).with_name('x.txt'); Path('y.txt'); Path('z.txt')"
    )
    plugin = write_file_plugin(tmp_path, replace(WAYS["a number"], inner=inner), 2)
    for name in ("ways_b.py", "ways_c.py", "x.txt", "y.txt", "z.txt"):
        (tmp_path / name).write_text("K = 1\n")
    origins = []
    for seed in ("1", "2"):
        variables = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}", "PYTHONHASHSEED": seed}
        command = ["run", "draw.yaml", "--cache", "kept", "--out", "out", "--json", "--plugin", str(plugin)]
        events = map(json.loads, process(command, tmp_path, env=variables).stdout.splitlines())
        origins += [event["origin"] for event in events if event["event"] == "node_finished"]
    assert origins == ["computed", "disk"]


def test_the_values_of_a_cache_are_verified(cli: Command) -> None:
    file = cli.workflow("draw.yaml", "guidegraph: 1\nnodes: {a: {use: toy.number}}\noutputs: {a: a}\n")
    assert cli("run", file, "--cache", "kept", "--out", "out").code == 0
    result = cli("run", file, "--cache", "kept", "--cache-verify", "1", "--out", "out", "--json")
    origins = [json.loads(line).get("origin") for line in result.out.splitlines()]
    assert (result.code, "verified" in origins) == (0, True)
    result = cli("run", file, "--cache-verify", "1")
    assert (result.code, "no-cache" in result.err) == (2, True)
