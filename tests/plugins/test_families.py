"""A plugin brings a family of checkpoints: it is recognised, drawn with and exported, and named where it fails."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from safetensors.torch import save_file

from guidegraph import Family, NodeError, WorkflowError, load_workflow
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.digest import spec_digest
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.family import Header
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.loading import FolderHeaders
from guidegraph.plugins.manager import PluginManager
from guidegraph_families import LAYOUTS as LISTED
from guidegraph_families.layouts import LAYOUTS
from guidegraph_runtime import Bundle
from guidegraph_runtime.machine.optional_packages import package_command
from tests.plugins import family_plugin

PLUGIN = str(Path(family_plugin.__file__))
DRAW = """\
guidegraph: 1
params:
  path: {type: Path, help: "the checkpoint"}
  seed: {default: 0, help: "of the noise"}
  batch: {default: 1, help: "how many pictures"}
nodes:
  model: {use: checkpoint.load, in: {path: params.path}}
  label: {use: condition.vector, with: {number: 1}}
  scheduler: {use: scheduler.ddim, in: {schedule: model.schedule}, with: {steps: 4, clip: true}}
  noise: {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [3, 8, 8]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      predicted: {use: denoiser.predict, in: {denoiser: model.denoiser, x: carry.x, t: loop.t, condition: label}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: predicted, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
  image: {use: image.from_sample, in: {sample: sample.x}}
outputs: {image: image}
"""
NUMBERS = itertools.count()
"""A module is imported once, so each has a name of its own."""
OTHER = """
from guidegraph import Family, hookimpl

def recognise(headers, config):
    RECOGNISE

def open_it(path, options):
    OPEN

@hookimpl
def guidegraph_families():
    return [Family("other", recognise, open_it)]
"""


def write_other(
    folder: Path, recognise: str = "return 'pebble.first.weight' in headers", opens: str = "return {}"
) -> str:
    path = folder / f"other_family_{next(NUMBERS)}.py"
    path.write_text(OTHER.replace("RECOGNISE", recognise).replace("OPEN", opens), encoding="utf-8")
    return str(path)


def command(program: str, *arguments: str, status: int = 0) -> str:
    run = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "draw.yaml"
    path.write_text(DRAW, encoding="utf-8")
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return family_plugin.write_pebble(tmp_path / "pebble.safetensors")


def draw(file: Path, checkpoint: Path, plugins: Sequence[str], **params: int) -> torch.Tensor:
    image: torch.Tensor = load_workflow(file, plugins=plugins).run(path=checkpoint, **params)["image"]
    return image


def test_a_file_is_drawn_with_and_its_bundle_draws_the_same(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "bundle", tmp_path / "out"
    command("guidegraph", "run", str(file), "--plugin", PLUGIN, "--set", f"path={checkpoint}", "--out", str(out))
    command("guidegraph", "export", str(file), "--plugin", PLUGIN, "--set", f"path={checkpoint}", "-o", str(folder))
    command("guidegraph-run", str(folder), "--out", str(tmp_path / "alone"))
    pictures = [np.asarray(Pictures.open(each / "image.png")).astype(int) for each in (out, tmp_path / "alone")]
    assert pictures[0].std() > 10
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    bundle = Bundle(folder)
    for params in ({"seed": 3}, {"seed": 7, "batch": 3}):
        expected = draw(file, checkpoint, [PLUGIN], **params).numpy()
        assert np.abs(bundle.run(**params)["image"] - expected).max() <= 2 / 255


def test_the_denoiser_is_frozen_and_in_the_dtype_of_the_run(file: Path, checkpoint: Path) -> None:
    text = DRAW.replace("outputs: {image: image}", "outputs: {denoiser: model.denoiser, schedule: model.schedule}")
    file.write_text(text, encoding="utf-8")
    parts = load_workflow(file, plugins=[PLUGIN], dtype="float64").run(path=checkpoint)
    weights = list(parts["denoiser"].parameters())
    assert {weight.dtype for weight in weights} == {torch.float64}
    assert not any(weight.requires_grad for weight in weights)
    assert parts["schedule"].trained_to == 99


def test_without_the_plugin_the_error_is_that_of_an_unknown_layout(file: Path, checkpoint: Path) -> None:
    with pytest.raises(NodeError, match=r"tensors of no known layout \(guided-diffusion, .*; found 4 tensors: pebble"):
        draw(file, checkpoint, [])


def test_a_part_that_the_family_lacks_is_named_when_it_is_used(file: Path, checkpoint: Path) -> None:
    file.write_text(
        DRAW.replace(
            "use: image.from_sample, in: {sample: sample.x}",
            "use: autoencoder.decode, in: {autoencoder: model.autoencoder, latent: sample.x}",
        )
    )
    with pytest.raises(NodeError, match="has no part 'autoencoder'; it has denoiser, schedule"):
        draw(file, checkpoint, [PLUGIN])


def test_a_setting_that_a_family_has_no_use_for_is_refused(file: Path, checkpoint: Path) -> None:
    file.write_text(DRAW.replace("in: {path: params.path}}", "in: {path: params.path}, with: {scale: 2.0, t5: false}}"))
    with pytest.raises(NodeError, match=r"'pebble' of .*failed to open .*has no use for scale, t5: leave these out"):
        draw(file, checkpoint, [PLUGIN])
    with pytest.raises(ValueError, match="'a' has no use for t5: leave it out"):
        LoadOptions(t5=False, ema=False).refuse_unused("a", ("ema",))


def test_two_families_that_recognise_one_file_are_both_named(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path)
    with pytest.raises(NodeError) as failure:
        draw(file, checkpoint, [PLUGIN, other])
    message = str(failure.value)
    assert f"is recognised by several families: 'pebble' of {PLUGIN}, 'other' of {other}; leave out the" in message
    assert "nodes.model (checkpoint.load)" in message


def test_a_family_that_recognises_one_of_ours_is_named_beside_it(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(1)}, path)
    other = write_other(tmp_path, "return config is None")
    with pytest.raises(NodeError, match=r"several families: 'Flux.1' of guidegraph, 'other' of "):
        draw(file, path, [other])


def test_a_recogniser_that_raises_is_named_and_others_still_open(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path, "return config['_class_name'] == 'Other'")
    reason = f"the family 'other' of {other} failed to recognise it: TypeError: 'NoneType' object is not subscriptable"
    with pytest.warns(UserWarning, match="failed to recognise it") as warned:
        draw(file, checkpoint, [PLUGIN, other])
    assert any(reason in str(warning.message) for warning in warned)
    text = command(
        "guidegraph", "run", str(file), "--plugin", other, "--set", f"path={checkpoint}",
        "--out", str(tmp_path / "out"), status=1,
    )  # fmt: skip
    assert f"is recognised by no family, and {reason}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("recognise", "opens", "reason"),
    [
        ("return 'yes'", "", "failed to recognise it: it returned 'yes', expected True or False"),
        ("return True", "raise KeyError('width')", "failed to open .*: KeyError: 'width'"),
        ("return True", "return None", r"failed to open .*: it returned None, expected a mapping such as \{'denoiser'"),
        ("return True", "return {}", "failed to open .*: it returned no parts"),
        (
            "return True",
            "return {'denoiser': 'a'}",
            "failed to open .*: its part 'denoiser' does not fit: expected Denoiser, found",
        ),
        (
            "return True",
            "return {'denoisr': print}",
            "failed to open .*: there is no part 'denoisr'; did you mean 'denoiser'",
        ),
        ("return True", "return {1: print}", "failed to open .*: there is no part 1; parts: denoiser, autoencoder"),
    ],
)
def test_a_family_that_fails_or_returns_nonsense_is_named(
    file: Path, checkpoint: Path, tmp_path: Path, recognise: str, opens: str, reason: str
) -> None:
    other = write_other(tmp_path, recognise, opens or "return {}")
    with pytest.raises(NodeError, match=f"the family 'other' of .*other_family_[0-9]+.py {reason}"):
        draw(file, checkpoint, [other])


def test_an_open_that_raises_is_no_traceback(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path, "return True", "raise RuntimeError('no such layer')")
    out = str(tmp_path / "out")
    arguments = ("run", str(file), "--plugin", other, "--set", f"path={checkpoint}", "--out", out)
    text = command("guidegraph", *arguments, status=1)
    assert f"the family 'other' of {other} failed to open '{checkpoint}': RuntimeError: no such layer" in text
    assert "Traceback" not in text


def test_a_folder_gives_its_configuration_and_the_headers_of_its_parts(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Stones", "transformer": ["stones", "Stone"]}))
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, folder / "transformer" / "model.safetensors")
    (folder / "transformer" / "damaged.safetensors").write_bytes(b"no header")
    save_file({"b": torch.zeros(())}, folder / "model.safetensors")
    headers = FolderHeaders(folder)
    assert headers == {"b": Header((), "float32"), "transformer/a": Header((2, 3), "bfloat16")}
    known = "return config['_class_name'] == 'Stones' and headers['transformer/a'].shape == (2, 3)"
    other = write_other(tmp_path, known, "raise ValueError(path.name)")
    with pytest.raises(NodeError, match=r"'other' of .*failed to open .*: ValueError: model"):
        draw(file, folder, [other])
    with pytest.raises(NodeError, match="is Stones that cannot be loaded: 'transformer' is a Stone"):
        draw(file, folder, [])


def find_digest(registry: Registry) -> str:
    return spec_digest(registry.nodes["checkpoint.load"], "cpu float32")


def test_the_digest_counts_the_code_of_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    plain = find_digest(PluginManager([]).registry)
    digests = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        registry = PluginManager([write_other(folder, f"return {number} == 3")]).registry
        digests.append(find_digest(registry))
        assert registry.nodes["checkpoint.load"].watch == "everything"
    assert len({plain, *digests}) == 3
    assert find_digest(PluginManager([], lazy=True).registry) == plain
    assert PluginManager([]).registry.nodes["checkpoint.load"].watch == "nothing"


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("['other']", "returned 'other', which is not a Family with a name and two functions"),
        ("[Family('a', None, print)]", "which is not a Family with a name and two functions"),
        ("[Family('', print, print)]", "which is not a Family with a name and two functions"),
        ("[Family('a', print, print), Family('a', print, print)]", "two families are called 'a'"),
    ],
)
def test_a_wrong_list_is_an_error_of_the_plugin(file: Path, tmp_path: Path, returned: str, reason: str) -> None:
    path = Path(write_other(tmp_path))
    text = path.read_text().replace('[Family("other", recognise, open_it)]', returned)
    path.write_text(text)
    with pytest.raises(WorkflowError, match=reason):
        load_workflow(file, plugins=[str(path)])


def test_our_own_packages_are_watched_as_built_in_nodes_are() -> None:
    """A stranger's family may change torch's settings while a checkpoint is loaded; ours are known not to."""
    own = PluginManager(lazy=True).registry.nodes
    assert own["checkpoint.load"].watch == own["model.load"].watch == "nothing"
    assert own["diffusers.denoiser"].watch != "everything"
    assert PluginManager([PLUGIN], entry_points=False).registry.nodes["checkpoint.load"].watch == "everything"


def test_without_the_package_of_released_families_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph.nodes.checkpoints.family.PACKAGE", "no_such_package")
    monkeypatch.setattr("guidegraph.nodes.checkpoints.loading.PACKAGE", "no_such_package")
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=f"guidegraph-families: {re.escape(package_command('families'))}"):
        load_checkpoint(path=file)


def test_our_own_families_come_in_by_the_same_door() -> None:
    offers = PluginManager(entry_points=False).list_families()
    assert [offer.family.name for offer in offers] == ["diffusers", *LISTED]
    assert sorted(LAYOUTS) == sorted(LISTED)
    assert all(isinstance(offer.family, Family) and offer.plugin == "guidegraph" for offer in offers)
