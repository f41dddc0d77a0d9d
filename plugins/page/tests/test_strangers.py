"""The workflow of a picture is opened in the page as a stranger's: shown and run, without the user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph.runs.recipe import KEYWORD, read_recipe
from guidegraph_runtime.pictures.png import read_png_text, write_png
from plugins.page.tests.conftest import DRAW, Site

READER = """\
guidegraph: 1
params: {path: {default: PATH, type: Path}}
nodes:
  picture: {use: toy.picture}
  text: {use: toy.read, in: {path: params.path}}
outputs: {image: picture, text: text}
"""


def draw(site: Site, **params: str) -> bytes:
    """The picture of a run of draw.yaml."""
    return (site.folder / "runs" / site.run_to_end(**params)["folder"] / "image.png").read_bytes()


def drop(site: Site, content: bytes, file: str = "cat.png", kind: str = "image/png") -> Any:
    path = f"/{site.access.token}/api/pictures"
    return site.client.post(path, params={"file": file}, content=content, headers={"content-type": kind})


def with_text(site: Site, text: str) -> bytes:
    """A picture that carries another workflow than the one it was made by."""
    import json

    import numpy as np

    path = site.folder / "made.png"
    path.write_bytes(draw(site))
    recipe = json.loads(read_png_text(path)[KEYWORD])
    recipe |= {"workflow": "made.yaml", "sources": {"made.yaml": text}, "params": {}}
    write_png(path, np.zeros((2, 2, 3), np.uint8), {KEYWORD: json.dumps(recipe)})
    assert read_recipe(path).workflow.name == "made.yaml"
    return path.read_bytes()


def run_to_end(site: Site, name: str, **params: str) -> dict[str, Any]:
    number = site.post("api/runs", name=name, params=params).json()["number"]
    site.page.jobs.wait(number, timeout=120)
    return site.page.jobs.jobs[number].describe(0)


def test_a_picture_opens_with_its_parameters_even_if_its_file_is_gone(site: Site) -> None:
    content = draw(site, seed="9")
    (site.folder / "draw.yaml").unlink()
    name = drop(site, content, "../a/cat.PNG").json()["name"]
    assert name == "cat.png"
    assert name in site.get("api/workflows").json()["names"]
    view = site.get("api/view", name=name).json()
    assert (view["text"], view["problems"], view["drawn"]) == (DRAW, [], True)
    assert "came in a picture" in view["readonly"]
    assert [note["code"] for note in view["notes"]] == ["stranger"]
    assert next(row["default"] for row in view["params"] if row["name"] == "seed") == "9"
    job = run_to_end(site, name)
    assert (job["status"], job["error"]) == ("done", "")
    assert (site.folder / "runs" / job["folder"] / "image.png").read_bytes() == content
    assert site.get("api/links", name=name, path="nodes.sum.body.next.in.x").json()["links"] == ["carry.x"]


def test_its_file_here_is_neither_read_nor_written(site: Site) -> None:
    name = drop(site, draw(site)).json()["name"]
    (site.folder / "draw.yaml").write_text(DRAW.replace("1.5", "7.5"))
    assert "1.5" in site.get("api/view", name=name).json()["text"]
    edit = site.post("api/edits", name=name, path="params.seed.default", value="4")
    assert edit.status_code == 404
    assert "7.5" in (site.folder / "draw.yaml").read_text()


def test_it_reads_no_file_of_the_user_unless_the_user_types_it(site: Site) -> None:
    secret = site.folder / "secret.txt"
    secret.write_text("secret")
    name = drop(site, with_text(site, READER.replace("PATH", str(secret)))).json()["name"]
    problems = site.get("api/view", name=name).json()["problems"]
    assert [problem["code"] for problem in problems] == ["forbidden-read"]
    refused = site.post("api/runs", name=name, params={})
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "forbidden-read")
    assert "secret.txt" in refused.json()["problems"][0]["message"]
    assert site.post("api/grids", name=name, params={}, axes={"path": str(secret)}).status_code == 202
    job = run_to_end(site, name, path=str(secret))
    assert (job["status"], job["error"]) == ("done", "")


def test_it_uses_no_workflow_of_the_users_folder(site: Site) -> None:
    (site.folder / "block.yaml").write_text("guidegraph: 1\nnodes: {a: {use: toy.picture}}\noutputs: {image: a}\n")
    text = "guidegraph: 1\nnodes: {a: {use: ./block.yaml}}\noutputs: {image: a.image}\n"
    name = drop(site, with_text(site, text)).json()["name"]
    assert site.get("api/view", name=name).json()["problems"]
    assert site.post("api/runs", name=name, params={}).status_code == 422


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 500])
def test_what_is_no_picture_is_refused(site: Site, content: bytes) -> None:
    response = drop(site, content)
    assert (response.status_code, response.json()["problems"][0]["code"]) == (422, "not-a-picture")


def test_pictures_without_a_workflow_too_large_or_of_another_type_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from guidegraph_page import server

    write_png(site.folder / "plain.png", np.zeros((2, 2, 3), np.uint8), {KEYWORD: "{}"})
    assert drop(site, (site.folder / "plain.png").read_bytes()).json()["problems"][0]["code"] == "bad-workflow"
    write_png(site.folder / "plain.png", np.zeros((2, 2, 3), np.uint8))
    assert drop(site, (site.folder / "plain.png").read_bytes()).json()["problems"][0]["code"] == "no-workflow"
    content = draw(site)
    assert drop(site, content, kind="text/plain").status_code == 400
    monkeypatch.setattr(server, "MAX_BYTES", 100)
    assert drop(site, content).status_code == 400


def test_names_are_unique_and_the_oldest_pictures_are_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page import strangers

    first, second = draw(site, seed="1"), draw(site, seed="2")
    names = [drop(site, content).json()["name"] for content in (first, second, first)]
    assert names == ["cat.png", "cat-2.png", "cat.png"]
    monkeypatch.setattr(strangers, "MAX_PICTURES", 2)
    assert drop(site, first, "\0/..").json()["name"] == "...png"
    assert Path("cat.png").name not in site.get("api/workflows").json()["names"]


def test_nothing_is_kept_of_forgotten_pictures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page import strangers

    monkeypatch.setattr(strangers, "MAX_PICTURES", 1)
    views = site.page.views
    site.get("api/view", name="draw.yaml")
    caches: list[dict[str, Any]] = [views.drawings, views.files, views._wirings]
    for seed in "12":
        name = drop(site, draw(site, seed=seed), f"{seed}.png").json()["name"]
        site.get("api/view", name=name)
        site.get("api/links", name=name, path="nodes.sum.body.next.in.x")
        assert [sorted(cache) for cache in caches] == 3 * [[f"{seed}.png", "draw.yaml"]]


def test_a_picture_with_the_name_of_a_forgotten_one_has_its_own_wires(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidegraph_page import strangers

    monkeypatch.setattr(strangers, "MAX_PICTURES", 1)
    other = DRAW.replace("start", "first")
    for file, text, link in (("cat.png", DRAW, "start"), ("dog.png", DRAW, "start"), ("cat.png", other, "first")):
        name = drop(site, with_text(site, text), file).json()["name"]
        assert name == file
        assert site.get("api/links", name=name, path="nodes.sum.carry.x").json()["links"] == [link]
