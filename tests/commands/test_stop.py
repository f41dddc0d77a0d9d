"""``--stop-at`` and the command that goes on: all that the file does not hold is in it."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.commands.command import TOYS, Command

SUM = """
guidegraph: 1
params: {n: 4, path: {type: Path}, step: 1.0}
nodes:
  start: {use: toy.number}
  text: {use: toy.read, in: {path: params.path}}
  sum:
    loop: {over: params.n, as: i}
    carry: {x: start}
    body:
      one: {use: toy.number, in: {value: params.step}}
      added: {use: toy.divide, in: {a: carry.x, b: one}}
    next: {x: added}
outputs: {x: sum.x, text: text}
"""


def test_the_command_to_go_on_by_does_what_the_run_would_have_done(cli: Command) -> None:
    workflow = cli.workflow("a sum.yaml", SUM)
    Path("a.txt").write_text("words")
    options = ("--only", "x", "--passes", "none", "--limit", "trips=100", "--allow-read", "more")
    settings = ("--set", "path=a.txt", "--set", "step=2")
    stopped = cli("run", workflow, *settings, *options, "--no-plugins", "--stop-at", "2", "--out", "part")
    assert stopped.code == 0
    command = stopped.out.splitlines()[-1].removeprefix("resume with: ")
    words = shlex.split(command)
    assert words[:3] == ["guidegraph", "run", str(workflow)]
    assert "path=a.txt" in words
    assert "step=2" not in words  # the file holds it
    more = str(Path("more").absolute())
    for pair in (
        ("--only", "x"),
        ("--plugin", TOYS),
        ("--passes", "none"),
        ("--limit", "trips=100"),
        ("--allow-read", more),
    ):
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert "--no-plugins" in words
    assert cli(*words[1:], "--out", "rest").code == 0
    assert cli("run", workflow, *settings, *options, "--out", "whole").code == 0
    assert Path("rest/x.json").read_text() == Path("whole/x.json").read_text()
    assert not Path("rest/text.json").exists()


def test_a_stop_beyond_the_end_of_the_loop_is_refused_before_the_run(cli: Command) -> None:
    workflow = cli.workflow("sum.yaml", SUM)
    Path("a.txt").write_text("words")
    result = cli("run", workflow, "--set", "path=a.txt", "--stop-at", "9", "--out", "out")
    assert result.code == 2
    assert "--stop-at: bad-stop: nodes.sum has 4 iterations with these parameters; found 9" in result.err
    assert not Path("out").exists()
