"""``guidegraph set``: one value changes, or the file stays as it was and the exit code is 2."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.commands.command import Command
from tests.commands.test_run import DRAW
from tests.paths import ROOT

SHIPPED = (ROOT / "workflows" / "text_to_image.yaml").read_text()


def test_the_examples_of_the_documentation(cli: Command) -> None:
    path = cli.workflow("a.yaml", SHIPPED)
    result = cli("set", "a.yaml", "params.scale.default", "6")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "--- a.yaml",
        "+++ a.yaml",
        "@@ -8 +8 @@",
        '-  scale: {default: 4.0, help: "guidance scale s of eps_u + s (eps_c - eps_u); 1 is no guidance"}',
        '+  scale: {default: 6.0, help: "guidance scale s of eps_u + s (eps_c - eps_u); 1 is no guidance"}',
    ]
    assert path.read_text() == SHIPPED.replace("default: 4.0", "default: 6.0")
    assert cli("set", "a.yaml", "nodes.sample.body.guided.in.scale", "params.steps").code == 0
    assert cli("set", "a.yaml", "nodes.sample.body.guided.in.scale", "params.scale").code == 0
    assert cli("set", "a.yaml", "params.scale.default", "4.0").code == 0
    assert path.read_text() == SHIPPED
    assert cli("set", "a.yaml", "params.scale", "4.0").out == "a.yaml: unchanged\n"


def test_the_commands_and_the_python_of_the_documentation(cli: Command) -> None:
    text = (ROOT / "docs" / "do" / "edit.md").read_text()
    path = cli.workflow("draw.yaml", SHIPPED)
    commands = re.findall(r"^(?:\$ )?guidegraph (set .*)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert (cli(*shlex.split(command)).code, command) == (0, command)
    assert "  eta: " in path.read_text()
    assert "      softer: " in path.read_text()
    path.write_text(SHIPPED)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert "in: {guided: guided, cond: cond}" in path.read_text()
    assert "prediction: softer" in path.read_text()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "nodes.sample.body.guided.in.scale",
            "params.prompt",
            "a.yaml:25:75: type-mismatch: 'params.prompt' gives str",
        ),
        ("nodes.sample.body.guidd.in.scale", "params.scale", "did you mean 'guided'? it has: cond, uncond, guided"),
        ("params.scael.default", "6", "a.yaml:3:1: unknown-path: 'params' has no 'scael'; did you mean 'scale'?"),
        ("params.scale.default", "[1,", "VALUE: yaml-syntax"),
        ("params.prompt", "[a] cat", "; a text that begins with [ is written in quotes, such as '\"[a] cat\"'"),
        ("nodes.scheduler.use", "scheduler.dim", "did you mean 'scheduler.ddim'?"),
        ("nodes.noise.with.shape", "[4, -1]", "a.yaml:18:"),
    ],
)
def test_an_invalid_change_leaves_the_file_as_it_was(cli: Command, path: str, value: str, message: str) -> None:
    file = cli.workflow("a.yaml", SHIPPED)
    result = cli("set", "a.yaml", path, value)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert file.read_text() == SHIPPED


def test_values_that_begin_with_a_dash_and_texts(cli: Command) -> None:
    file = cli.workflow("a.yaml", SHIPPED)
    assert cli("set", "a.yaml", "params.scale", "-1.5").code == 0
    assert cli("set", "a.yaml", "params.prompt", "a cat: on # grass").code == 0
    assert cli("set", "a.yaml", "params.eta", '{default: 0.5, help: "noise"}').code == 0
    text = file.read_text()
    assert "default: -1.5," in text
    assert '    default: "a cat: on # grass"\n' in text
    assert '  eta: {default: 0.5, help: "noise"}\nnodes:' in text


def test_a_default_stays_a_number_with_a_point(cli: Command) -> None:
    text = DRAW.replace("batch: 1", "batch: 1\n  x: 2.5\n  y: {default: 2.5, type: float}\n  z: {default: 2.5}")
    file = cli.workflow("a.yaml", text)
    for name in ("x", "y", "z", "batch"):
        assert cli("set", "a.yaml", f"params.{name}", "3").code == 0
    assert "batch: 3\n  x: 3.0\n  y: {default: 3, type: float}\n  z: {default: 3.0}\n" in file.read_text()
    assert cli("run", file, "--set", "x=0.5", "--set", "y=0.5", "--set", "z=0.5", "--out", "out").code == 0


def test_nothing_is_an_empty_text(cli: Command) -> None:
    file = cli.workflow("a.yaml", SHIPPED)
    assert cli("set", "a.yaml", "params.prompt.default", "").code == 0
    assert 'default: ""' in file.read_text()


def test_what_is_not_a_workflow_file_is_refused(cli: Command) -> None:
    draw = cli.workflow("draw.yaml", DRAW)
    assert cli("run", draw, "--out", "out").code == 0
    picture = next(Path("out").glob("*.png"))
    data = picture.read_bytes()
    result = cli("set", picture, "params.seed", "3")
    assert result.code == 2
    assert "not-editable: a picture's workflow cannot be edited" in result.err
    assert picture.read_bytes() == data
    shipped = cli("set", "pkg:text_to_image.yaml", "params.seed", "3")
    assert (shipped.code, "not-editable: expected a file" in shipped.err) == (2, True)
    original = cli("set", ROOT / "workflows" / "text_to_image.yaml", "params.seed", "3")
    assert (original.code, "forbidden-write" in original.err) == (2, True)
    assert cli("set", "absent.yaml", "params.seed", "3").code == 2


def test_the_help_shows_the_arguments_and_examples(cli: Command) -> None:
    help = cli("set", "--help").out
    assert all(word in help for word in ("FILE", "PATH", "VALUE", "set draw.yaml params.scale.default 6"))
