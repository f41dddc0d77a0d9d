"""The view of a workflow: its text, problems, nodes, forms and drawing, and what happens when the file changes."""

from __future__ import annotations

import asyncio
import os
import re
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from plugins.page.tests.conftest import BROKEN, DRAW, Site
from tests.paths import ROOT


def test_the_folder_lists_workflows_alone(site: Site) -> None:
    assert site.get("api/workflows").json()["names"] == ["draw.yaml", "more/broken.yaml"]


def test_a_name_that_is_not_utf8_is_left_out(site: Site) -> None:
    with suppress(OSError):  # some file systems refuse the name
        Path(os.fsdecode(os.fsencode(site.folder) + b"/\xff.yaml")).write_text(DRAW)
    assert site.get("api/workflows").json()["names"] == ["draw.yaml", "more/broken.yaml"]


def test_a_view_has_text_nodes_and_lines(site: Site) -> None:
    view = site.get("api/view", name="draw.yaml").json()
    lines = DRAW.splitlines()
    assert view["text"] == DRAW
    assert (view["problems"], view["drawn"], view["readonly"]) == ([], True, "")
    assert [*view["nodes"]] == ["nodes.picture", "nodes.start", "nodes.sum", "nodes.sum.body.next"]
    for path, node in view["nodes"].items():
        assert lines[node["line"] - 1].strip().startswith(f"{path.rpartition('.')[2]}:")
    assert lines[view["nodes"]["nodes.sum"]["last"] - 1].strip() == "next: {x: next}"
    assert view["nodes"]["nodes.picture"]["arguments"] == {
        "seed": {"link": "params.seed", "line": 8},
        "batch": {"literal": "1", "line": 8},
    }
    assert view["nodes"]["nodes.sum"]["groups"] == {"carry": {"x": "start"}, "next": {"x": "next"}}


def test_each_node_of_the_drawing_has_its_path_and_no_style(site: Site) -> None:
    view = site.get("api/view", name="draw.yaml").json()
    drawing = ET.fromstring(view["svg"])
    paths = [element.get("data-node") for element in drawing.iter() if element.get("data-node")]
    assert sorted(map(str, paths)) == sorted(view["nodes"])
    assert not any(element.tag.endswith("style") or element.get("style") for element in drawing.iter())


def test_every_class_of_the_drawing_has_a_style(site: Site) -> None:
    view, css = site.get("api/view", name="draw.yaml").json(), site.get("graph.css").text
    used = {name for names in re.findall(r'class="([^"]+)"', view["svg"]) for name in names.split()}
    assert {name for name in used if f".{name}" not in css} == {"port"}  # which has the style of all texts


def test_parameters_and_settings_have_fields(site: Site) -> None:
    view = site.get("api/view", name="draw.yaml").json()
    seed, seconds, _ = view["params"]
    assert (seed["name"], seed["default"], seed["help"], seed["field"]) == (
        "seed",
        "3",
        "which picture",
        {"kind": "number"},
    )
    assert (seconds["default"], seconds["line"]) == ("0.0", 5)
    picture = view["types"]["toy.picture"]
    assert picture["doc"].startswith("Plain pictures")
    assert {setting["name"]: setting["field"]["kind"] for setting in picture["settings"]} == {
        "seed": "number",
        "batch": "number",
        "shade": "number",
    }
    assert view["types"]["toy.number"]["alternatives"] == ["toy.add", "toy.divide", "toy.number", "toy.sleep"]


def test_a_choice_of_texts_is_a_choice() -> None:
    from guidegraph.plugins.manager import PluginManager
    from guidegraph_page.forms import describe_node_for_page

    registry = PluginManager((), entry_points=False).registry
    row = describe_node_for_page(registry.nodes["scheduler.ddim"], registry)
    fields = {setting["name"]: setting["field"] for setting in row["settings"]}
    assert fields["spacing"]["kind"] == "choice"
    assert {"leading", "trailing", "linspace"} <= {*fields["spacing"]["options"]}
    assert fields["steps"] == {"kind": "number"}
    assert "scheduler.heun" in row["alternatives"]


def test_a_workflow_with_errors_has_its_problems_and_its_text(site: Site) -> None:
    view = site.get("api/view", name="more/broken.yaml").json()
    (problem,) = view["problems"]
    assert (problem["code"], problem["line"], problem["here"]) == ("unknown-node", 9, True)
    assert problem["path"].startswith("nodes.start")
    assert "toy.number" in problem["message"]
    assert (view["text"], view["drawn"], view["svg"]) == (BROKEN, False, "")


def test_the_last_good_drawing_stays_while_the_file_has_errors(site: Site) -> None:
    good = site.get("api/view", name="draw.yaml").json()
    (site.folder / "draw.yaml").write_text(BROKEN)
    bad = site.get("api/view", name="draw.yaml").json()
    assert (bad["drawn"], bad["svg"]) == (False, good["svg"])
    (site.folder / "draw.yaml").write_bytes(b"\xff\xfe{")
    assert site.get("api/view", name="draw.yaml").json()["problems"]


def test_code_that_is_allowed_is_no_problem(tmp_path: Path) -> None:
    from guidegraph.graph.trust.policy import OWN_WORKFLOW, Grants, Policy
    from guidegraph.plugins.manager import PluginManager
    from guidegraph_page.folder import WorkflowFolder
    from guidegraph_page.view import Views

    (tmp_path / "code.yaml").write_text(
        "guidegraph: 1\nnodes:\n  net: {use: features.torchscript, with: {path: model.pt, range: '0..1'}}\n"
        "  n: {use: noise.gaussian, with: {shape: [1, 3, 4, 4]}}\n  i: {use: image.from_sample, in: {sample: n}}\n"
        "  f: {use: features.pooled, in: {extractor: net, image: i}}\noutputs: {f: f}\n"
    )
    (tmp_path / "model.pt").write_bytes(b"")
    folder, registry = WorkflowFolder.open(tmp_path), PluginManager((), entry_points=False).registry
    allowing = Policy(grants=Grants(code=(tmp_path / "model.pt",)))
    for policy, codes in ((OWN_WORKFLOW, ["forbidden-code"]), (allowing, [])):
        problems = Views(folder, registry, policy).read("code.yaml")["problems"]
        assert [problem["code"] for problem in problems] == codes


def test_a_shipped_workflow_is_read_only() -> None:
    from guidegraph.graph.trust.policy import OWN_WORKFLOW
    from guidegraph.plugins.manager import PluginManager
    from guidegraph_page.folder import WorkflowFolder
    from guidegraph_page.view import Views

    registry = PluginManager((), entry_points=False).registry
    views = Views(WorkflowFolder.open(ROOT / "workflows"), registry, OWN_WORKFLOW)
    view = views.read("text_to_image.yaml")
    assert "ships with guidegraph" in view["readonly"]
    assert view["nodes"]["nodes.sample.body.guided"]["use"] == "guidance.cfg"


def test_nodes_of_sub_workflows_name_their_file(site: Site) -> None:
    (site.folder / "outer.yaml").write_text(
        "guidegraph: 1\nnodes:\n  inner: {use: ./draw.yaml, with: {seed: 1}}\noutputs: {image: inner.image}\n"
    )
    view = site.get("api/view", name="outer.yaml").json()
    assert view["nodes"]["nodes.inner/picture"] == {
        "kind": "inlined",
        "use": "toy.picture",
        "file": "draw.yaml",
        "line": 8,
    }
    assert {*site.page.views.files["outer.yaml"]} == {site.folder / "outer.yaml", site.folder / "draw.yaml"}


@pytest.mark.parametrize("text", [None, BROKEN, DRAW.replace("image: picture, ", "")])
def test_a_sub_workflow_is_watched_while_it_makes_errors(site: Site, text: str | None) -> None:
    (site.folder / "outer.yaml").write_text(
        "guidegraph: 1\nnodes:\n  inner: {use: ./part.yaml, with: {seed: 1}}\noutputs: {image: inner.image}\n"
    )
    if text is not None:
        (site.folder / "part.yaml").write_text(text)
    assert site.get("api/view", name="outer.yaml").json()["problems"]
    mend = lambda: (site.folder / "part.yaml").write_text(DRAW)  # noqa: E731
    assert collect_events(site, 2, mend, name="outer.yaml")[1].startswith("event: file")


def test_a_view_that_is_read_again_is_no_change_of_the_file(site: Site) -> None:
    (site.folder / "outer.yaml").write_text(
        "guidegraph: 1\nnodes:\n  inner: {use: ./draw.yaml, with: {seed: 1}}\noutputs: {image: inner.image}\n"
    )

    async def watch() -> list[str]:
        looks = iter(range(30))

        async def is_disconnected() -> bool:
            look = next(looks)
            if look in (5, 10):
                await asyncio.to_thread(site.page.views.read, "outer.yaml")
            return look == 29

        return [chunk async for chunk in site.page.iterate_events("outer.yaml", is_disconnected)]

    assert not [chunk for chunk in asyncio.run(watch()) if chunk.startswith("event: file")]


def collect_events(site: Site, count: int, act: Any = None, name: str = "draw.yaml") -> list[str]:
    """The first events of the stream for a workflow; ``act`` is called after the first of them."""

    async def collect() -> list[str]:
        async def is_disconnected() -> bool:
            return False

        events = []
        async for chunk in site.page.iterate_events(name, is_disconnected):
            if chunk.startswith("event"):
                events.append(chunk)
                if len(events) == 1 and act:
                    act()
            if len(events) == count:
                break
        return events

    return asyncio.run(asyncio.wait_for(collect(), timeout=30))


def test_pages_that_take_events_are_counted(site: Site) -> None:
    async def watch() -> list[int]:
        async def is_disconnected() -> bool:
            return False

        pages = [site.page.count_watcher(site.page.iterate_events("draw.yaml", is_disconnected)) for _ in range(2)]
        counts = [site.page.jobs.watchers]
        for page in pages:
            await anext(page)
            counts.append(site.page.jobs.watchers)
        for page in pages:
            await page.aclose()  # type: ignore[attr-defined]
            counts.append(site.page.jobs.watchers)
        return counts

    assert asyncio.run(watch()) == [0, 1, 2, 1, 0]


def test_a_change_of_the_file_is_an_event(site: Site) -> None:
    site.get("api/view", name="draw.yaml")
    first, second = collect_events(site, 2, lambda: (site.folder / "draw.yaml").write_text(DRAW + "# more\n"))
    assert first.startswith("event: jobs\n")
    assert second == "event: file\ndata: {}\n\n"


@pytest.mark.parametrize(
    "body", ["{", "[1]", '"text"', '{"name": 3, "params": {}}', '{"name": "draw.yaml", "params": {"a": 1}}']
)
def test_a_bad_body_is_a_bad_request(site: Site, body: str) -> None:
    headers = {"content-type": "application/json"}
    response = site.client.post(f"/{site.access.token}/api/runs", content=body, headers=headers)
    assert response.status_code == 400
    assert "expected" in response.json()["error"]


def test_half_of_a_surrogate_pair_is_named_in_the_error(site: Site) -> None:
    headers, body = {"content-type": "application/json"}, '{"name": "\\ud800.yaml", "params": {}}'
    response = site.client.post(f"/{site.access.token}/api/runs", content=body, headers=headers)
    assert response.status_code == 404
    assert "'\ud800.yaml'" in response.json()["error"]


def test_a_form_of_another_page_is_no_request(site: Site) -> None:
    response = site.client.post(
        f"/{site.access.token}/api/runs", content='{"name": "draw.yaml"}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 400
