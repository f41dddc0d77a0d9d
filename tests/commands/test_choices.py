"""Choices on the command line: in plan, run, sweep, draw and the schema."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from guidegraph.graph.language.json_schema import json_schema
from guidegraph.graph.node import Registry
from tests.commands.command import Command

CHOICE = """
guidegraph: 1
params: {mode: plain, missing: {default: nowhere.txt, type: Path}}
nodes:
  one: {use: toy.number, with: {value: 4}}
  more: {use: toy.add, in: {a: one}}
  text: {use: toy.read, in: {path: params.missing}}
  read: {use: toy.table, in: {prompt: text}}
  short: {use: toy.table}
  number: {choose: {when: params.mode, of: {plain: one, more: more}, otherwise: one}}
  table: {choose: {when: params.mode, of: {plain: short, more: short, read: read}}}
outputs: {number: number, table: table}
"""

IN_A_LOOP = """
guidegraph: 1
nodes:
  one: {use: toy.number}
  three: {use: toy.tensor, with: {values: [1, 2, 3]}}
  work:
    loop: {over: three, as: row}
    carry: {x: one}
    body:
      more: {use: toy.add, in: {a: carry.x}}
      most: {use: toy.add, in: {a: more}}
      x: {choose: {when: loop.index, of: {0: most}, otherwise: one}}
    next: {x: x}
outputs: {x: work.x}
"""


def test_plan_shows_the_branch_that_a_parameter_takes(cli: Command) -> None:
    workflow = cli.workflow("choice.yaml", CHOICE)
    plan = json.loads(cli("plan", workflow, "--json", "--set", "mode=more").out)
    assert plan["choices"] == {"nodes.number": "more", "nodes.table": "more"}
    assert [row["path"] for row in plan["steps"]] == ["nodes.one", "nodes.more", "nodes.short"]
    text = cli("plan", workflow, "--set", "mode=read").out
    assert "choices:\n  nodes.number takes 'otherwise'\n  nodes.table takes 'read'\n" in text
    assert "nodes.read = toy.table(" in text


def test_plan_shows_the_branch_that_a_step_belongs_to(cli: Command) -> None:
    text = cli("plan", cli.workflow("loop.yaml", IN_A_LOOP)).out
    assert "nodes.work.body.most = toy.add(a=work.body.more), where nodes.work.body.x takes '0'\n" in text
    assert "nodes.work.body.x = choose(0=work.body.most, otherwise=one, when=loop.index)\n" in text


def test_run_reads_only_the_files_of_the_branch_taken(cli: Command) -> None:
    workflow = cli.workflow("choice.yaml", CHOICE)
    assert cli("run", workflow, "--out", "out").code == 0
    assert "nodes.text" not in json.loads(Path("out/run.json").read_text())["nodes"]
    failed = cli("run", workflow, "--out", "other", "--set", "mode=read")
    assert (failed.code, "nodes.text" in failed.err) == (2, True)
    refused = cli("run", workflow, "--out", "third", "--set", "mode=red")
    assert refused.code == 2
    assert "'mode': port 'when' of choose (nodes.table): Input should be 'plain', 'more' or 'read'" in refused.err


def test_a_sweep_over_a_choice_runs_one_branch_in_each_cell(cli: Command) -> None:
    workflow = cli.workflow("choice.yaml", CHOICE)
    result = cli("sweep", workflow, "--out", "out", "--grid", "mode=plain,more")
    assert (result.code, result.err) == (0, "")
    with Path("out/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mode"], row["number"]) for row in rows] == [("plain", "4.0"), ("more", "5.0")]
    # The key of a cell does not depend on the nodes of another branch.
    workflow.write_text(CHOICE.replace("read: {use: toy.table,", "read: {use: toy.table, with: {sizes: [1]},"))
    assert "2 done (2 before)" in cli("sweep", workflow, "--out", "out", "--grid", "mode=plain,more").out


def test_a_choice_is_drawn_with_its_branches(cli: Command) -> None:
    workflow = cli.workflow("choice.yaml", CHOICE)
    assert cli("draw", workflow, "-o", "out.svg").code == 0
    drawn = Path("out.svg").read_text()
    assert all(f">{text}</text>" in drawn for text in ("choose", "plain", "more", "otherwise", "when"))


@pytest.mark.parametrize(
    ("node", "valid"),
    [
        ({"choose": {"when": "params.mode", "of": {"a": "one", "1": "two.x"}, "otherwise": "one"}}, True),
        ({"choose": {"when": "params.mode"}}, False),
        ({"choose": {"when": "params.mode", "of": {}}}, False),
        ({"choose": {"when": "params.mode", "of": {"otherwise": "one"}}}, False),
        ({"choose": {"when": 1, "of": {"a": "one"}}}, False),
        ({"choose": {"when": "params.mode", "of": {"a": "one"}}, "use": "toy.number"}, False),
    ],
)
def test_the_schema_describes_choices(node: object, valid: bool) -> None:
    from jsonschema import Draft202012Validator

    workflow = {"guidegraph": 1, "nodes": {"x": node}, "outputs": {"x": "x"}}
    assert Draft202012Validator(json_schema(Registry({}))).is_valid(workflow) is valid
