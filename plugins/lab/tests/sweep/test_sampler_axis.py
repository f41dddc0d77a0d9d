"""A sampler is an axis of a sweep although the workflow has no parameter for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guidegraph import Workflow, WorkflowError
from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import PluginManager
from guidegraph_lab.sweep.grid_options import add_sampler_parameter
from plugins.lab.tests.sweep.test_sweep import sweep, table
from tests.commands.command import Command
from tests.paths import ROOT

REGISTRY = PluginManager(entry_points=False).registry
FLAGSHIP = ROOT / "workflows" / "text_to_image_128.yaml"
HEAD = "guidegraph: 1\nnodes:\n  levels: {use: schedule.linear}\n"
DDIM = "{use: scheduler.ddim, in: {schedule: levels}, with: {steps: 3}}"


def test_the_flagship_gets_a_parameter_and_keeps_its_pictures(cli: Command, tmp_path: Path) -> None:
    copy = cli.workflow("copy.yaml", FLAGSHIP.read_text())
    before = copy.read_text()
    settings = ("--set", "steps=3")
    assert sweep(cli, copy, "--grid", "sampler=ddim,dpmpp_2m", *settings).code == 0
    assert copy.read_text() == before
    rows = table()
    assert [(row["sampler"], row["status"]) for row in rows] == [("ddim", "done"), ("dpmpp_2m", "done")]
    assert cli("run", copy, "--out", "plain", *settings).code == 0
    plain, ddim, other = (np.asarray(Image.open(p)) for p in ("plain/image.png", *(f"out/{r['image']}" for r in rows)))
    assert (plain == ddim).all()
    assert (plain != other).any()


def test_a_sampler_keeps_the_number_of_steps_that_its_node_has_by_default(tmp_path: Path) -> None:
    text = HEAD + "  s: {use: scheduler.ddim, in: {schedule: levels}}\noutputs: {steps: s.steps}\n"
    (tmp_path / "w.yaml").write_text(text)
    graph = build(tmp_path / "w.yaml", REGISTRY)
    with_axis = add_sampler_parameter(graph, REGISTRY)
    own, named = (Workflow(g, cache="off").run()["steps"] for g in (graph, with_axis))
    assert len(own) == len(named) == 50


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            "  s: " + DDIM.replace("steps: 3", "eta: 0.5") + "\noutputs: {s: s.steps}\n",
            "'eta' of scheduler.ddim is not",
        ),
        (f"  s: {DDIM}\n  t: {DDIM}\noutputs: {{s: s.steps, t: t.steps}}\n", "2 nodes of its file make one"),
        ("outputs: {s: levels}\n", "no node of its file makes one: give the workflow a parameter 'sampler'"),
    ],
)
def test_what_has_no_single_plain_sampler_is_refused(nodes: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(HEAD + nodes)
    with pytest.raises(WorkflowError) as raised:
        add_sampler_parameter(build(tmp_path / "w.yaml", REGISTRY), REGISTRY)
    assert message in str(raised.value)
