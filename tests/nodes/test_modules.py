"""A node's id leads to its file: `schedule.linear` is in nodes/sampling/schedule.py."""

from __future__ import annotations

from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.plugins import builtin

BY_SUBJECT = {
    "images.tiling": {"autoencoder"},
    "images.vq": {"autoencoder", "loss", "model"},
    "training.adversarial": {"loss", "model"},
    "metrics.similarity": {"loss"},
    "metrics.frechet": {"moments"},
    "conditioning.semantic": {"segmenter"},
}
"""Modules of one subject, and the namespaces of their nodes that the module's path does not contain."""


def test_the_path_of_a_module_contains_the_namespace_of_its_nodes() -> None:
    others: dict[str, set[str]] = {}
    for function in builtin.guidegraph_nodes():
        namespace = getattr(function, SPEC_ATTRIBUTE).id.partition(".")[0]
        module = function.__module__.removeprefix("guidegraph.nodes.")
        if not any(word.startswith(namespace) for word in module.replace("_", ".").split(".")):
            others.setdefault(module, set()).add(namespace)
    assert others == BY_SUBJECT


def test_the_modules_are_listed_in_order() -> None:
    assert list(builtin.MODULES) == sorted(set(builtin.MODULES))
