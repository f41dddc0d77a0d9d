"""Edits through the page change nothing else in the file, are refused with the usual error, and can be undone."""

from __future__ import annotations

import difflib

import pytest

from plugins.page.tests.conftest import DRAW, Site


def changed_lines(site: Site) -> list[str]:
    after = (site.folder / "draw.yaml").read_text()
    lines = difflib.unified_diff(DRAW.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize(
    ("path", "value", "kind", "line"),
    [
        ("params.seed.default", "9", "number", '  seed: {default: 9, help: "which picture"}'),
        ("params.seconds.default", "0.25", "number", "  seconds: 0.25   # of each step"),
        (
            "nodes.picture.with.batch",
            "2",
            "number",
            "  picture: {use: toy.picture, in: {seed: params.seed}, with: {batch: 2}}",
        ),
        ("nodes.start.use", "toy.divide", "text", ""),
        (
            "nodes.sum.body.next.in.x",
            "start",
            "link",
            "      next: {use: toy.sleep, in: {x: start, seconds: params.seconds}}",
        ),
    ],
)
def test_an_edit_changes_its_line_alone_and_is_undone(site: Site, path: str, value: str, kind: str, line: str) -> None:
    response = site.post("api/edits", name="draw.yaml", path=path, value=value, kind=kind)
    if not line:
        assert response.status_code == 422
        assert changed_lines(site) == []
        return
    assert (response.status_code, response.json()) == (200, {"undo": 1})
    removed, added = changed_lines(site)
    assert added == f"+{line}"
    assert removed[0] == "-"
    assert site.get("api/view", name="draw.yaml").json()["undo"] == 1
    assert site.post("api/undo", name="draw.yaml").json() == {"undo": 0}
    assert (site.folder / "draw.yaml").read_text() == DRAW


@pytest.mark.parametrize("text", ["[red] cat", "{a: 1}"])
def test_a_text_in_brackets_is_saved_as_a_run_would_take_it(site: Site, text: str) -> None:
    plain = DRAW.replace("seconds: 0.0   # of each step", "name: plain\n  seconds: 0.0")
    (site.folder / "draw.yaml").write_text(plain)
    response = site.post("api/edits", name="draw.yaml", path="params.name.default", value=text, kind="text")
    assert response.status_code == 200
    defaults = {row["name"]: row["default"] for row in site.get("api/view", name="draw.yaml").json()["params"]}
    assert defaults["name"] == text


def test_a_value_is_removed(site: Site) -> None:
    assert site.post("api/edits", name="draw.yaml", path="nodes.picture.with.batch", value=None).status_code == 200
    assert changed_lines(site)[1] == "+  picture: {use: toy.picture, in: {seed: params.seed}}"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("nodes.picture.with.batch", "0", "bad-value"),
        ("nodes.sum.body.next.in.x", "nothing", "unknown-link"),
        ("nodes.nothing.with.batch", "1", "unknown-path"),
    ],
)
def test_a_wrong_edit_is_refused_and_the_file_stays(site: Site, path: str, value: str, code: str) -> None:
    response = site.post("api/edits", name="draw.yaml", path=path, value=value, kind="number")
    assert response.status_code == 422
    assert code in [problem["code"] for problem in response.json()["problems"]]
    assert changed_lines(site) == []
    assert site.post("api/undo", name="draw.yaml").status_code == 409


def test_an_undo_does_not_overwrite_a_change_of_another_editor(site: Site) -> None:
    site.post("api/edits", name="draw.yaml", path="params.seed.default", value="9", kind="number")
    theirs = (site.folder / "draw.yaml").read_text() + "# mine\n"
    (site.folder / "draw.yaml").write_text(theirs)
    response = site.post("api/undo", name="draw.yaml")
    assert response.status_code == 422
    assert (site.folder / "draw.yaml").read_text() == theirs


def test_a_node_is_renamed_with_its_links(site: Site) -> None:
    response = site.post("api/nodes", name="draw.yaml", path="nodes.start", new_name="first")
    assert (response.status_code, response.json()) == (200, {"undo": 1})
    assert changed_lines(site)[1::2] == [
        "+  first:   {use: toy.number, with: {value: 1.5}}",
        "+    carry: {x: first}",
    ]
    site.post("api/undo", name="draw.yaml")
    assert (site.folder / "draw.yaml").read_text() == DRAW


def test_a_linked_node_is_not_removed_and_another_is(site: Site) -> None:
    response = site.post("api/nodes", name="draw.yaml", path="nodes.start", new_name=None)
    assert response.status_code == 422
    assert changed_lines(site) == []
    assert site.post("api/edits", name="draw.yaml", path="outputs.image", value=None).status_code == 200
    assert site.post("api/nodes", name="draw.yaml", path="nodes.picture", new_name=None).status_code == 200
    assert "toy.picture" not in (site.folder / "draw.yaml").read_text()


@pytest.mark.parametrize("new_name", ["picture", "carry", "a b", ""])
def test_a_wrong_name_is_refused(site: Site, new_name: str) -> None:
    response = site.post("api/nodes", name="draw.yaml", path="nodes.start", new_name=new_name)
    assert response.status_code == 422
    assert changed_lines(site) == []
    assert site.post("api/nodes", name="draw.yaml", path="nodes.start").status_code == 400
