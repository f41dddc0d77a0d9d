"""The Markdown pages: their links lead somewhere, the index lists every page, and the first tutorial is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guidegraph import WorkflowError, load_workflow
from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "plugins").rglob("README.md")])
TUTORIAL = DOCS / "learn" / "first-workflow.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} +(.*)", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's relative links, without those in code and comments."""
    text = COMMENT.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_lists_every_page() -> None:
    listed = {(DOCS / link).resolve() for link in links(DOCS / "index.md")}
    assert {page.resolve() for page in DOCS.rglob("*.md")} - listed == {(DOCS / "index.md").resolve()}


def test_the_workflow_of_the_first_tutorial_and_its_mistake(tmp_path: Path) -> None:
    blocks = FENCE.findall(TUTORIAL.read_text(encoding="utf-8"))
    workflow = next(text for kind, text in blocks if kind == "yaml")
    message = next(text for _, text in blocks if text.startswith("draw.yaml:")).strip()
    path = tmp_path / "draw.yaml"
    path.write_text(workflow, encoding="utf-8")
    load_workflow(path)
    path.write_text(workflow.replace("uncond: uncond,", "unkond: uncond,"), encoding="utf-8")
    with pytest.raises(WorkflowError) as error:
        load_workflow(path)
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in error.value.problems] == [message]
