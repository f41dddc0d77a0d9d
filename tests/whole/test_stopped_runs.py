"""Runs of shipped workflows that are stopped amid sampling go on to the same picture, with every sampler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from guidegraph import StoppedRun, WorkflowError, load_workflow
from guidegraph.runs.stopped_run import strip_folders
from tests.commands.command import Command
from tests.paths import ROOT

STEPS = 6
DRAW = ROOT / "workflows" / "text_to_image.yaml"
SAMPLER = "scheduler.ddim, in: {schedule: model.schedule, steps: params.steps}"
SAMPLERS = [
    *("ddim", "ddpm", "deis", "dpm2", "dpm2_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_2s_ancestral"),
    *("dpmpp_3m_sde", "dpmpp_sde", "edm", "euler", "euler_ancestral", "euler_stochastic", "heun", "lcm", "lms", "pndm"),
    *("tcd", "unipc"),
]
WORKFLOWS = [
    *("class_cfg", "class_classifier_guidance_ddim", "class_classifier_guidance_ddpm", "image_to_image", "inpaint"),
    *("semantic_to_image", "text_and_classifier", "text_to_image_minilm", "text_to_image_vq"),
    *("text_or_image", "fast/deep_features", "fast/fewer_steps", "fast/guidance_interval"),
]


def use_sampler(name: str, folder: Path) -> Path:
    """The workflow that draws a prompt, with another sampler."""
    text = DRAW.read_text()
    assert SAMPLER in text
    path = folder / "draw.yaml"
    path.write_text(text.replace(SAMPLER, SAMPLER.replace("ddim", name)))
    return path


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_stopped_run_gives_the_same_picture_with_every_sampler(name: str, tmp_path: Path) -> None:
    workflow = load_workflow(use_sampler(name, tmp_path))
    expected = workflow.run(steps=STEPS)["image"]
    stopped = workflow.run(stop_at=STEPS // 2, steps=STEPS)
    stopped.save(tmp_path / "stopped.safetensors")
    assert torch.equal(workflow.run(resume=tmp_path / "stopped.safetensors")["image"], expected)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_stopped_run_of_a_shipped_workflow_gives_the_same_picture(name: str, tmp_path: Path) -> None:
    path = ROOT / "workflows" / f"{name}.yaml"
    steps = {key: STEPS for key in yaml.safe_load(path.read_text())["params"] if key == "steps"}
    workflow = load_workflow(path)
    expected = workflow.run(**steps)
    stopped = workflow.run(stop_at=2, **steps)
    stopped.save(tmp_path / "stopped.safetensors")
    outputs = workflow.run(resume=tmp_path / "stopped.safetensors")
    assert outputs.keys() == expected.keys()
    assert all(torch.equal(outputs[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["text_to_image_128", pytest.param("text_and_classifier_128", marks=pytest.mark.slow)])
def test_a_workflow_that_plans_a_layout_first_is_stopped_in_either_loop(name: str, tmp_path: Path) -> None:
    workflow = load_workflow(ROOT / "workflows" / f"{name}.yaml", cache="off")
    expected = workflow.run(steps=2)["image"]
    for loop in ("planned/layout", "sample"):
        workflow.run(stop_at=f"{loop}:1", steps=2).save(tmp_path / "stopped.safetensors")
        assert torch.equal(workflow.run(resume=tmp_path / "stopped.safetensors")["image"], expected)
    changed = workflow.run(resume=tmp_path / "stopped.safetensors", prompt="a black cat at night")["image"]
    assert not torch.equal(changed, expected)
    with pytest.raises(WorkflowError, match="its TextEmbedder is another model than before"):
        workflow.run(resume=tmp_path / "stopped.safetensors", planner="pkg:scenes_128")


def test_prompt_scale_and_guidance_may_change_amid_sampling(tmp_path: Path) -> None:
    workflow = load_workflow(DRAW)
    stopped = workflow.run(stop_at=2, steps=STEPS)
    same = workflow.run(resume=stopped)["image"]
    assert not torch.equal(workflow.run(resume=stopped, scale=1.0)["image"], same)
    assert not torch.equal(workflow.run(resume=stopped, prompt="a cactus on sand under a night sky")["image"], same)
    text = DRAW.read_text()
    rescaled = text.replace("prediction: guided", "prediction: rescale").replace(
        "      fresh:", "      rescale: {use: guidance.rescale, in: {guided: guided, cond: cond}}\n      fresh:"
    )
    (tmp_path / "rescaled.yaml").write_text(rescaled)
    assert not torch.equal(load_workflow(tmp_path / "rescaled.yaml").run(resume=stopped)["image"], same)


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"steps": STEPS + 1}, "nodes.scheduler", f"'steps' was {STEPS}, and is {STEPS + 1} now (params.steps)"),
        ({"batch": 2}, "nodes.noise", "'batch' was 1, and is 2 now (params.batch)"),
        ({"seed": 7}, "nodes.noise", "'seed' was 18, and is 7 now (params.seed)"),
        ({"model": "pkg:scenes_vq"}, "nodes.model", "'path' was 'scenes', and is 'scenes_vq' now (params.model)"),
    ],
)
def test_another_number_of_steps_batch_seed_or_model_is_refused(
    change: dict[str, object], path: str, words: str
) -> None:
    workflow = load_workflow(DRAW)
    stopped = workflow.run(stop_at=2, steps=STEPS)
    with pytest.raises(WorkflowError) as refused:
        workflow.run(resume=stopped, **change)
    assert [(problem.path, words in problem.message) for problem in refused.value.problems] == [(path, True)]


def test_another_sampler_or_a_model_under_another_name_is_refused(tmp_path: Path) -> None:
    stopped = load_workflow(DRAW).run(stop_at=2, steps=STEPS)
    with pytest.raises(WorkflowError, match=r"nodes.scheduler: it was scheduler.ddim, and is scheduler.euler now"):
        load_workflow(use_sampler("euler", tmp_path)).run(resume=stopped)
    text = DRAW.read_text().replace("denoiser: model.denoiser", "denoiser: other.denoiser")
    text = text.replace("  positive:", '  other:     {use: model.load, with: {path: "pkg:scenes_vq"}}\n  positive:', 1)
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(WorkflowError, match=r"nodes.other: its Denoiser is another model than before"):
        load_workflow(tmp_path / "other.yaml").run(resume=stopped)


def test_the_command_line_stops_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path, capfd)
    steps = ("--set", f"steps={STEPS}")
    assert command("run", DRAW, *steps, "--out", "whole").code == 0
    result = command("run", DRAW, *steps, "--stop-at", "3", "--out", "part")
    assert (result.code, "--resume part/stopped-sample-0003.safetensors" in result.out.replace(f"{tmp_path}/", "")) == (
        0,
        True,
    )
    record = json.loads(Path("part/run.json").read_text())
    assert (record["status"], record["stopped"]["done"], record["outputs"]) == ("stopped", 3, {})
    file = "part/stopped-sample-0003.safetensors"
    assert command("run", DRAW, "--resume", file, "--out", "same").code == 0
    assert Path("same/image.png").read_bytes() == Path("whole/image.png").read_bytes()
    events = command("run", DRAW, "--resume", file, "--stop-at", "4", "--json", "--out", "events").out.splitlines()
    last = json.loads(events[-1])
    assert (last["event"], Path(last["file"]).name, last["done"]) == (
        "run_stopped",
        "stopped-sample-0004.safetensors",
        4,
    )
    assert json.loads(events[-2])["status"] == "stopped"
    changed = command("run", DRAW, "--resume", file, "--set", "scale=1", "--out", "changed")
    assert (changed.code, Path("changed/image.png").read_bytes() != Path("whole/image.png").read_bytes()) == (0, True)
    record = json.loads(Path("changed/run.json").read_text())["resumed"]
    assert (record["file"], [part["until"] for part in record["segments"]]) == ("stopped-sample-0003.safetensors", [3])
    refused = command("run", DRAW, "--resume", file, "--set", "steps=9", "--out", "none")
    assert (refused.code, "cannot-resume: nodes.scheduler: 'steps' was 6, and is 9 now" in refused.err) == (2, True)
    assert not Path("none").exists()
    # The picture is repeated with the file that it went on from, and not without it.
    alone = command("run", "changed/image.png", "--out", "again")
    assert (alone.code, "missing-state" in alone.err) == (2, True)
    assert command("run", "changed/image.png", "--resume", file, "--out", "again").code == 0
    assert Path("again/image.png").read_bytes() == Path("changed/image.png").read_bytes()


def test_a_picture_that_went_on_with_a_change_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, workflow = Command(tmp_path, capfd), ROOT / "workflows" / "inpaint.yaml"
    Path("private").mkdir()
    masks = [Image.new("L", (64, 64), color) for color in (255, 0)]
    masks[0].save("private/mask.png")
    mask = ("--set", "mask=private/mask.png")
    assert command("run", workflow, "--set", "steps=2", *mask, "--stop-at", "1", "--out", "part").code == 0
    masks[1].save("private/mask.png")
    assert (
        command("run", workflow, *mask, "--resume", "part/stopped-sample-0001.safetensors", "--out", "done").code == 0
    )
    with Image.open("done/image.png") as picture:
        text = picture.info["guidegraph"]
    (segment,) = json.loads(text)["resumed"]["segments"]
    assert (segment["until"], segment["params"]["mask"], segment["params"]["model"]) == (
        1,
        "private/mask.png",
        "pkg:inpaint",
    )
    assert str(tmp_path) not in text


def test_a_stranger_segment_of_another_form_is_kept_as_it_is() -> None:
    graph = load_workflow(ROOT / "workflows" / "inpaint.yaml").graph
    segments: list[dict[str, Any]] = [{}, {"params": 3}, {"params": {"mask": 3, "seed": 1, "gone": "/home/me/x"}}]
    expected = [{"params": {}}, {"params": {}}, {"params": {"mask": "3", "seed": 1}}]
    assert strip_folders(segments, graph) == expected


def test_a_file_of_a_stranger_names_no_file_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The parameters in the file are data of whoever wrote it: a path among them is read only if the user says so."""
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path, capfd)
    text = (
        """
guidegraph: 1
params: {path: {default: mine.txt, type: Path}}
nodes:
  text: {use: toy.read, in: {path: params.path}}
  start: {use: toy.number}
  sum:
    loop: {over: count, as: i}
    carry: {x: start}
    body: {next: {use: toy.add, in: {a: carry.x}}}
    next: {x: next}
  count: {use: toy.number, with: {value: 3}}
outputs: {text: text, total: sum.x}
""".replace("over: count", "over: params.count")
        .replace("params: {", "params: {count: 3, ")
        .replace("  count: {use: toy.number, with: {value: 3}}\n", "")
    )
    workflow = command.workflow("sum.yaml", text)
    for name in ("mine.txt", "secret.txt"):
        (tmp_path / name).write_text(name)
    assert command("run", workflow, "--set", "path=secret.txt", "--stop-at", "1", "--out", "part").code == 0
    file = "part/stopped-sum-0001.safetensors"
    assert StoppedRun.load(file).params["path"] == str(tmp_path / "secret.txt")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    at_home = replace(StoppedRun.load(file), params={"count": 3, "path": "~/none.txt"})
    at_home.save("home.safetensors")
    refused = command("run", workflow, "--resume", "home.safetensors", "--out", "none", "--allow-read", ".")
    assert (refused.code, "forbidden-read: the file names '~/none.txt'" in refused.err) == (2, True)
    refused = command("run", workflow, "--resume", file, "--out", "none")
    assert (refused.code, f"the file names '{tmp_path}/secret.txt'; to allow it: --set path=" in refused.err) == (
        2,
        True,
    )
    for option in (("--set", "path=secret.txt"), ("--allow-read", "secret.txt"), ("--allow-read", ".")):
        assert command("run", workflow, "--resume", file, "--out", "done", *option).code == 0
