"""An argument that the command line does not take gets the command that was meant."""

from __future__ import annotations

import pytest

from tests.commands.command import Command
from tests.paths import ROOT

WORKFLOW = str(ROOT / "workflows" / "text_to_image_128.yaml")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "text_to_image_128"], "it ships with guidegraph: write pkg:text_to_image_128.yaml"),
        (["run", "text_to_imag"], "did you mean 'pkg:text_to_image.yaml'?"),
        (["run", WORKFLOW, "a cat"], "Parameters are given by --set: --set 'prompt=a cat'."),
        (["run", WORKFLOW, "steps=3"], "Parameters are given by --set: --set steps=3."),
        (["run", WORKFLOW, "--prompt", "a cat"], "is given by --set: --set 'prompt=a cat'"),
        (["run", WORKFLOW, "--seed=3"], "is given by --set: --set seed=3"),
        (["run", WORKFLOW, "--grid", "scale=1,2"], "A sweep takes it: guidegraph sweep FILE --grid NAME=1,2,3"),
        (["run", WORKFLOW, "--seeds", "0:8"], "A sweep takes it: guidegraph sweep FILE --seeds 0:8"),
        (["sweep", WORKFLOW, "--scale", "3"], "is given by --set: --set scale=3"),
        (["run", WORKFLOW, "--devise", "cpu"], "--device"),
        (["serve"], "guidegraph-serve BUNDLE"),
        (["list"], "guidegraph nodes lists the nodes"),
        (["draw.yaml"], "guidegraph run draw.yaml"),
        (["nodes", "rescale"], "did you mean 'guidance.rescale'?; guidegraph nodes --search WORD"),
        (["nodes", "--search", "qqq"], "no node has 'qqq' in its id or its summary"),
    ],
    ids=lambda value: " ".join(value).replace(WORKFLOW, "FILE") if isinstance(value, list) else "",
)
def test_a_wrong_argument_gets_a_hint(arguments: list[str], hint: str, cli: Command) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert hint in result.err.replace("\n", " ")


def test_nodes_are_found_by_words_of_their_ids_and_summaries(cli: Command) -> None:
    result = cli("nodes", "--search", "DEVIATION rescale", "--no-plugins")
    assert result.code == 0
    assert "guidance.rescale" in result.out
    assert "guidance.cfg " not in result.out


def test_the_help_of_a_command_is_a_whole_sentence(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in cli("-h").out.partition("Commands:")[2]
