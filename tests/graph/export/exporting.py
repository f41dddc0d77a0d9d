"""Workflows exported to bundles in tests, and what both give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from guidegraph import load_workflow
from guidegraph.commands.exports.steps import bundle_kind
from guidegraph.graph.export.bundle import write_bundle
from guidegraph.graph.export.workflow import export_workflow
from guidegraph.nodes.models.store import build_part
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from tests.paths import ROOT

Arrays = Mapping[str, NDArray[Any]]
WORKFLOWS = ROOT / "workflows"
LEVEL = 2 / 255
"""One level of grey in pictures from −1 to 1."""


@dataclass(frozen=True)
class Made:
    """A workflow, the parameters at export and its bundle."""

    workflow: Path
    params: Mapping[str, Any]
    bundle: Bundle
    plugins: tuple[str, ...] = ()

    def run(self, nodes: Mapping[str, Any] | None = None, **params: Any) -> Arrays:
        """What the bundle gives."""
        open_params = {name: item for name, item in self.params.items() if name in self.bundle.manifest.inputs}
        return self.bundle.run_with({**open_params, **params}, nodes=nodes)

    def engine(self, folder: Path, changes: Sequence[tuple[str, str]] = (), **params: Any) -> Arrays:
        """What the engine gives for the workflow, with some of its text replaced."""
        workflow = load_workflow(changed(self.workflow, changes, folder), cache="off", plugins=self.plugins)
        return {name: value.numpy() for name, value in workflow.run(**{**self.params, **params}).items()}


def changed(workflow: Path, changes: Sequence[tuple[str, str]], folder: Path) -> Path:
    """A copy of a workflow with some of its text replaced."""
    text = workflow.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, f"the workflow says nowhere {old!r}"
        text = text.replace(old, new)
    path = folder / workflow.name
    path.write_text(text, encoding="utf-8")
    return path


def made(workflow: Path, folder: Path, plugins: tuple[str, ...] = (), **params: Any) -> Made:
    """A workflow exported with parameters."""
    loaded = load_workflow(workflow, plugins=plugins)
    exported = export_workflow(loaded.graph, loaded.bind(params))
    kinds = {name: bundle_kind(loaded.graph, name) for name in exported.outputs}
    write_bundle(exported, folder / "bundle", kinds=kinds, versions={"guidegraph": "0.1.0"})
    bundle = Bundle(folder / "bundle", SessionSettings.on("cpu", intra_threads=1))
    return Made(workflow, params, bundle, plugins)


def small_class_model(folder: Path) -> Path:
    """A model folder in the place of `pkg:fashion_class`, with a denoiser of a few thousand random weights."""
    source = WORKFLOWS / "models" / "fashion_class"
    folder.mkdir()
    for name in ("label", "schedule"):
        shutil.copy(source / f"{name}.safetensors", folder)
    index = json.loads((source / "model.json").read_text(encoding="utf-8"))
    del index["checksums"]  # those of the weights that are shipped
    part = index["parts"]["denoiser"]
    part["config"] |= {"channels": 8, "multipliers": [1], "attention": [], "heads": 1}
    (folder / "model.json").write_text(json.dumps(index), encoding="utf-8")
    torch.manual_seed(0)
    denoiser = build_part(folder, part)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    save_file(denoiser.state_dict(), folder / part["weights"])
    return folder


def difference(found: Arrays, expected: Arrays) -> float:
    """The largest difference of the outputs of two runs, which have the same shapes."""
    assert {name: item.shape for name, item in found.items()} == {name: item.shape for name, item in expected.items()}
    assert all(np.isfinite(item).all() for item in found.values())
    return max(float(np.abs(item - expected[name]).max()) for name, item in found.items())
