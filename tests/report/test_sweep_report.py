"""The page of a sweep that was run: its parameters, cells and curves."""

from __future__ import annotations

from pathlib import Path

from tests.commands.command import Command
from tests.report.test_report import make_report

PROMPTS = """
guidegraph: 1
params: {seed: 0, b: 2.0, prompt: a tiger}
nodes:
  number: {use: toy.number, in: {value: params.b}}
  sum: {use: toy.add, in: {a: number}}
  words: {use: toy.table, in: {prompt: params.prompt}}
outputs: {sum: sum, words: words}
"""


def test_texts_that_look_like_numbers_stay_apart(cli: Command) -> None:
    workflow = cli.workflow("words.yaml", PROMPTS)
    prompts = ["01", "1", "1.0", "1_0", "10", "nan", "Infinity"]
    assert cli("sweep", workflow, "--grid", "b=1,2", "--grid", f"prompt={','.join(prompts)}", "--out", "out").code == 0
    text = make_report(cli, cli.folder / "out").text
    assert [prompt for prompt in prompts if f"sum, prompt = {prompt}:" not in text] == []
    Path("rows.csv").write_text("b,prompt\n1,1\n2,1\n1,01\n2,01\n")
    assert cli("sweep", workflow, "--from", "rows.csv", "--out", "rows").code == 0
    text = make_report(cli, cli.folder / "rows").text
    assert "prompt = 01" in text
    assert "Mean over" not in text


NAMED_LIKE_COLUMNS = """
guidegraph: 1
params: {seconds: 1.0, status: plain, b: 2.0}
nodes:
  number: {use: toy.number, in: {value: params.b}}
  other: {use: toy.number, in: {value: params.seconds}}
  sum: {use: toy.add, in: {a: number, b: other}}
  words: {use: toy.table, in: {prompt: params.status}}
outputs: {sum: sum, words: words}
"""


def test_parameters_with_the_names_of_columns_are_swept_ones(cli: Command) -> None:
    Path("rows.csv").write_text("b,seconds,status\n1,10,01\n2,20,02\n3,30,03\n")
    workflow = cli.workflow("named.yaml", NAMED_LIKE_COLUMNS)
    assert cli("sweep", workflow, "--from", "rows.csv", "--out", "out").code == 0
    text = make_report(cli, cli.folder / "out").text
    assert "sum: sum over b" in text
    assert "param.status 01, 02, 03 The same in all cells There are none." in text
