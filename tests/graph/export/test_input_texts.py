"""Texts of `--set` that look like lists: a bundle reads them as the engine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph import load_workflow
from guidegraph.graph.language.bind_parameters import bind
from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.inputs import parse_input

PROMPT = Input("str", default="a fox", many=True)
WORKFLOW = """
guidegraph: 1
params: {prompt: {type: "str | list", default: a fox}}
nodes: {noise: {use: noise.gaussian, with: {shape: [1, 2, 2]}}}
outputs: {noise: noise}
"""


def parse_in_engine(folder: Path, text: str) -> Any:
    (folder / "prompt.yaml").write_text(WORKFLOW)
    return bind(load_workflow(folder / "prompt.yaml").graph, {"prompt": text}, text=True)["prompt"]


@pytest.mark.parametrize(
    "text",
    [
        "[oil painting] a tiger",
        "[[a]] b",
        "[a fox",
        "[it's a fox] on snow",
        '["a fox", "a house"]',
        '["[a] fox"]',
        "[]",
        ' ["a fox"]',
        "a [fox]",
        "{a: fox}",
        "[a] fox # [b]",
        "[a]: fox",
        "",
    ],
)
def test_a_text_that_may_be_a_list_is_read_as_the_engine_reads_it(tmp_path: Path, text: str) -> None:
    assert parse_input("prompt", PROMPT, text, "here") == parse_in_engine(tmp_path, text)


@pytest.mark.parametrize("text", ["[oil painting]", "[a, b]", "['a]', b]", "[a] # two", "[a,\n b]"])
def test_a_list_that_only_the_engine_reads_is_refused(tmp_path: Path, text: str) -> None:
    assert isinstance(parse_in_engine(tmp_path, text), list)
    with pytest.raises(BundleError, match=r"'prompt': a list is JSON, such as \[\"a fox\", \"a house\"\], found"):
        parse_input("prompt", PROMPT, text, "here")
