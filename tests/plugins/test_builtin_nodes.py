"""Built-in nodes are imported when they are looked up, and every id leads to its module."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from inspect import unwrap
from pathlib import Path

import pytest

from guidegraph.plugins.builtin import BuiltinNodes
from guidegraph.plugins.manager import PluginManager, default_registry


def test_every_built_in_node_is_found_by_its_id() -> None:
    registry = default_registry(entry_points=False)
    listed = [spec for spec in registry.nodes.values() if spec.distribution.startswith("guidegraph==")]
    specs = {spec.id: replace(spec, function=unwrap(spec.function)) for spec in listed}  # without the plugins it asks
    nodes = BuiltinNodes("somebody==1")
    found = {id: nodes.find(id) for id in specs}
    assert {id: spec and replace(spec, function=unwrap(spec.function)) for id, spec in found.items()} == specs
    assert {spec.distribution for id in specs if (spec := nodes.find(id))} == {"somebody==1"}


@pytest.mark.parametrize("id", ["guidance.cgf", "nowhere.cfg", "guidance", "", 'a"b.c'])
def test_an_id_of_no_node_finds_none(id: str) -> None:
    assert BuiltinNodes("somebody==1").find(id) is None
    assert id not in PluginManager(entry_points=False).registry.nodes


def test_nodes_are_listed_in_the_same_order_whichever_was_looked_up_first() -> None:
    manager = PluginManager(entry_points=False)
    registry = manager.registry
    spec = registry.nodes["tensor.cat"]
    assert [*registry.nodes] == [*default_registry(entry_points=False).nodes]
    assert registry.nodes["tensor.cat"] is spec
    assert [name for status in manager.statuses for name in status.nodes] == [*registry.nodes]


def test_types_are_there_before_any_node_was_looked_up() -> None:
    registry = PluginManager(entry_points=False).registry
    assert "Image" in registry.types
    assert [*registry.types] == [*default_registry(entry_points=False).types]


RUN_TRAININGS = ("run_training", "checkpoint", "compile_models", "process_group", "resume", "trained_model")


def import_modules(folder: Path, then: str) -> set[str]:
    """The modules that a process imports for a workflow of one node. then: code after loading it."""
    path = folder / "w.yaml"
    nodes = "nodes:\n  noise: {use: noise.gaussian, with: {shape: [4, 2, 2], batch: 1, seed: 0}}"
    path.write_text(f"guidegraph: 1\n{nodes}\noutputs: {{noise: noise}}\n")
    code = f"from guidegraph import load_workflow; load_workflow({str(path)!r}){then}; import sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_a_workflow_imports_the_modules_of_its_nodes_alone(tmp_path: Path) -> None:
    modules = import_modules(tmp_path, "")
    assert "guidegraph.nodes.sampling.noise" in modules
    assert not modules & {"guidegraph.nodes.guidance.guidance", "guidegraph_lab.metrics.metrics", "torch"}


def test_a_run_without_a_training_imports_no_modules_that_run_one(tmp_path: Path) -> None:
    modules = import_modules(tmp_path, ".run()")
    assert "torch" in modules
    assert not modules & {f"guidegraph.graph.training.{name}" for name in RUN_TRAININGS}
