"""A plugin declares a field of conditions: it is trained, dropped, guided with and exported, and never ignored."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from guidegraph import Condition, ConditionField, NodeError, WorkflowError, load_workflow
from guidegraph_runtime import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from guidegraph_testing import conformance_cases
from tests.plugins import pose_plugin

PLUGIN = str(Path(pose_plugin.__file__))
TRAIN = """\
guidegraph: 1
params:
  path: {type: Path, help: "the weights to write"}
nodes:
  start: {use: pose.network}
  data: {use: pose.batches}
  schedule: {use: schedule.cosine, with: {train_steps: 100}}
  label: {use: condition.vector, with: {number: [1, 2, 3]}}
  fit:
    loop: {over: data, as: batch}
    carry: {denoiser: start}
    body:
      noise: {use: noise.gaussian, in: {like: loop.batch.image, index: loop.index}}
      t: {use: timesteps.uniform, in: {like: loop.batch.image, schedule: schedule, index: loop.index}}
      noisy: {use: schedule.add_noise, in: {x0: loop.batch.image, noise: noise, t: t, schedule: schedule}}
      posed: {use: pose.add, in: {condition: label, pose: loop.batch.pose}}
      dropped: {use: condition.drop, in: {condition: posed, index: loop.index}, with: {p: 0.3}}
      predicted: {use: denoiser.predict, in: {denoiser: carry.denoiser, x: noisy, t: t, condition: dropped}}
      loss:
        use: loss.denoising
        in: {prediction: predicted, x0: loop.batch.image, noise: noise, t: t, schedule: schedule}
    train: [{model: denoiser, loss: loss, optimizer: adamw, lr: 0.05}]
    steps: 2
    collect: {loss: loss}
  saved: {use: pose.save, in: {denoiser: fit.denoiser, path: params.path}}
outputs: {saved: saved}
"""
DRAW = """\
guidegraph: 1
params:
  path: {type: Path, help: "the weights of the network"}
  at: {default: 0.25, help: "where the first joint is"}
  scale: {default: 3.0, help: "guidance scale"}
  seed: {default: 0, help: "of the noise"}
  batch: {default: 2, help: "how many pictures"}
nodes:
  network: {use: pose.network, in: {path: params.path}}
  schedule: {use: schedule.cosine, with: {train_steps: 100}}
  label: {use: condition.vector, with: {number: 2}}
  bump: {use: pose.bump, in: {at: params.at}}
  positive: {use: pose.add, in: {condition: label, pose: bump}}
  negative: {use: condition.null, in: {like: positive}}
  scheduler: {use: scheduler.ddim, in: {schedule: schedule}, with: {steps: 4, clip: true}}
  noise: {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [1, 8, 8]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      cond: {use: denoiser.predict, in: {denoiser: network, x: carry.x, t: loop.t, condition: positive}}
      uncond: {use: denoiser.predict, in: {denoiser: network, x: carry.x, t: loop.t, condition: negative}}
      guided: {use: guidance.cfg, in: {cond: cond, uncond: uncond, scale: params.scale}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
  image: {use: image.from_sample, in: {sample: sample.x}}
outputs: {image: image}
"""
PROBE = """\
guidegraph: 1
nodes:
  network: {use: pose.other_network, with: {silent: SILENT}}
  label: {use: condition.vector, with: {number: 1}}
  bump: {use: pose.bump}
  posed: {use: pose.add, in: {condition: label, pose: bump}}
  x: {use: noise.gaussian, with: {shape: [1, 8, 8], batch: 2}}
  t: {use: timesteps.constant, in: {like: x}, with: {t: 5}}
  predicted: {use: denoiser.predict, in: {denoiser: network, x: x, t: t, condition: posed}}
outputs: {predicted: predicted}
"""


INSIDE = """\
  inside:
    use: denoiser.guided
    in: {denoiser: network, positive: positive, negative: negative, scale: params.scale}"""
COMBINED = """\
guidegraph: 1
nodes:
  label: {use: condition.vector, with: {number: [1, 2, 3, 4, 5, 6, 7, 8]}}
  bump: {use: pose.bump}
  posed: {use: pose.add, in: {condition: label, pose: bump}}
  deep: {use: pose.deep}
  merged: {use: condition.merge, in: {conditions: [posed, deep]}}
  dropped: {use: condition.drop, in: {condition: merged}, with: {p: 0.5}}
  null: {use: condition.null, in: {like: merged}}
outputs: {merged: merged, dropped: dropped, null: null}
"""
Load = Callable[..., Any]
FIELDS = """
from guidegraph import ConditionField, hookimpl, node


@node("NAME.one")
def one() -> float:
    "One."
    return 1.0


@hookimpl
def guidegraph_nodes():
    return [one]


@hookimpl
def guidegraph_condition_fields():
    return RETURNED
"""


def command(program: str, *arguments: str) -> str:
    """Run a program of this environment; returns what it prints."""
    run = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def write(folder: Path, text: str, *changes: tuple[str, str]) -> Path:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "workflow.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a workflow of some text, after some changes, with the plugin."""
    return lambda text, *changes: load_workflow(write(tmp_path, text, *changes), plugins=[PLUGIN], cache="off")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network that was trained for two steps."""
    folder = tmp_path_factory.mktemp("pose")
    path = folder / "pose.safetensors"
    load_workflow(write(folder, TRAIN), plugins=[PLUGIN], cache="off").run(path=path)
    return path


@pytest.fixture
def posed(load: Load) -> Condition:
    """A condition of two samples, with a vector of 1 and a pose of 5."""
    load(PROBE, ("SILENT", "true"))
    return Condition(vector=torch.ones(2, 1)).with_fields(pose=torch.full((2, 2, 4, 4), 5.0))


def test_a_training_reads_it(weights: Path) -> None:
    before, after = pose_plugin.make_network(), pose_plugin.make_network(path=weights)
    assert isinstance(before, pose_plugin.Network)
    assert isinstance(after, pose_plugin.Network)
    joints = slice(1, 3)
    assert not torch.equal(before.first.weight[:, joints], after.first.weight[:, joints])


def test_drawing_depends_on_the_pose_and_on_its_guidance(load: Load, weights: Path) -> None:
    drawing = load(DRAW)
    image = drawing.run(path=weights)["image"]
    assert image.shape == (2, 3, 8, 8)
    for change in ({"at": 0.75}, {"scale": 1.0}):
        assert (drawing.run(path=weights, **change)["image"] - image).abs().max() > 0.01


def test_a_denoiser_with_guidance_inside_draws_the_same(load: Load, weights: Path) -> None:
    guided = load(
        DRAW,
        ("  noise:", f"{INSIDE}\n  noise:"),
        ("prediction: guided", "prediction: alone"),
        (
            "      step:",
            "      alone: {use: denoiser.predict, in: {denoiser: inside, x: carry.x, t: loop.t}}\n      step:",
        ),
    )
    expected = load(DRAW).run(path=weights)["image"]
    torch.testing.assert_close(guided.run(path=weights)["image"], expected, rtol=0, atol=1e-5)


def test_an_export_has_it_as_an_input_and_draws_as_the_engine_does(load: Load, weights: Path, tmp_path: Path) -> None:
    drawing, folder = load(DRAW), tmp_path / "bundle"
    file = str(tmp_path / "workflow.yaml")
    command("guidegraph", "export", file, "--plugin", PLUGIN, "--output", str(folder), "--set", f"path={weights}")
    bundle = Bundle(folder)
    inputs = {each.name: tuple(each.dims) for each in bundle.manifest.parts["sample.step"].inputs}
    assert inputs["positive.more.pose"] == ("batch", 2, "height", "width")
    cases: list[dict[str, Any]] = [{}, {"at": 0.9, "batch": 3, "seed": 7}]
    for params in cases:
        expected = drawing.run(path=weights, **params)["image"].numpy()
        assert np.abs(bundle.run(**params)["image"] - expected).max() <= 2 / 255
    command("guidegraph-run", str(folder), "--out", str(tmp_path / "out"), "--set", "at=0.5")
    assert len(list((tmp_path / "out").glob("image*.png"))) == 2


LORA = """\
  whole: {use: pose.network}
  start: {use: lora.new, in: {denoiser: whole}, with: {targets: all, rank: 2}}
"""
ADAPTED = """\
  adapted: {use: lora.apply, in: {denoiser: network}, with: {path: adapter.safetensors, strength: 5}}
  schedule:"""


def test_a_low_rank_change_is_trained_with_it_and_applied(load: Load, weights: Path, tmp_path: Path) -> None:
    load(TRAIN, ("  start: {use: pose.network}\n", LORA), ("pose.save", "lora.save")).run(
        path=tmp_path / "adapter.safetensors"
    )
    plain = load(DRAW).run(path=weights)["image"]
    adapted = load(DRAW, ("denoiser: network", "denoiser: adapted.denoiser"), ("  schedule:", ADAPTED))
    image = adapted.run(path=weights)["image"]
    assert (image - plain).abs().max() > 0.01
    file, folder = str(tmp_path / "workflow.yaml"), tmp_path / "bundle"
    command("guidegraph", "export", file, "--plugin", PLUGIN, "--output", str(folder), "--set", f"path={weights}")
    assert np.abs(Bundle(folder).run()["image"] - image.numpy()).max() <= 2 / 255


def test_a_server_draws_unlike_poses_at_once(load: Load, weights: Path, tmp_path: Path) -> None:
    drawing, folder = load(DRAW), tmp_path / "bundle"
    file = str(tmp_path / "workflow.yaml")
    command("guidegraph", "export", file, "--plugin", PLUGIN, "--output", str(folder), "--set", f"path={weights}")
    service = Service({"pose": folder}, SessionSettings.on("cpu", intra_threads=1), ServeOptions())
    service.start()
    client = TestClient(ServeRoutes(service, str).make_app(ServeAccess()), base_url="http://127.0.0.1:8000")
    requests: list[dict[str, Any]] = [{"at": 0.1, "seed": 1}, {"at": 0.9, "seed": 2, "scale": 1.5}, {"batch": 1}]
    try:
        keys = [client.post("/v1/workflows/pose", json={"params": p, "wait": False}).json()["id"] for p in requests]
        for key, params in zip(keys, requests, strict=True):
            while (job := client.get(f"/v1/jobs/{key}").json())["status"] in ("queued", "running"):
                time.sleep(0.05)
            expected = drawing.run(path=weights, **params)["image"].numpy()
            pictures = [base64.b64decode(each["b64_json"]) for each in job["outputs"]["image"]["data"]]
            drawn = np.stack([np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1) for data in pictures])
            assert np.abs(drawn / 255 - (expected.clip(-1, 1) + 1) / 2).max() <= 2 / 255
    finally:
        service.stop()


def test_conditions_with_it_are_kept_in_the_cache_on_disk(load: Load, weights: Path, tmp_path: Path) -> None:
    file = write(tmp_path, DRAW)
    images = [
        load_workflow(file, plugins=[PLUGIN], cache=tmp_path / "cache").run(path=weights)["image"] for _ in range(2)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("silent", "network", "reason"),
    [
        ("true", "SilentNetwork", "it has no attribute `reads`, so it reads at most vector, tokens, mask, spatial"),
        ("false", "VectorNetwork", "its `reads` are vector"),
    ],
)
def test_a_field_that_nothing_reads_is_an_error(load: Load, silent: str, network: str, reason: str) -> None:
    with pytest.raises(NodeError) as failure:
        load(PROBE, ("SILENT", silent)).run()
    message = str(failure.value)
    assert "workflow.yaml:9:74" in message
    assert "It comes from nodes.posed" in message
    assert "nodes.predicted (denoiser.predict)" in message
    assert f"the condition has a field that the network {network} does not read: 'pose'; {reason}" in message
    assert "Add 'pose' to the network's `reads` if it uses it, or leave it out" in message


def test_a_network_that_says_what_it_reads_is_given_nothing_else(load: Load) -> None:
    tokens = ("  posed: {use: pose.add, in: {condition: label, pose: bump}}", "  posed: {use: pose.tokens}")
    with pytest.raises(NodeError, match="VectorNetwork does not read: 'tokens'"):
        load(PROBE, ("SILENT", "false"), tokens).run()
    load(PROBE, ("SILENT", "true"), tokens).run()


def test_with_fields_adds_replaces_and_leaves_out(posed: Condition) -> None:
    assert list(posed.fields) == ["vector", "pose"]
    other = posed.with_fields(pose=torch.zeros(1, 2, 4, 4), spatial=torch.zeros(2, 1, 4, 4), vector=None)
    assert list(other.fields) == ["spatial", "pose"]
    assert other.spatial is other.fields["spatial"]
    assert list(posed.with_fields(pose=None).fields) == ["vector"]
    assert posed.with_fields(pose=None).more is None


def test_with_fields_refuses_an_unknown_name_and_other_axes(posed: Condition) -> None:
    with pytest.raises(ValueError, match=r"no field 'pase'; did you mean 'pose'\?.*guidegraph_condition_fields"):
        posed.with_fields(pase=torch.zeros(2, 2, 4, 4))
    with pytest.raises(ValueError, match=r"field 'pose'.*expected a tensor \(B, C, H, W\); found shape \(2, 4\)"):
        posed.with_fields(pose=torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r"field 'depth'.*expected a tensor \(B, 1, H, W\); found shape \(2, 3, 4, 4\)"
    ):
        posed.with_fields(depth=torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"field 'tokens'.*expected a tensor \(B, M, D\); found list \[1\]"):
        posed.with_fields(tokens=[1])  # type: ignore[arg-type]


def test_samples_are_dropped_to_the_null_of_each_field(load: Load) -> None:
    result = load(COMBINED).run()
    dropped, null = result["dropped"], result["null"]
    rows = (dropped.vector[:, 0] == 0).tolist()
    assert 0 < sum(rows) < 8
    for i, is_dropped in enumerate(rows):
        assert bool((dropped.fields["pose"][i] == 0).all()) == is_dropped
        assert bool((dropped.fields["depth"][i] == -1).all()) == is_dropped
    assert (null.fields["depth"] == -1).all()
    assert not null.fields["pose"].any()
    assert not null.vector.any()


def test_conditions_of_one_field_each_are_merged_and_broadcast(load: Load) -> None:
    merged = load(COMBINED).run()["merged"]
    assert {name: len(value) for name, value in merged.fields.items()} == {"vector": 8, "depth": 8, "pose": 8}


def test_merging_two_of_one_field_names_it_and_both_conditions(load: Load) -> None:
    twice = ("conditions: [posed, deep]", "conditions: [deep, posed, deep]")
    with pytest.raises(NodeError, match=r"nodes\.merged.*conditions\.0 and conditions\.2 both have the field 'depth'"):
        load(COMBINED, twice).run()


def test_a_condition_for_another_batch_is_an_error(load: Load) -> None:
    probe = load(
        PROBE,
        ("SILENT", "true"),
        ("pose.other_network, with: {silent: true}", "pose.network"),
        ("{use: pose.bump}", "{use: pose.bumps}"),
    )
    with pytest.raises(NodeError, match="the condition is for 3 samples and x has 2"):
        probe.run()


def plugin_with(folder: Path, name: str, returned: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(FIELDS.replace("NAME", name).replace("RETURNED", returned), encoding="utf-8")
    return str(path)


def load_plugins(folder: Path, *plugins: str) -> None:
    one = plugins[-1].removesuffix(".py").rpartition("/")[2]
    file = write(folder, f"guidegraph: 1\nnodes: {{one: {{use: {one}.one}}}}\noutputs: {{one: one}}\n")
    assert load_workflow(file, plugins=plugins).run()["one"] == 1


def test_two_plugins_that_declare_a_name_differently_are_both_named(tmp_path: Path) -> None:
    same = plugin_with(tmp_path, "same_pose", "[ConditionField('pose', ('B', 'C', 'H', 'W'))]")
    load_plugins(tmp_path, PLUGIN, same)
    other = plugin_with(tmp_path, "other_pose", "[ConditionField('pose', ('B', 'D'))]")
    with pytest.raises(WorkflowError) as failure:
        load_plugins(tmp_path, PLUGIN, other)
    message = str(failure.value)
    assert "the condition field 'pose' is declared by" in message
    assert "pose_plugin" in message
    assert other in message


def test_a_basic_field_cannot_be_declared_differently(tmp_path: Path) -> None:
    other = plugin_with(tmp_path, "other_tokens", "[ConditionField('tokens', ('B', 'C', 'H', 'W'))]")
    with pytest.raises(WorkflowError, match=r"the condition field 'tokens' is declared by guidegraph.*other_tokens"):
        load_plugins(tmp_path, other)


@pytest.mark.parametrize(
    ("name", "returned", "reason"),
    [
        ("text", "['pose']", "returned 'pose', which is not a ConditionField"),
        (
            "twice",
            "[ConditionField('a', ('B',)), ConditionField('a', ('B', 'D'))]",
            "two condition fields are called 'a'",
        ),
        ("two_words", "[ConditionField('a b', ('B',))]", "expected a name such as 'pose'"),
        ("keyword", "[ConditionField('class', ('B',))]", "expected a name such as 'pose'"),
        ("batch_last", "[ConditionField('a', ('C', 'B'))]", "expected axes that begin with 'B'"),
    ],
)
def test_a_wrong_declaration_is_an_error_of_the_plugin(tmp_path: Path, name: str, returned: str, reason: str) -> None:
    with pytest.raises(WorkflowError, match=reason):
        load_plugins(tmp_path, plugin_with(tmp_path, f"fields_{name}", returned))


def test_a_declaration_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match=r"ConditionField\('a'\): null is 'zeros', 'keep' or a number; found 'ones'"):
        ConditionField("a", ("B",), null="ones")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected axes such as \('B', 'C', 'H', 'W'\); found 'BCHW'"):
        ConditionField("a", "BCHW")  # type: ignore[arg-type]


CASES = [case for case in conformance_cases(pose_plugin) if str(case.id).startswith("pose.add")]


@pytest.mark.parametrize("check", CASES)
def test_a_node_that_adds_one_conforms(check: Callable[[], None]) -> None:
    check()


def test_the_listing_of_plugins_names_the_fields() -> None:
    assert "2 condition fields: pose, depth" in command("guidegraph", "plugins", "--plugin", PLUGIN)
