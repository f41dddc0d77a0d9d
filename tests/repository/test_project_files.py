"""The files of an open-source project agree with the code: versions, the site's pages, tests that CI names."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest
import yaml

import guidegraph
import guidegraph_runtime
from tests.paths import ROOT

API = ROOT / "docs" / "reference" / "api"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_both_distributions_the_changelog_and_the_citation_have_one_version() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {guidegraph_runtime.__version__, newest[1], citation["version"]} == {guidegraph.__version__}


def test_the_site_lists_every_page() -> None:
    pages = re.findall(r"^ *- ([\w/-]+\.md)$", read("mkdocs.yml"), re.MULTILINE)
    assert len(pages) == len(set(pages))
    assert set(pages) == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize(
    ("page", "package"),
    [
        ("guidegraph.md", "guidegraph"),
        ("edit.md", "guidegraph.edit"),
        ("testing.md", "guidegraph_testing"),
        ("runtime.md", "guidegraph_runtime"),
    ],
)
def test_the_reference_has_every_public_name(page: str, package: str) -> None:
    names = re.findall(rf"^::: {re.escape(package)}\.(\w+)$", (API / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(set(import_module(package).__all__) - {"__version__"})


def test_tests_that_ci_names_exist_and_need_no_torch() -> None:
    (command,) = (
        step["run"]
        for step in yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["runtime"]["steps"]
        if "pytest -m" in step.get("run", "")
    )
    paths = [ROOT / word for word in shlex.split(command) if word.startswith("tests/")]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    assert len(files) > 10
    for file in files:
        imports = set(re.findall(r"^ *(?:import|from) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
        assert imports.isdisjoint({"torch", "guidegraph", "yaml"}), file
