"""``new-plugin``: names, folders and files; tests/plugins/test_plugin_tutorial.py installs the plugin and draws."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from guidegraph.commands import plugin_template
from guidegraph.commands.plugin_template import render_template, write_folder
from tests.commands.command import Command, environment, process


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


FILES = {
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "guidegraph_my_soft/__init__.py",
    "guidegraph_my_soft/text_to_image.yaml",
    "tests/test_my_soft.py",
}


def test_the_new_plugin_has_its_name_everywhere(cli: Command) -> None:
    result = cli("new-plugin", "my_soft")
    folder = cli.folder / "guidegraph-my-soft"
    assert result.code == 0
    assert "  cd guidegraph-my-soft\n" in result.out
    assert list_files(folder) == FILES
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "guidegraph-my-soft"
    assert project["project"]["entry-points"]["guidegraph"] == {"my_soft": "guidegraph_my_soft"}
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert path.suffix != ".py" or ast.parse(path.read_text())


def test_the_workflow_of_the_new_plugin_is_valid_before_it_is_installed(cli: Command) -> None:
    cli("new-plugin", "soft")
    folder = cli.folder / "guidegraph-soft"
    for workflow in ("guidegraph_soft/text_to_image.yaml", "soft:text_to_image.yaml"):
        result = process(["validate", workflow, "--plugin", "guidegraph_soft"], folder)
        assert (result.returncode, result.stdout) == (0, f"{workflow}: ok\n"), result.stderr


@pytest.mark.slow
def test_the_new_family_passes_its_tests_and_draws(cli: Command) -> None:
    result = cli("new-plugin", "pebble", "--family")
    assert "guidegraph run pebble:draw.yaml --set checkpoint=example.safetensors" in result.out
    folder = cli.folder / "guidegraph-pebble"
    package = {f"guidegraph_pebble/{name}" for name in ("__init__.py", "network.py", "draw.yaml")}
    assert list_files(folder) == {".gitignore", "README.md", "pyproject.toml", "tests/test_pebble.py", *package}
    for command in (
        ["-m", "guidegraph_pebble.network", "example.safetensors"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
    ):
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
    workflow = [
        "guidegraph_pebble/draw.yaml",
        "--plugin",
        "guidegraph_pebble",
        "--set",
        "checkpoint=example.safetensors",
    ]
    assert process(["run", *workflow, "--set", "steps=2", "--out", "out"], folder).returncode == 0
    assert (folder / "out" / "image.png").is_file()


@pytest.mark.slow
def test_the_new_family_of_diffusers_passes_its_tests_and_draws(cli: Command) -> None:
    pytest.importorskip("diffusers")
    result = cli("new-plugin", "aura", "--family", "--diffusers")
    assert "guidegraph run aura:text_to_image.yaml --set checkpoint=example" in result.out
    folder = cli.folder / "guidegraph-aura"
    for command in (
        ["-m", "guidegraph_aura.example", "example"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
    ):
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
    values = ["--set", "checkpoint=example", "--set", "shape=[4, 16, 16]", "--set", "steps=2"]
    workflow = ["guidegraph_aura/text_to_image.yaml", "--plugin", "guidegraph_aura", *values]
    assert process(["run", *workflow, "--out", "out"], folder).returncode == 0
    assert (folder / "out" / "image.png").is_file()
    lines = [path.read_text().count("\n") for path in (folder / "guidegraph_aura").glob("*.py")]
    assert sum(lines) < 250


def test_diffusers_without_family_is_an_error(cli: Command) -> None:
    result = cli("new-plugin", "aura", "--diffusers")
    assert result.code == 2
    assert result.err == "--diffusers: incomplete: it is for a family of checkpoints: add --family\n"
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason", "suggestion"),
    [
        ("My-Soft", "small letters", "my_soft"),
        ("SoftGuide", "small letters", "soft_guide"),
        ("guidegraph-soft", "small letters", "soft"),
        ("3d", "small letters", "guide_3d"),
        ("", "small letters", "guide"),
        ("été", "small letters", "guide_t"),
        ("soft_", "small letters", "soft"),
        ("x", "a drive of Windows", "guide_x"),
        ("class", "a word of Python's own", "my_class"),
        ("guidance", "the namespace 'guidance' belongs to guidegraph", "my_guidance"),
        ("toy", "the namespace 'toy' belongs to toys", "my_toy"),
        ("metric", "the namespace 'metric' belongs to guidegraph-lab", "my_metric"),
        ("serve", "the namespace 'serve' belongs to guidegraph-serve", "my_serve"),
        ("pkg", "the namespace 'pkg' belongs to guidegraph", "my_pkg"),
        ("runtime", "there is a package guidegraph_runtime already", "my_runtime"),
    ],
)
def test_an_invalid_name_is_refused_and_a_valid_one_suggested(
    cli: Command, name: str, reason: str, suggestion: str
) -> None:
    result = cli("new-plugin", name)
    assert result.code == 2
    assert result.err.startswith("NAME: bad-name: ")
    assert reason in result.err
    assert result.err.endswith(f"what about '{suggestion}'?\n")
    assert list(cli.folder.iterdir()) == []


def test_a_folder_with_content_is_left_unchanged(cli: Command) -> None:
    (cli.folder / "guidegraph-soft").mkdir()
    kept = cli.workflow("guidegraph-soft/kept.txt", "mine")
    result = cli("new-plugin", "soft")
    assert result.code == 2
    assert result.err == (
        "--output: not-empty: the folder 'guidegraph-soft' exists and is not empty; give another one with -o\n"
    )
    assert [path.name for path in kept.parent.iterdir()] == ["kept.txt"]
    assert "is not a folder" in cli("new-plugin", "soft", "-o", kept).err


def test_problems_with_name_and_folder_are_both_reported(cli: Command) -> None:
    cli.workflow("there/kept.txt", "mine")
    lines = cli("new-plugin", "Soft", "-o", "there").err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["--output", "NAME"]


@pytest.mark.parametrize("output", [".", "empty", "new/deep"])
def test_the_folder_may_be_empty_or_missing(cli: Command, output: str) -> None:
    (cli.folder / "empty").mkdir()
    if output == ".":
        (cli.folder / "empty").rmdir()
    assert cli("new-plugin", "soft", "-o", output).code == 0
    names = list_files(cli.folder / output)
    assert names == {name.replace("my_soft", "soft") for name in FILES}
    assert not list(cli.folder.rglob("*.tmp"))


def test_a_failed_write_leaves_nothing_behind(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    result = cli("new-plugin", "soft")
    assert result.code == 2
    assert "--output: no-folder: " in result.err
    assert "guidegraph-soft' cannot be written: no space is left on the disk" in result.err
    monkeypatch.undo()
    assert not [path for path in cli.folder.iterdir() if path.is_dir()]


def test_a_failed_write_into_an_empty_folder_leaves_it_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_folder(render_template("soft"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_placeholder_of_the_template_is_left() -> None:
    marks = re.compile("@[A-Z]+@")
    text = "".join(path.read_text() for path in plugin_template.TEMPLATE.rglob("*.txt"))
    names = {"@NAME@", "@PACKAGE@", "@DISTRIBUTION@", "@VERSION@", "@SUMMARY@", "@DEPENDENCIES@"}
    assert set(marks.findall(text)) == names
    for rendered in (render_template("soft"), render_template("soft", "family"), render_template("soft", "pipeline")):
        assert not marks.findall("".join(rendered.values()))
