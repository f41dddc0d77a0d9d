"""A plugin declares a field of conditions: it is trained, dropped, guided with and exported, and never ignored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph import Condition, Prediction, load_workflow, predict
from guidegraph.nodes.conditioning.condition import null_condition
from guidegraph.plugins.manager import PluginManager
from guidegraph_runtime import Bundle
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


def export_command(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "guidegraph", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The workflow that draws, and the weights of a network that was trained for two steps."""
    folder = tmp_path_factory.mktemp("pose")
    (folder / "train.yaml").write_text(TRAIN, encoding="utf-8")
    (folder / "draw.yaml").write_text(DRAW, encoding="utf-8")
    weights = folder / "pose.safetensors"
    load_workflow(folder / "train.yaml", plugins=[PLUGIN], cache="off").run(path=weights)
    return folder / "draw.yaml", weights


def test_a_network_is_trained_with_the_field_and_draws_by_it(drawing: tuple[Path, Path]) -> None:
    workflow, weights = drawing
    loaded = load_workflow(workflow, plugins=[PLUGIN], cache="off")
    image = loaded.run(path=weights)["image"]
    assert image.shape == (2, 3, 8, 8)
    assert not torch.equal(image, loaded.run(path=weights, at=0.75)["image"])
    assert not torch.equal(image, loaded.run(path=weights, scale=1.0)["image"])
    before, after = (pose_plugin.make_network(path=path).state_dict() for path in (None, weights))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_bundle_takes_the_field_as_an_input(drawing: tuple[Path, Path], tmp_path: Path) -> None:
    workflow, weights = drawing
    settings = ("--set", f"path={weights}")
    export_command("export", str(workflow), "--plugin", PLUGIN, *settings, "-o", str(tmp_path / "bundle"))
    engine = load_workflow(workflow, plugins=[PLUGIN], cache="off")
    bundle = Bundle(tmp_path / "bundle")
    assert {"scale", "seed", "batch"} <= set(bundle.manifest.inputs)
    requests: list[dict[str, Any]] = [{}, {"scale": 1.5, "seed": 3, "batch": 3}]
    for request in requests:
        image = engine.run(path=weights, **request)["image"].numpy()
        assert np.abs(bundle.run(**request)["image"] - image).max() <= 2 / 127.5


def make_condition(**fields: Any) -> Condition:
    return Condition(vector=torch.ones(1, 1)).with_fields(**fields)


@pytest.fixture(scope="module", autouse=True)
def declared() -> None:
    """Load the plugin, which declares its fields."""
    PluginManager([PLUGIN], entry_points=False)


POSE = torch.rand(1, 2, 8, 8)


def test_a_field_is_dropped_to_its_null_and_joined_along_the_batch() -> None:
    condition = make_condition(pose=POSE, depth=torch.rand(1, 1, 8, 8))
    null = null_condition(condition)
    assert list(null.fields) == ["vector", "depth", "pose"]
    assert not null.fields["pose"].any()
    assert (null.fields["depth"] == -1).all()
    assert condition.with_fields(pose=None).fields.keys() == {"vector", "depth"}


def predict_without_reads(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
    return Prediction(x, "v")


class Reader:
    """A network that reads less than it is given."""

    reads = ("vector",)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        return Prediction(x, "v")


@pytest.mark.parametrize("network", [predict_without_reads, Reader()])
def test_a_field_that_nobody_reads_is_an_error_at_the_first_call(network: Any) -> None:
    x, t = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    message = f"the network {type(network).__name__} does not read: 'pose'"
    with pytest.raises(ValueError, match=message):
        predict(network, x, t, make_condition(pose=POSE))
    assert predict(network, x, t, make_condition()).value is x


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pos": POSE}, "conditions have no field 'pos'.*pose"),
        ({"pose": POSE[0]}, r"'pose' of a condition: expected a tensor \(B, C, H, W\); found shape \(2, 8, 8\)"),
        ({"depth": POSE}, r"'depth' of a condition: expected a tensor \(B, 1, H, W\); found shape \(1, 2, 8, 8\)"),
        ({"pose": 3}, "expected a tensor"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_condition(**fields)


OTHER = """\
from guidegraph import ConditionField, hookimpl

@hookimpl
def guidegraph_condition_fields():
    return [ConditionField("pose", ("B", "N"))]
"""


def test_two_plugins_that_declare_one_name_differently_are_named(tmp_path: Path) -> None:
    (tmp_path / "second.py").write_text(OTHER, encoding="utf-8")
    manager = PluginManager([PLUGIN, str(tmp_path / "second.py")], entry_points=False)
    (failure,) = manager.failures
    assert "second.py" in failure.name
    assert "the condition field 'pose' is declared by" in failure.reason
    assert "pose_plugin.py, as (B, C, H, W) with null 'zeros', and by" in failure.reason
