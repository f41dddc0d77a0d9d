"""The gallery: distributions of their own, small, against the public face alone, and held to the conformance kit."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytest.importorskip("onnxscript")

import torch

from guidegraph import Condition, Prediction
from guidegraph_testing import NodeCase, conformance_cases, example, register_example

GALLERY = ROOT / "plugins" / "gallery"
NAMES = sorted(folder.name for folder in GALLERY.iterdir() if (folder / "pyproject.toml").is_file())
ALLOWED = {"__future__", "annotated_types", "guidegraph", "torch"}
LINES = 120
TAKEN = "what it gives is a gradient already; a second one is not taken"


def files(name: str) -> list[Path]:
    return sorted((GALLERY / name / f"guidegraph_{name}").glob("*.py"))


def test_all_methods_are_there() -> None:
    expected = "apg autoguidance cfg_zero_star cfgpp dps dynamic_thresholding freeu nag pag seg slg tpg universal"
    assert expected.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_plugin_imports_only_the_public_api(name: str) -> None:
    for file in files(name):
        for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            modules += [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            for module in modules:
                inside = module.partition(".")[0]
                assert inside in ALLOWED | {f"guidegraph_{name}"} | sys.stdlib_module_names, (file, module)
                assert inside != "guidegraph" or module == "guidegraph", (file, module)


@pytest.mark.parametrize("name", NAMES)
def test_a_plugin_is_a_small_distribution(name: str) -> None:
    assert all(len(file.read_text(encoding="utf-8").splitlines()) <= LINES for file in files(name))
    project = tomllib.loads((GALLERY / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"guidegraph-{name.replace('_', '-')}"
    assert [item.startswith("guidegraph>=") for item in project["dependencies"]] == [True]
    assert project["entry-points"]["guidegraph"] == {name: f"guidegraph_{name}"}


@pytest.mark.parametrize("name", NAMES)
def test_a_plugin_has_a_page_with_a_figure(name: str) -> None:
    text = (GALLERY / name / "README.md").read_text(encoding="utf-8")
    assert "(figure.png)" in text
    assert (GALLERY / name / "figure.png").stat().st_size > 10_000
    assert "arXiv" in text or "arxiv" in text


@pytest.mark.parametrize(("name", "least"), [("table", 16), ("table_flow", 12)])
def test_the_page_has_the_tables_that_were_measured(name: str, least: int) -> None:
    path = os.pathsep.join([str(ROOT), *(str(GALLERY / name) for name in NAMES)])
    table = subprocess.run(
        [sys.executable, "tools/gallery_table.py", f"plugins/gallery/{name}.json", "--show"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    ).stdout
    assert table in (GALLERY / "README.md").read_text(encoding="utf-8")
    assert table.count("\n") >= 2 + least


def test_the_page_has_the_scores_by_scene_eval_and_methods_differ() -> None:
    """At least five pairs differ by more than their intervals."""
    done = subprocess.run(
        [sys.executable, "tools/gallery_scene_eval.py", "plugins/gallery/scene_eval.json", "--show"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout in (GALLERY / "README.md").read_text(encoding="utf-8")
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 5


def cases() -> Iterator[object]:
    for name in NAMES:
        plugin = importlib.import_module(f"guidegraph_{name}")
        for case in conformance_cases(plugin, *exceptions(plugin, name)):
            (check,) = case.values
            slow = [pytest.mark.slow] if check.name == "ONNX export" else []
            yield pytest.param(check, id=check.id, marks=[*case.marks, *slow])


def exceptions(plugin: Any, name: str) -> list[NodeCase]:
    """Values where the kit's examples make no sense for a node, and what is by design."""
    if name == "autoguidance":
        return [NodeCase(plugin.guide, inputs={"uncond": example(Prediction, 5)})]
    if name == "nag":
        return [NodeCase(plugin.predict_away, inputs={"negative": example(Condition, 5)})]
    if name == "slg":
        return [NodeCase(plugin.skip, settings={"sites": "self.middle"})]
    if name == "tpg":
        inputs = {"condition": example(Condition, 5)}
        settings, detached = {"sites": "input.middle"}, {"noise": "an order has no gradient"}
        return [NodeCase(plugin.predict_shuffled, inputs=inputs, settings=settings, detached=detached)]
    if name == "universal":
        register_example(plugin.Loss, lambda seed: Darkness())
        return [NodeCase(plugin.guide, detached={"context": TAKEN})]
    if name == "dps":
        register_example(plugin.Measurement, lambda seed: plugin.masked(picture(), torch.ones(2, 1, 8, 12)))
        return [NodeCase(plugin.guide, detached={"context": TAKEN, "measurement": TAKEN})]
    return []


class Darkness:
    """A loss of samples of any number of channels."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image.square().mean((1, 2, 3))


def picture() -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 4 * 8 * 12).reshape(2, 4, 8, 12)


@pytest.mark.parametrize("check", list(cases()))
def test_its_nodes_conform(check: Any) -> None:
    check()


@pytest.mark.slow
def test_all_are_installed_beside_each_other(tmp_path: Path) -> None:
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    folders = [str(GALLERY / name) for name in NAMES]
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", str(site), *folders], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}

    def guidegraph(*arguments: str) -> str:
        command = [sys.executable, "-m", "guidegraph", *arguments]
        return subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout

    states = {item["name"]: item["state"] for item in json.loads(guidegraph("plugins", "--json"))}
    assert {name: states.get(name) for name in NAMES} == dict.fromkeys(NAMES, "ok")
    workflows = [f"{file.parent.name.removeprefix('guidegraph_')}:{file.name}" for file in site.glob("*/*.yaml")]
    output = guidegraph("validate", *workflows)
    assert output.count(": ok") == len(workflows) >= 12
