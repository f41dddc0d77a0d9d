"""Control characters in untrusted files are printed as escapes."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest

from guidegraph.commands.shared.printing import print_note, print_warning
from guidegraph.graph import events
from guidegraph.runs.observers import Bars
from guidegraph_lab.report.html import tag
from guidegraph_lab.sweep.contact_sheet import _label
from guidegraph_runtime.cli import main as runtime_main
from guidegraph_runtime.printing import print_json, print_line, visible, visible_json, visible_line
from tests.commands.command import Command
from tests.runtime.running import bundles

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
HOSTILE = ("\x1b[2J", "\x1b]0;title\x07", "\r\x1b[A", "\x9b31m", "\u202egnp.exe", "\u2066\u200b", "\x7f", "\x08")
HOSTILE_TEXT = "".join(HOSTILE)

WORKFLOW = """
guidegraph: 1
name: {name}
params:
  {param}: {{type: str, default: {default}, help: {help}}}
nodes:
  table: {{use: toy.table, in: {{}}, with: {{prompt: {prompt}, sizes: [1]}}}}
  {node}: {{use: {use}, with: {{value: {value}}}}}
outputs: {{{output}: {source}}}
"""
PLAIN = {
    "name": "draw",
    "param": "text",
    "default": "a",
    "help": "b",
    "prompt": "c",
    "node": "number",
    "use": "toy.number",
    "value": "2.0",
    "output": "value",
    "source": "number",
}
COMMANDS = (("validate",), ("plan",), ("draw",), ("run", "-v", "--out", "out"))
FOR_PROGRAMS = (("plan", "--json"), ("run", "--json"))


def find_unseen(*texts: str) -> list[str]:
    return [character for text in texts for character in UNSEEN.findall(text)]


def test_invisible_characters_are_escaped() -> None:
    assert visible("a\x1b[31mb\r\x9b\u202e\u200b\ud800\n\tä 日本 🦊") == (
        "a\\x1b[31mb\\r\\x9b\\u202e\\u200b\\ud800\n\tä 日本 🦊"
    )
    assert visible_line("a\nb\tc") == "a\\nb\\tc"


def test_json_keeps_its_values() -> None:
    value = {HOSTILE_TEXT: [HOSTILE_TEXT, "é\n"]}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert json.loads(visible_json(text)) == value
        assert not find_unseen(visible_json(text))


@pytest.mark.parametrize("field", PLAIN)
def test_control_characters_in_each_text_of_a_workflow_are_escaped(cli: Command, field: str) -> None:
    quoted = json.dumps("x" + HOSTILE_TEXT)  # JSON's escapes are YAML's
    path = cli.workflow("hostile.yaml", WORKFLOW.format(**{**PLAIN, field: quoted}))
    for command, *options in (*COMMANDS, *(FOR_PROGRAMS if field == "prompt" else ())):
        result = cli(command, path, *options)
        assert not find_unseen(result.out, result.err), (command, result)
        if command == "draw" and result.code == 0:
            xml.fromstring(result.out)


def test_control_characters_in_file_names_are_escaped(cli: Command) -> None:
    good = cli.workflow(f"good{HOSTILE[0]}\nb.yaml: ok.yaml", WORKFLOW.format(**PLAIN))
    wrong = cli.workflow(f"wrong{HOSTILE[0]}\nfine.yaml", WORKFLOW.format(**{**PLAIN, "use": "toy.nothing"}))
    result = cli("validate", good, wrong, f"missing{HOSTILE_TEXT}.yaml")
    assert result.code == 2
    assert not find_unseen(result.out, result.err)
    assert len(result.out.splitlines()) == 1
    assert not [line for line in result.err.splitlines() if line.startswith("fine.yaml")]
    summary = cli("run", good, "--out", f"out{HOSTILE_TEXT}")
    assert summary.code == 0
    assert not find_unseen(summary.out, summary.err)


@pytest.mark.parametrize("argument", ["--set\x1b[2J=3", "valid\x1b[2Jate"])
def test_control_characters_in_an_unknown_option_are_escaped(cli: Command, argument: str) -> None:
    result = cli(argument)
    assert result.code == 2
    assert not find_unseen(result.out, result.err)


def test_control_characters_in_the_texts_of_a_plugin_are_escaped(cli: Command) -> None:
    plugin = cli.workflow(
        "hostile_nodes.py",
        "from guidegraph import hookimpl, node\n"
        "print('loaded\\x1b[2J')\n"
        "@node('hostile_nodes.one')\n"
        "def one(*, text: str = 'a\\x1b[2Jb') -> str:\n"
        "    'Says\\x1b[2J\\u202e it.\\n\\n    text: what\\x1b[2J\\n    '\n"
        "    import warnings\n"
        "    warnings.warn('careful\\x1b[2J')\n"
        "    raise ValueError('no\\x1b[2J')\n"
        "@hookimpl\n"
        "def guidegraph_nodes():\n"
        "    return [one]\n",
    )
    for arguments in (["nodes"], ["nodes", "hostile_nodes.one"], ["nodes", "--markdown"], ["plugins"], ["schema"]):
        result = cli(*arguments, "--plugin", plugin)
        assert result.code == 0
        assert not find_unseen(result.out, result.err), arguments
    workflow = cli.workflow("use.yaml", "guidegraph: 1\nnodes: {one: {use: hostile_nodes.one}}\noutputs: {one: one}\n")
    result = cli("run", workflow, "--plugin", plugin)
    assert result.code == 1
    assert "no\\x1b[2J" in result.err
    assert "careful\\x1b[2J" in result.err
    assert not find_unseen(result.out, result.err)


def test_bars_escape_control_characters() -> None:
    from rich.console import Console

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system=None, width=200)
    with Bars(console) as bars:
        for event in (
            events.RunStarted("draw\x1b[31m", 2),
            events.NodeStarted("nodes.a\x1b[31m", "toy\x1b[31m.b"),
            events.NodeStarted("nodes.l\x1b[31m", "loop"),
            events.LoopProgress("nodes.l\x1b[31m", 1, 2, {"loss\x1b[31m": 1.0}),
            events.TrainingStarted("nodes.l\x1b[31m", "fp32", "auto", 0),
        ):
            bars(event)
    assert "\x1b[31m" not in written.getvalue()
    assert "draw\\x1b[31m" in written.getvalue()


def test_logs_and_warnings_escape_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_note(HOSTILE_TEXT)
    print_warning(HOSTILE_TEXT)
    print_note(HOSTILE_TEXT)
    print_line(HOSTILE_TEXT)
    print_json(HOSTILE_TEXT)
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 3
    assert not find_unseen(*printed)


def test_pages_and_sheets_escape_control_characters() -> None:
    assert tag("td", HOSTILE_TEXT, title=HOSTILE_TEXT) == (
        f'<td title="{visible(HOSTILE_TEXT)}">{visible(HOSTILE_TEXT)}</td>'
    )
    assert not find_unseen(_label({HOSTILE_TEXT: HOSTILE_TEXT}, [HOSTILE_TEXT]))


def test_control_characters_in_a_bundle_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def spoil(value: dict[str, Any]) -> None:
        value["inputs"]["scale"]["help"] = value["fixed"]["model"] = HOSTILE_TEXT

    hostile = bundles.write_bundle(tmp_path / f"b{HOSTILE[0]}", change=spoil)
    with pytest.raises(SystemExit) as ended:
        runtime_main([str(hostile), "--describe"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.count(visible(HOSTILE_TEXT)) == 2
    assert not find_unseen(*printed)
    for options in (["--out", f"out{HOSTILE[1]}"], ["--set", "x\x1b[2J=1"]):
        with pytest.raises(SystemExit):
            runtime_main([str(hostile), *options])
        assert not find_unseen(*capsys.readouterr()), options
