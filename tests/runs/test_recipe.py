"""Recreating a picture from its own recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from guidegraph.runs.recipe import KEYWORD, file_names, portable_value
from guidegraph_runtime.pictures.png import read_png_text
from tests.commands.command import Command
from tests.commands.test_run import DRAW, read_record

BLOCK = """
guidegraph: 1
params: {seed: {type: int}}
nodes: {p: {use: toy.picture, in: {seed: params.seed}, with: {batch: 2}}}
outputs: {image: p}
"""
USES_BLOCK = """
guidegraph: 1
params: {seed: 5}
nodes: {draw: {use: ./blocks/draw.yaml, in: {seed: params.seed}}}
outputs: {image: draw.image}
"""


def first_pixel(path: Path) -> object:
    with Image.open(path) as picture:
        return picture.getpixel((0, 0))


def test_a_picture_is_recreated_with_its_batch(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert cli("run", workflow, "--out", "a", "--set", "seed=7", "--set", "batch=2").code == 0
    workflow.unlink()
    assert cli("run", "a/image-0001.png", "--out", "b").code == 0
    assert first_pixel(Path("a/image-0001.png")) == first_pixel(Path("b/image-0001.png"))
    assert {p.name for p in Path("a").iterdir()} == {p.name for p in Path("b").iterdir()}
    assert read_record(Path("a"))["digests"] == read_record(Path("b"))["digests"]


def test_a_parameter_can_be_changed(cli: Command) -> None:
    assert cli("run", cli.workflow("draw.yaml", DRAW), "--out", "a", "--set", "seed=7").code == 0
    assert cli("run", "a/image.png", "--out", "b", "--set", "seed=8", "--set", "batch=2").code == 0
    assert read_record(Path("b"))["parameters"]["seed"] == 8
    assert cli("run", "b/image-0000.png", "--out", "c").code == 0
    assert read_record(Path("c"))["parameters"]["seed"] == 8


def test_the_picture_contains_its_recipe(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert cli("run", workflow, "--out", "a", "--set", "batch=2", "--only", "image", "--dtype", "float64").code == 0
    recipe = json.loads(read_png_text("a/image-0001.png")[KEYWORD])
    assert recipe["workflow"] == "draw.yaml"
    assert recipe["sources"] == {"draw.yaml": DRAW}
    assert recipe["params"] == {"seed": 3, "batch": 2, "prompt": "a tiger", "sizes": [1, 2]}
    assert (recipe["output"], recipe["index"], recipe["batch"], recipe["seeds"]) == ("image", 1, 2, {"nodes.image": 3})
    assert cli("run", "a/image-0001.png", "--out", "b").code == 0
    assert (read_record(Path("b"))["only"], read_record(Path("b"))["dtype"]) == (["image"], "float64")


def test_a_picture_contains_the_sub_workflows_of_its_workflow(cli: Command) -> None:
    block = cli.workflow("blocks/draw.yaml", BLOCK)
    workflow = cli.workflow("main.yaml", USES_BLOCK)
    assert cli("run", workflow, "--out", "a").code == 0
    block.unlink()
    workflow.unlink()
    assert cli("run", "a/image-0001.png", "--out", "b").code == 0
    assert first_pixel(Path("a/image-0001.png")) == first_pixel(Path("b/image-0001.png"))


def test_texts_in_the_picture_take_precedence_over_changed_files(cli: Command) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    assert cli("run", workflow, "--out", "a").code == 0
    workflow.write_text("guidegraph: 2")
    assert cli("validate", "a/image.png").out == "a/image.png: ok\n"


READ = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  i: {use: toy.picture}
  r: {use: toy.read, in: {path: params.path}}
outputs: {i: i, r: r}
"""


def test_a_picture_does_not_reveal_folders(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.workflow("far/secret/a.txt", "here")
    workflow = cli.workflow("far/draw/read.yaml", READ)
    for name in ("near", "project"):
        (cli.folder / name).mkdir()
    monkeypatch.chdir(cli.folder / "project")
    assert cli("run", workflow, "--out", "../near/a", "--set", "path=../far/secret/a.txt").code == 0
    text = read_png_text("../near/a/i.png")[KEYWORD]
    assert str(cli.folder) not in text
    assert json.loads(text)["params"] == {"path": "a.txt"}
    assert list(json.loads(text)["sources"]) == ["read.yaml"]


def test_a_file_that_a_picture_reads_must_be_given_again_or_allowed(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.workflow("a.txt", "here")
    assert cli("run", cli.workflow("read.yaml", READ), "--out", "a", "--set", "path=a.txt").code == 0
    refused = cli("run", "a/i.png", "--out", "b")
    assert refused.code == 2
    assert f"--allow-read {cli.folder / 'a.txt'}, or --set path=PATH" in refused.err
    assert not Path("b").exists()
    assert cli("run", "a/i.png", "--out", "b", "--allow-read", "a.txt").code == 0
    elsewhere = cli.folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert cli("run", "../a/i.png", "--out", "c", "--set", "path=../a.txt").code == 0
    assert json.loads(Path("c/r.json").read_text()) == "here"


def test_a_picture_of_format_1_is_recreated(cli: Command) -> None:
    from PIL.PngImagePlugin import PngInfo

    workflow = str(cli.folder / "gone" / "draw.yaml")
    info = PngInfo()
    recipe = {"format": 1, "workflow": workflow, "sources": {workflow: DRAW}, "params": {"seed": 7}}
    info.add_itxt(KEYWORD, json.dumps(recipe))
    Image.new("RGB", (2, 2)).save("old.png", pnginfo=info)
    assert cli("run", "old.png", "--out", "b").code == 0
    assert read_record(Path("b"))["parameters"]["seed"] == 7


def test_shipped_files_have_portable_names() -> None:
    import guidegraph.workflows

    (folder,) = list(guidegraph.workflows.__path__)[:1]
    assert portable_value(Path(folder) / "text_to_image.yaml") == "pkg:text_to_image.yaml"
    assert portable_value(Path("a")) == str(Path.cwd() / "a")


def test_a_picture_from_elsewhere_is_refused(cli: Command) -> None:
    Image.new("RGB", (2, 2)).save("plain.png")
    result = cli("run", "plain.png")
    assert result.code == 2
    assert result.err.startswith("plain.png:1:1: no-workflow: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 2, "workflow": "a"}',
        '{"format": 1, "workflow": "a", "sources": {"a": 1}, "params": {}}',
        '{"format": 1, "workflow": "a", "sources": {"b": ""}, "params": {}}',
        '{"format": 1, "workflow": "a", "sources": {"a": "guidegraph: 1"}, "params": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_text_is_refused(cli: Command, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEYWORD, text)
    Image.new("RGB", (2, 2)).save("bad.png", pnginfo=info)
    result = cli("run", "bad.png")
    assert result.code == 2
    assert "bad-workflow" in result.err


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\nIHDR"])
def test_files_that_are_not_png_are_refused(cli: Command, content: bytes) -> None:
    Path("not.png").write_bytes(content)
    result = cli("run", "not.png")
    assert result.code == 2
    assert "not-a-picture" in result.err


def test_a_process_without_a_home_folder_names_other_files_absolutely(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    elsewhere = Path("/elsewhere/block.yaml")
    assert file_names(Path("/flows/draw.yaml"), [elsewhere])[elsewhere] == "/elsewhere/block.yaml"
