"""``NAMESPACE:FILE`` in place of a workflow, for workflows that ship with a plugin or with this package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph import WorkflowError, load_workflow
from tests.commands.command import Command
from tests.commands.test_run import DRAW

PLUGIN = """
from guidegraph import hookimpl, node

__version__ = "0.3"

@node("shipper.twice")
def twice(x: float) -> float:
    "Twice x."
    return 2 * x

@hookimpl
def guidegraph_nodes():
    return [twice]
"""
WORKFLOW = """
guidegraph: 1
requires: {gg-shipper: "==0.3"}
params: {file: {default: words.txt, type: Path}}
nodes:
  words: {use: toy.read, in: {path: params.file}}
  two: {use: shipper.twice, with: {x: 1.0}}
outputs: {two: two, words: words}
"""


@pytest.fixture
def shipper(cli: Command) -> Iterator[Command]:
    cli.workflow("gg_shipper/__init__.py", PLUGIN)
    cli.workflow("gg_shipper/flow.yaml", WORKFLOW)
    cli.workflow("gg_shipper/deep/other.yaml", WORKFLOW)
    cli.workflow("gg_shipper/words.txt", "shipped")
    yield cli
    sys.modules.pop("gg_shipper", None)


@pytest.mark.parametrize("command", ["validate", "plan", "draw"])
@pytest.mark.parametrize("name", ["shipper:flow.yaml", "shipper:deep/other.yaml"])
def test_commands_accept_a_workflow_of_a_plugin(shipper: Command, command: str, name: str) -> None:
    shipper.workflow("gg_shipper/deep/words.txt", "deep")
    result = shipper(command, name, "--plugin", "gg_shipper")
    assert (result.code, result.err) == (0, "")


def test_its_paths_are_relative_to_its_file(shipper: Command) -> None:
    assert shipper("run", "shipper:flow.yaml", "--plugin", "gg_shipper", "--out", "out").code == 0
    assert json.loads(Path("out/two.json").read_text()) == 2.0
    assert json.loads(Path("out/words.json").read_text()) == "shipped"


def test_a_file_of_the_same_name_takes_precedence(shipper: Command) -> None:
    shipper.workflow("shipper:flow.yaml", DRAW)
    assert shipper("validate", "shipper:flow.yaml").code == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("shipper:flw.yaml", "the plugin 'shipper' has no file 'flw.yaml'; did you mean 'flow.yaml'?"),
        ("shipper:nothing", "the plugin 'shipper' has no file 'nothing'; it has: deep/other.yaml, flow.yaml"),
        ("shipper:../toys.py", "the plugin 'shipper' has no file '../toys.py'"),
        ("shiper:flow.yaml", "missing-plugin: there is no such file, and no plugin 'shiper'; did you mean 'shipper'?"),
        ("toy:flow.yaml", "the plugin 'toy' has no file 'flow.yaml'; it ships no workflow"),
        ("pkg:text_to_imag.yaml", "this package has no file 'text_to_imag.yaml'; did you mean 'text_to_image.yaml'?"),
        ("x:flow.yaml", "no-file"),
    ],
)
def test_an_unknown_name_is_reported_with_the_available_ones(shipper: Command, name: str, reason: str) -> None:
    result = shipper("validate", name, "--plugin", "gg_shipper")
    assert result.code == 2
    assert result.err.startswith(f"{name}:1:1: ")
    assert reason in result.err


def test_shipped_workflows_have_names_too(cli: Command) -> None:
    assert cli("validate", "pkg:text_to_image.yaml").out == "pkg:text_to_image.yaml: ok\n"
    assert load_workflow("pkg:text_to_image.yaml").graph.name == "text_to_image"


def test_a_workflow_of_a_plugin_that_failed_says_why(cli: Command) -> None:
    cli.workflow("gg_broken.py", "raise ValueError('no luck')")
    with pytest.raises(WorkflowError, match=r"plugin-failed: gg_broken\.py: cannot be imported: ValueError: no luck"):
        load_workflow("gg_broken:flow.yaml", plugins=["gg_broken.py"])
