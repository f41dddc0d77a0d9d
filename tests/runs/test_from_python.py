"""``load_workflow`` and ``Workflow`` say what a workflow takes and gives, and what is wrong with an argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph import Registry, Tensor, Workflow, WorkflowError, load_workflow, node
from guidegraph.graph.node import get_spec
from tests.graph import engine_nodes


@node("toy.keep")
def keep(x: Tensor) -> Tensor:
    """x."""
    return x


REGISTRY = Registry({"toy.keep": get_spec(keep)})

PLAIN = """guidegraph: 1
params: {a: {default: 1.5, help: "a number"}, long: {default: "LONG", type: str}}
nodes: {scaled: {use: toy.scale, in: {a: params.a}, with: {by: 2.0}}}
outputs: {out: scaled}
""".replace("LONG", "long " * 40)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "w.yaml").write_text(PLAIN)
    return load_workflow(tmp_path / "w.yaml", registry=engine_nodes.REGISTRY)


def test_a_workflow_lists_its_parameters_and_outputs(workflow: Workflow) -> None:
    a = workflow.params["a"]
    assert (a.name, a.type, a.default, a.required, a.help) == ("a", "float", 1.5, False, "a number")
    assert workflow.outputs == {"out": "float"}
    lines = repr(workflow).splitlines()
    assert lines[0].endswith("w.yaml' on cpu in float32")
    assert lines[1] == "  a: float = 1.5  # a number"
    assert len(lines[2]) < 90
    assert lines[-1] == "  -> out: float"


@pytest.mark.parametrize("name", ["w.yaml", "./w.yaml", "sub/../w.yaml", "new.yaml"])
def test_a_source_takes_the_place_of_a_file_by_a_relative_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(PLAIN)
    changed = load_workflow(name, sources={name: PLAIN.replace("by: 2.0", "by: 20.0")}, registry=engine_nodes.REGISTRY)
    assert changed.run() == {"out": 30.0}
    with pytest.raises(ValueError, match=r"sources has '.*other.yaml', which 'w.yaml' does not use"):
        load_workflow("w.yaml", sources={"other.yaml": PLAIN}, registry=engine_nodes.REGISTRY)


def test_numpy_arrays_are_tensors_or_lists(tmp_path: Path) -> None:
    text = "guidegraph: 1\nparams: {x: {type: Tensor}, n: {default: [1], type: 'list[int]'}}\n"
    (tmp_path / "w.yaml").write_text(text + "nodes: {k: {use: toy.keep, in: {x: params.x}}}\noutputs: {x: k}\n")
    workflow = load_workflow(tmp_path / "w.yaml", registry=REGISTRY)
    array = np.arange(6.0)[::-2]
    values = workflow.bind({"x": array, "n": np.array([3, 4])})
    assert torch.equal(values["x"], torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64))
    assert values["n"] == [3, 4]
    array[0] = 9
    assert values["x"][0] == 5
    with pytest.raises(WorkflowError, match="'x': expected an array of numbers; found one of dtype <U1"):
        workflow.run(x=np.array(["a"]), n=np.array([1]))
    with pytest.raises(WorkflowError, match="'x': expected numbers; found nan"):
        workflow.run(x=np.array([np.nan]))


MISUSES: list[tuple[Callable[[Workflow], Any], str]] = [
    (lambda w: load_workflow(3), "path is a file of a workflow"),  # type: ignore[arg-type]
    (lambda w: load_workflow(PLAIN), "path names a file; found a text of several lines"),
    (lambda w: load_workflow(w.graph.file, registry={}), "registry is a Registry"),  # type: ignore[arg-type]
    (lambda w: load_workflow(w.graph.file, plugins="math"), "plugins is a list of names"),
    (lambda w: load_workflow(w.graph.file, plugins=[np]), "a plugin is the name of a module"),  # type: ignore[list-item]
    (lambda w: load_workflow(w.graph.file, plugins=["no_such"]), "plugins:1:1: plugin-failed: no_such"),
    (lambda w: load_workflow(w.graph.file, policy="stranger"), "policy is a Policy"),  # type: ignore[arg-type]
    (lambda w: Workflow(w.graph, device="gpu"), "there is no device 'gpu'; devices: cpu, cuda, cuda:i"),
    (lambda w: Workflow(w.graph, cache=False), "cache is a folder, 'off' for none, or None"),  # type: ignore[arg-type]
    (lambda w: Workflow(w.graph, limits={"nodes": 3}), "limits is a Limits"),  # type: ignore[arg-type]
    (lambda w: Workflow(w.graph, observers=print), "observers is a list of functions"),  # type: ignore[arg-type]
    (lambda w: Workflow("w.yaml"), "graph is a Graph"),  # type: ignore[arg-type]
    (lambda w: w.bind(["a"]), "params is a mapping of names to values"),  # type: ignore[arg-type]
    (lambda w: w.run_with({1: 2}), "the name of a parameter is a text"),  # type: ignore[dict-item]
    (lambda w: w.run_with({}, cancel=True), "cancel is a CancelToken"),  # type: ignore[arg-type]
    (lambda w: w.run_with({}, on_output=3), "on_output takes functions"),  # type: ignore[arg-type]
    (lambda w: w.run_with({}, only=3), "only is a list of names of outputs"),  # type: ignore[arg-type]
    (lambda w: w.run_many({"a": 1}), "requests is a list of mappings"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), MISUSES, ids=[message[:40] for _, message in MISUSES])
def test_a_wrong_argument_gets_a_plain_message(
    call: Callable[[Workflow], Any], message: str, workflow: Workflow
) -> None:
    with pytest.raises((TypeError, ValueError, WorkflowError)) as raised:
        call(workflow)
    assert str(raised.value).startswith(message)


def test_a_device_and_a_dtype_may_be_torch_s(workflow: Workflow) -> None:
    made = Workflow(workflow.graph, device=torch.device("cpu"), dtype=torch.float64)  # type: ignore[arg-type]
    assert (made.config.device, made.config.dtype) == ("cpu", "float64")


KEEP = """guidegraph: 1
params: {x: {type: Tensor}}
nodes: {k: {use: toy.keep, in: {x: params.x}}}
outputs: {x: k}
"""


@pytest.mark.parametrize("array", [np.array(3.0), np.arange(3, dtype=">f4"), np.arange(6).reshape(2, 3).T])
def test_an_array_keeps_its_shape_in_any_layout(array: Any, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(KEEP)
    x = load_workflow(tmp_path / "w.yaml", registry=REGISTRY).run(x=array)["x"]
    assert x.shape == array.shape
    assert x.tolist() == array.tolist()
