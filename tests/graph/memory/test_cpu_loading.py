"""Which of the built-in nodes run on the host under a memory budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guidegraph import Denoiser, Scale, node
from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call
from guidegraph.graph.memory.residency import loads_on_cpu
from guidegraph.graph.node import NodeSpec, get_spec
from guidegraph.graph.sources import Literal, Output
from guidegraph.plugins.manager import PluginManager

MAKE_OR_SAVE_MODELS = {
    "checkpoint.load": "",
    "model.load": "",
    "model.unet": "",
    "model.save": "denoiser autoencoder text schedule",
    "lora.apply": "denoiser text",
    "text.embedding": "embedder",
    "autoencoder.tiled": "autoencoder",
    "diffusers.denoiser": "schedule",
    "diffusers.autoencoder": "",
    "diffusers.text": "",
}
COMPUTE = {
    "text.encode": "embedder prompt",
    "denoiser.predict": "denoiser x t condition",
    "denoiser.guided": "denoiser positive negative",
    "autoencoder.decode": "autoencoder latent",
    "autoencoder.measure_scale": "autoencoder batches",
    "data.latents": "batches autoencoder",
    "scheduler.ddim": "schedule",
    "guidance.cfg": "cond uncond",
    "tensor.load": "",
}


@node("h.scaled")
def scaled(denoiser: Denoiser, *, scale: Scale = 1.0) -> Denoiser:
    """A denoiser."""
    return denoiser


@pytest.fixture(scope="module")
def nodes() -> dict[str, NodeSpec]:
    return dict(PluginManager(["guidegraph_diffusers"]).registry.nodes)


def call(spec: NodeSpec, linked: str, **settings: object) -> Call:
    inputs = {name: Output("elsewhere", name) for name in linked.split()}
    assert set(inputs) <= set(spec.inputs), spec.id
    return Call("n", spec, inputs, {k: Literal(v) for k, v in settings.items()}, Mark("w.yaml", 1, 1))


@pytest.mark.parametrize("id", MAKE_OR_SAVE_MODELS)
def test_nodes_that_make_or_save_models_run_on_the_host(nodes: dict[str, NodeSpec], id: str) -> None:
    assert loads_on_cpu(call(nodes[id], MAKE_OR_SAVE_MODELS[id], path=Path("x")))


@pytest.mark.parametrize("id", COMPUTE)
def test_nodes_that_compute_run_on_the_device(nodes: dict[str, NodeSpec], id: str) -> None:
    assert not loads_on_cpu(call(nodes[id], COMPUTE[id]))


def test_a_setting_counts_where_it_is_a_tensor_or_may_become_one() -> None:
    spec = get_spec(scaled)
    assert loads_on_cpu(call(spec, "denoiser", scale=2.0))
    assert not loads_on_cpu(call(spec, "denoiser", scale=torch.ones(1)))
    wired = Call("n", spec, {}, {"scale": Output("elsewhere", "out")}, Mark("w.yaml", 1, 1))
    assert not loads_on_cpu(wired)
