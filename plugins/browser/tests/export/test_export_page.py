"""`guidegraph export --page`: the folder that it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from guidegraph_browser.support import WASM
from guidegraph_runtime import Bundle
from plugins.browser.tests.pages import write_onnxruntime_web
from tests.commands.command import Command
from tests.graph.export.test_export_command import NODES, TINY

BOXED = """
guidegraph: 1
params: {seed: 0, top: 1, left: 1}
nodes:
  first:   {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 8, 8]}}
  weight:  {use: tiny.weight}
  times:   {use: tiny.times, in: {x: first, weight: weight}}
  picture: {use: image.from_sample, in: {sample: times}}
  inner:   {use: mask.box, in: {top: params.top, left: params.left}, with: {size: 8, height: 2, width: 2}}
  outer:   {use: mask.box, in: {top: params.left, left: params.top}, with: {size: 8, height: 4, width: 4}}
  once:    {use: mask.apply, in: {image: picture, mask: inner}}
  image:   {use: mask.apply, in: {image: once, mask: outer}}
outputs: {image: image}
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    write_onnxruntime_web(tmp_path / "web")
    return Command(tmp_path, capsys)


def test_the_page_s_folder_lists_every_file_that_a_browser_loads(cli: Command) -> None:
    workflow = cli.workflow("tiny.yaml", TINY)
    arguments = ("export", workflow, "-o", "site", "--page", "--onnxruntime-web", "web", "--plugin", NODES)
    result = cli(*arguments)
    assert result.code == 0, result.err
    assert "onnxruntime-web 1.30.0, licence MIT; page.json has the sha256 of each file" in result.out
    assert "python -m http.server 8000 --directory site" in result.out
    page = json.loads((cli.folder / "site" / "page.json").read_text())
    files = page["files"]
    assert {*files} >= {f"onnxruntime-web/{WASM}", "bundle/encode.onnx", "tables.safetensors"}
    for name, item in files.items():
        data = (cli.folder / "site" / name).read_bytes()
        assert item == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    assert [item["op"] for item in page["plan"]] == ["noise.gaussian", "part", "image.from_sample"]
    assert page["digest"] == Bundle(cli.folder / "site" / "bundle").digest
    # A page is replaced by the next one, and nothing else is.
    assert cli(*arguments, "--set", "by=3.0", "--set", f"seed={2**60 + 1}").code == 0
    inputs = json.loads((cli.folder / "site" / "page.json").read_text())["inputs"]
    assert inputs["by"]["default"] == 3.0
    assert inputs["seed"]["default"] == "1152921504606846977"  # a text: JavaScript would round the number


def test_all_reasons_against_a_page_are_said_before_anything_is_traced(cli: Command) -> None:
    workflow = cli.workflow("boxed.yaml", BOXED)
    options = ("--page", "--onnxruntime-web", "web", "--plugin", NODES, "--precision", "encode=bf16")
    result = cli("export", workflow, "-o", "site", *options)
    assert result.code == 2
    assert "part " not in result.out
    for reason in (
        "its graphs need cuda",
        "inner (mask.box) depends on the inputs left, top, and a page has its results for each value of one integer",
        "outer (mask.box) depends on the inputs left, top, ",
    ):
        assert f"--page: no-page: {reason}" in result.err
    assert not (cli.folder / "site").exists()


@pytest.mark.parametrize(("precision", "code"), [("fp16", 0), ("int8", 0), ("bf16", 2)])
def test_a_page_has_the_precisions_that_a_cpu_computes_in(cli: Command, precision: str, code: int) -> None:
    arguments = ("--page", "--onnxruntime-web", "web", "--plugin", NODES, "--precision", f"encode={precision}")
    result = cli("export", cli.workflow("tiny.yaml", TINY), "-o", "site", *arguments, "--no-reference")
    assert result.code == code, result.err
    assert ("a page computes on the CPU: export it in fp32, fp16 or int8" in result.err) == bool(code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--page"], "--onnxruntime-web: bad-value: a page computes with onnxruntime-web, which guidegraph does not"),
        (["--onnxruntime-web", "web"], "--onnxruntime-web: bad-value: only a page needs it"),
        (["--page", "--single-file", "--onnxruntime-web", "web"], "--single-file: bad-value: a page has a bundle"),
        (["--page", "--onnxruntime-web", "none"], "--onnxruntime-web: bad-value: 'none/package.json' cannot be read"),
        (["--page", "--onnxruntime-web", "other"], "describes 'other', not onnxruntime-web: 'npm install"),
        (["--page", "--onnxruntime-web", "part"], f"{WASM}' is missing from onnxruntime-web 1.30.0: 'npm install"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    cli: Command, options: list[str], message: str
) -> None:
    write_onnxruntime_web(cli.folder / "other", name="other")
    (write_onnxruntime_web(cli.folder / "part") / "dist" / WASM).unlink()
    result = cli("export", cli.workflow("tiny.yaml", TINY), "-o", "site", *options, "--plugin", NODES)
    assert result.code == 2
    assert message in result.err
    assert not (cli.folder / "site").exists()


def test_a_folder_with_something_else_is_left_alone(cli: Command) -> None:
    (cli.folder / "site").mkdir()
    (cli.folder / "site" / "notes.txt").write_text("mine")
    workflow = cli.workflow("tiny.yaml", TINY)
    result = cli("export", workflow, "-o", "site", "--page", "--onnxruntime-web", "web", "--plugin", NODES)
    assert result.code == 2
    assert "--output: no-page: 'site' exists and is not a page: choose a new folder, or remove it" in result.err
    assert [path.name for path in (cli.folder / "site").iterdir()] == ["notes.txt"]
