"""What the page offers to wire and to add is what the editor accepts, and each wire is one small edit."""

from __future__ import annotations

import difflib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from guidegraph.edit import WorkflowEditor
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.trust.policy import OWN_WORKFLOW
from guidegraph_page.edits import connect
from guidegraph_page.folder import WorkflowFolder
from guidegraph_page.forms import describe_node_for_page
from guidegraph_page.view import Views
from guidegraph_page.wire_routes import Place, find_insertions, find_place, make_draft, search_nodes
from guidegraph_page.wiring import Wiring
from plugins.page.tests.conftest import DRAW, Site
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
GUIDED = "nodes.sample.body.step.in.prediction"


@pytest.fixture(scope="module")
def registry() -> Any:
    from guidegraph.plugins.manager import PluginManager

    return PluginManager((), entry_points=False).registry


def read_wiring(folder: Path, name: str, registry: Any) -> Wiring:
    return Views(WorkflowFolder.open(folder), registry, OWN_WORKFLOW).read_wiring(name)


@pytest.fixture(scope="module")
def wiring(registry: Any) -> Wiring:
    return read_wiring(WORKFLOWS, "text_to_image.yaml", registry)


def names(wiring: Wiring, link: str, block: str) -> set[str]:
    return {target.path.removeprefix("nodes.") for target in wiring.find_targets(link, block)}


def test_an_output_finds_the_ports_that_take_it(wiring: Wiring) -> None:
    assert names(wiring, "model.schedule", "nodes") == {"scheduler.in.schedule", "outputs.image"}
    predictions = names(wiring, "cond", "nodes.sample.body")
    assert {"sample.body.guided.in.uncond", "sample.body.step.in.prediction"} <= predictions
    assert "sample.body.cond.in.x" not in predictions  # of its own


def test_a_link_that_would_make_a_cycle_is_not_offered(wiring: Wiring) -> None:
    fitting = {path.partition(".in.")[0] for path in names(wiring, "step.x", "nodes.sample.body")}
    assert not fitting & {"sample.body.cond", "sample.body.uncond", "sample.body.guided", "sample.body.step"}
    outside = names(wiring, "sample.x", "nodes")
    assert "image.in.latent" in outside
    assert not [path for path in outside if path.startswith(("sample.", "noise."))]


def test_a_port_finds_the_links_that_it_takes(wiring: Wiring) -> None:
    links = wiring.find_links(wiring.targets["nodes.sample.body.guided.in.scale"])
    assert {"params.scale", "params.steps"} <= {*links}
    assert "positive" not in links
    assert wiring.find_links(wiring.targets[GUIDED])[:3] == ["cond", "uncond", "guided"]
    assert "loop.t" in wiring.find_links(wiring.targets["nodes.sample.body.cond.in.t"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_to_image", "inpaint", "train/image_to_image", "text_or_image"])
def test_what_is_offered_is_what_the_editor_accepts(registry: Any, tmp_path: Path, name: str) -> None:
    shutil.copytree(WORKFLOWS, tmp_path / "workflows", ignore=shutil.ignore_patterns("*.safetensors", "*.npz"))
    wiring = read_wiring(tmp_path / "workflows", f"{name}.yaml", registry)
    editor = WorkflowEditor(tmp_path / "workflows" / f"{name}.yaml", registry=registry)
    rng, offered, refused = random.Random(7), 0, 0
    targets = sorted(wiring.targets.values(), key=lambda target: target.path)
    for target in rng.sample(targets, min(20, len(targets))):
        links = wiring.find_links(target)
        links_there = [*wiring.list_links(target.block)]
        for link in rng.sample(links_there, min(4, len(links_there))):
            as_list = (typed := wiring.resolve(link, target.block)) is not None and not target.fits(typed)
            try:
                editor.preview(connect, target.path, link, "", as_list and link in links)
            except WorkflowError as error:
                refused += 1
                here = {problem.code for problem in error.problems if problem.path.startswith(target.path)}
                assert link not in links or not here & {"type-mismatch", "cycle", "unknown-link"}, (target.path, link)
            else:
                offered += 1
                assert link in links or target.type is None, (target.path, link)
    assert offered
    assert refused


def test_the_palette_searches_by_words_and_by_types(wiring: Wiring) -> None:
    found = search_nodes(wiring, "rescale", Place())
    assert found["nodes"][0]["id"] == "guidance.rescale"
    takes = search_nodes(wiring, "", find_place(wiring, "nodes.sample.body", "guided", ""))
    ids = [row["id"] for row in takes["nodes"]]
    assert {"guidance.rescale", "guidance.cfg", "scheduler.step"} <= {*ids}
    assert "text.encode" not in ids
    between = [row["id"] for row in search_nodes(wiring, "", find_place(wiring, "", "", GUIDED))["nodes"]]
    assert "guidance.rescale" in between
    assert "scheduler.step" not in between
    assert search_nodes(wiring, "no such words", Place()) == {"nodes": [], "more": 0}


def test_a_draft_guesses_what_is_wired_nearby(wiring: Wiring) -> None:
    draft = make_draft(wiring, "guidance.rescale", find_place(wiring, "", "", GUIDED))
    assert (draft["name"], draft["block"], draft["output"], draft["complete"]) == (
        "rescale",
        "nodes.sample.body",
        "out",
        True,
    )
    links = {port["name"]: port["link"] for port in draft["ports"]}
    assert links == {"guided": "guided", "cond": "cond", "phi": ""}
    predict = make_draft(wiring, "denoiser.predict", Place("nodes.sample.body"))
    assert {port["name"]: port["link"] for port in predict["ports"] if port["required"]} == {
        "denoiser": "model.denoiser",
        "x": "carry.x",
        "t": "loop.t",
    }


def test_a_node_may_be_put_into_the_wires_that_it_fits(wiring: Wiring) -> None:
    paths = {row["path"].removeprefix("nodes.sample.body.") for row in find_insertions(wiring, "guidance.rescale")}
    assert {"step.in.prediction", "guided.in.cond", "guided.in.uncond"} <= paths
    assert not [path for path in paths if "scheduler" in path]


def changed_lines(site: Site) -> list[str]:
    after = (site.folder / "draw.yaml").read_text()
    lines = difflib.unified_diff(DRAW.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_a_node_is_put_into_a_wire_by_one_edit(site: Site) -> None:
    query = {"name": "draw.yaml", "use": "toy.add", "path": "nodes.sum.carry.x"}
    draft = site.get("api/draft", **query).json()
    assert (draft["link"], draft["name"], draft["block"]) == ("start", "add", "nodes")
    body = {"label": "add", "use": "toy.add", "inputs": {"a": "start"}, "settings": {"b": "2.5"}}
    response = site.post("api/add", name="draw.yaml", path=draft["path"], old="start", output="out", **body)
    assert response.json() == {"undo": 1, "path": "nodes.add"}
    assert changed_lines(site) == [
        "+  add:     {use: toy.add, in: {a: start}, with: {b: 2.5}}",
        "-    carry: {x: start}",
        "+    carry: {x: add}",
    ]
    site.post("api/undo", name="draw.yaml")
    assert (site.folder / "draw.yaml").read_text() == DRAW


def test_a_wire_is_moved_and_one_that_is_needed_is_not_removed(site: Site) -> None:
    path = "nodes.sum.body.next.in.x"
    assert site.post("api/wires", name="draw.yaml", path=path, link="start").status_code == 200
    assert changed_lines(site)[1] == "+      next: {use: toy.sleep, in: {x: start, seconds: params.seconds}}"
    refused = site.post("api/wires", name="draw.yaml", path=path, link=None, old="start")
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["code"] == "missing-port"
    seconds = "nodes.sum.body.next.in.seconds"
    assert site.post("api/wires", name="draw.yaml", path=seconds, link=None, old="params.seconds").status_code == 200
    assert changed_lines(site)[1] == "+      next: {use: toy.sleep, in: {x: start}}"


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("links", {"path": "nodes.nothing.in.x"}),
        ("draft", {"use": "no.such"}),
        ("draft", {"use": "toy.add", "block": "nodes.nothing.body"}),
        ("insertions", {"use": "no.such"}),
    ],
)
def test_an_unknown_place_is_named(site: Site, route: str, query: dict[str, str]) -> None:
    response = site.get(f"api/{route}", name="draw.yaml", **query)
    assert response.status_code == 409
    assert "there is no" in response.json()["error"] or "nothing takes" in response.json()["error"]


def test_a_workflow_with_errors_is_not_wired(site: Site) -> None:
    response = site.get("api/targets", name="more/broken.yaml", link="start")
    assert response.status_code == 422
    assert response.json()["problems"][0]["code"] == "not-editable"


@pytest.mark.parametrize(
    ("before", "link", "old", "after"),
    [
        ("[params.a]", "params.b", "", "[params.a, params.b]"),
        ("[params.a, params.a]", "params.b", "params.a", "[params.b, params.a]"),
        ("[params.a, params.b]", "params.all", "", "params.all"),
        ("[params.a, params.b]", "params.all", "params.a", "params.all"),
        ("params.all", "params.b", "", "[params.b]"),
        ("params.all", "params.others", "params.all", "params.others"),
    ],
)
def test_a_list_is_wired_to_a_list_and_to_its_items(site: Site, before: str, link: str, old: str, after: str) -> None:
    path = "nodes.prompts.in.captions"
    text = f"""\
guidegraph: 1
params:
  a: red
  b: blue
  all: {{type: "Sequence[str]", default: [red]}}
  others: {{type: "Sequence[str]", default: [x]}}
nodes:
  prompts: {{use: text.prompts, in: {{captions: {before}}}}}
outputs: {{prompts: prompts}}
"""
    (site.folder / "list.yaml").write_text(text)
    assert link in site.get("api/links", name="list.yaml", path=path).json()["options"]
    response = site.post("api/wires", name="list.yaml", path=path, link=link, old=old)
    assert response.status_code == 200, response.json()
    assert (site.folder / "list.yaml").read_text() == text.replace(f"captions: {before}", f"captions: {after}")


@pytest.mark.parametrize(("text", "written"), [("[red]", '"[red]"'), ("[red] cat", '"[red] cat"'), ("6", '"6"')])
def test_the_setting_of_a_new_node_is_a_text_where_its_port_takes_text_alone(
    site: Site, text: str, written: str
) -> None:
    body = {"label": "new", "use": "toy.table", "settings": {"prompt": text, "sizes": "[1, 2]"}}
    response = site.post("api/add", name="draw.yaml", block="nodes", **body)
    assert response.status_code == 200, response.json()
    assert f"with: {{prompt: {written}, sizes: [1, 2]}}" in (site.folder / "draw.yaml").read_text()


def test_a_view_that_is_read_meanwhile_does_not_hide_the_wires(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph_page import strangers

    views, read_text = site.page.views, strangers.read_text
    before = views.read_wiring("draw.yaml")
    during: list[Wiring] = []

    def read_wiring_meanwhile(*arguments: Any) -> str:
        during.append(views.read_wiring("draw.yaml"))
        return read_text(*arguments)

    monkeypatch.setattr(strangers, "read_text", read_wiring_meanwhile)
    views.read("draw.yaml")
    assert during == [before]


@pytest.mark.parametrize("body", [{"path": 3}, {"path": "a", "link": 3}, {"path": "a"}])
def test_a_bad_wire_is_a_bad_request(site: Site, body: dict[str, Any]) -> None:
    assert site.post("api/wires", name="draw.yaml", **body).status_code == 400


def test_a_bad_new_node_is_a_bad_request(site: Site) -> None:
    assert site.post("api/add", name="draw.yaml", use="toy.add", inputs={"a": 3}).status_code == 400


def test_every_node_can_be_described_and_drafted_as_json(wiring: Wiring) -> None:
    for spec in wiring.registry.nodes.values():
        json.dumps(describe_node_for_page(spec, wiring.registry), allow_nan=False)
        json.dumps(make_draft(wiring, spec.id, Place()), allow_nan=False)
    draft = make_draft(wiring, "scheduler.edm", Place())
    assert {port["name"]: port.get("default") for port in draft["ports"]}["s_max"] == ".inf"
