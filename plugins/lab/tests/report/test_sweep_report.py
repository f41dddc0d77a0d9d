"""The page of a sweep that was run: its parameters, cells and curves."""

from __future__ import annotations

from pathlib import Path

from plugins.lab.tests.report.test_report import make_report
from tests.commands.command import Command

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


def test_plots_and_lines_of_prompts_that_begin_alike_have_different_labels(cli: Command) -> None:
    scene = "a tiger on grass under a night sky with a full moon over distant hills"
    Path("rows.csv").write_text("".join(["prompt\n", *(f"{scene} {i}\n" for i in range(7))]))
    workflow = cli.workflow("words.yaml", PROMPTS)
    assert cli("sweep", workflow, "--from", "rows.csv", "--grid", "b=1,2", "--out", "out").code == 0
    text = make_report(cli, cli.folder / "out").text
    assert [i for i in range(7) if f"sum, prompt = a…{i} " not in text] == []


def test_equal_rows_are_one_cell(cli: Command) -> None:
    workflow = cli.workflow("words.yaml", PROMPTS)
    Path("rows.csv").write_text("b\n1\n1\n2\n")
    assert cli("sweep", workflow, "--from", "rows.csv", "--seeds", "0:2", "--out", "out").code == 0
    text = make_report(cli, cli.folder / "out").text
    assert "A sweep of a workflow: 4 cells over b (2) × seed (2). Done 4 Failed 0" in text
    assert "have not run yet" not in text
    assert "sum toy.add 1 " in text


def test_one_cell_is_named_in_the_singular(cli: Command) -> None:
    workflow = cli.workflow("words.yaml", PROMPTS)
    assert cli("sweep", workflow, "--seeds", "0:1", "--out", "out").code == 0
    assert "A sweep of a workflow: 1 cell over seed (1)." in make_report(cli, cli.folder / "out").text


def test_parameters_with_the_names_of_columns_are_swept_ones(cli: Command) -> None:
    Path("rows.csv").write_text("b,seconds,status\n1,10,01\n2,20,02\n3,30,03\n")
    workflow = cli.workflow("named.yaml", NAMED_LIKE_COLUMNS)
    assert cli("sweep", workflow, "--from", "rows.csv", "--out", "out").code == 0
    text = make_report(cli, cli.folder / "out").text
    assert "sum: sum over b" in text
    assert "param.status 01, 02, 03 The same in all cells There are none." in text
