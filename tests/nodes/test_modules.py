"""A node's id leads to its file: `schedule.linear` is in nodes/sampling/schedule.py."""

from __future__ import annotations

import importlib
import pkgutil

from guidegraph import nodes
from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.plugins import builtin

BY_SUBJECT = {
    "guidance.guidance": {"classifier"},
    "images.tiling": {"autoencoder"},
    "images.vq": {"autoencoder", "loss", "model"},
    "training.adversarial": {"loss", "model"},
    "training.spatial_input": {"denoiser"},
    "conditioning.semantic": {"segmenter"},
}
"""Modules of one subject, and the namespaces of their nodes that the module's path does not contain."""


def test_the_path_of_a_module_contains_the_namespace_of_its_nodes() -> None:
    others: dict[str, set[str]] = {}
    for function in builtin.guidegraph_nodes():
        namespace = getattr(function, SPEC_ATTRIBUTE).id.partition(".")[0]
        module = function.__module__.removeprefix("guidegraph.nodes.")
        words = [*module.split("."), *module.replace("_", ".").split(".")]
        if not any(word.startswith(namespace) for word in words):
            others.setdefault(module, set()).add(namespace)
    assert others == BY_SUBJECT


def test_every_node_in_the_package_is_registered() -> None:
    names = [module.name for module in pkgutil.walk_packages(nodes.__path__, f"{nodes.__name__}.")]
    members = [member for name in names for member in vars(importlib.import_module(name)).values()]
    assert {m for m in members if callable(m) and hasattr(m, SPEC_ATTRIBUTE)} == set(builtin.guidegraph_nodes())


def test_nodes_are_registered_in_the_order_of_their_modules() -> None:
    modules = [function.__module__ for function in builtin.guidegraph_nodes()]
    assert modules == sorted(modules)
