"""Results and parameters are owned by the caller: changing them does not affect the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from guidegraph import Condition, RunInfo, Tensor, hookimpl, node
from guidegraph.graph.errors import GuidegraphError, NodeError
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.loop_context import Previewed
from guidegraph.graph.execution.run import RunResult
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build
from guidegraph.graph.values.ownership import copy_value, is_mutable
from guidegraph.plugins.manager import PluginManager
from guidegraph.workflow import Workflow, load_workflow
from tests.graph.engine_nodes import NODES
from tests.graph.running import run_graph
from tests.paths import ROOT

CONSTANT = torch.ones(2, 3)


class Pair(NamedTuple):
    tensor: Tensor
    texts: list[str]


@dataclass
class Held:
    tensor: torch.Tensor
    array: Any
    texts: list[str] = field(default_factory=list)


class Opaque:
    """A class that the engine does not know."""

    def __init__(self) -> None:
        self.tensor = torch.ones(3)


@node("own.ones")
def ones() -> Tensor:
    """A new tensor."""
    return torch.ones(2, 3)


@node("own.constant")
def constant() -> Tensor:
    """The same tensor at each call."""
    return CONSTANT


@node("own.condition")
def condition() -> Condition:
    """A structured value."""
    return Condition(tokens=torch.ones(1, 2, 3))


@node("own.anything")
def anything(*, kind: str) -> Any:
    """A value of some kind."""
    makers: dict[str, Callable[[], Any]] = {
        "list": lambda: [torch.ones(2), "a"],
        "dict": lambda: {"a": {"b": torch.ones(2)}},
        "tuple": lambda: (torch.ones(2), ["a"]),
        "pair": lambda: Pair(torch.ones(2), ["a"]),
        "held": lambda: Held(torch.ones(2), np.ones(2), ["a"]),
        "array": lambda: np.ones(3),
        "bytes": lambda: bytearray(b"abc"),
        "model": lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)),
        "picture": lambda: Pillow.new("RGB", (2, 2), (9, 9, 9)),
        "opaque": Opaque,
    }
    return makers[kind]()


@node("own.through")
def through(value: Any) -> Any:
    """Its input."""
    return value


@node("own.address")
def address(model: Any) -> int:
    """The address of a model's first weight."""
    return int(next(model.parameters()).data_ptr())


@node("own.spoil")
def spoil(value: Any, *, how: str) -> float:
    """Changes its input, which no node may."""
    match how:
        case "in place":
            value.add_(1)
        case "data":
            value.data.add_(1)
        case "append":
            value.append("more")
        case "field":
            value.tokens.mul_(3)
    return 0.0


@node("own.setting")
def setting(*, names: list[str], sizes: dict[str, int]) -> str:
    """Changes its settings."""
    names.append("more")
    sizes["more"] = len(sizes)
    return f"{names} {sizes}"


@node("own.sum")
def total(values: Sequence[Any]) -> float:
    """The sum of the means."""
    return float(sum(float(torch.as_tensor(value).double().mean()) for value in values))


OWN = (ones, constant, condition, anything, through, address, spoil, setting, total)
REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in (*NODES, *OWN)})


def workflow(text: str, folder: Path, **options: Any) -> Workflow:
    (folder / "w.yaml").write_text("guidegraph: 1\n" + text)
    return Workflow(build(folder / "w.yaml", REGISTRY), **options)


def go(text: str, folder: Path, memory: MemoryCache, **values: Any) -> RunResult:
    (folder / "w.yaml").write_text("guidegraph: 1\n" + text)
    return run_graph(build(folder / "w.yaml", REGISTRY), values, memory=memory)


ONES = "nodes: {t: {use: own.ones}, m: {use: own.sum, in: {values: [t]}}}\noutputs: {t: t, m: m}"

WAYS: dict[str, Callable[[torch.Tensor], object]] = {
    "in place": lambda t: t.zero_(),
    "data": lambda t: t.data.zero_(),
    "numpy": lambda t: t.numpy().fill(0),
    "dlpack": lambda t: (
        np.from_dlpack(t).fill(0) if np.from_dlpack(t).flags.writeable else torch.from_dlpack(t).zero_()
    ),
    "view": lambda t: t[0].data.zero_(),
    "storage": lambda t: t.untyped_storage().fill_(0),
    "resize": lambda t: t.resize_(0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use", ["own.ones", "own.constant"])
def test_a_returned_tensor_is_owned_by_the_caller(way: str, use: str, tmp_path: Path) -> None:
    runs = workflow(ONES.replace("own.ones", use), tmp_path)
    WAYS[way](runs.run()["t"])
    assert torch.equal(runs.run()["t"], torch.ones(2, 3))
    assert torch.equal(CONSTANT, torch.ones(2, 3))


def spoil_value(value: Any) -> None:
    """Change everything in a value that can be changed, without torch noticing."""
    match value:
        case torch.Tensor():
            value.data.zero_()
        case torch.nn.Module():
            for tensor in (*value.parameters(), *value.buffers()):
                tensor.data.zero_()
        case np.ndarray():
            value.fill(0)
        case bytearray():
            value[0] = 0
        case Pillow.Image():
            value.putpixel((0, 0), (0, 0, 0))
        case dict():
            for child in value.values():
                spoil_value(child)
            value["more"] = 1
        case list():
            for child in value:
                spoil_value(child)
            value.append("more")
        case tuple():
            for child in value:
                spoil_value(child)
        case _:
            for child in vars(value).values() if hasattr(value, "__dict__") else ():
                spoil_value(child)


def describe(value: Any) -> str:
    """The whole content of a value, as text."""
    match value:
        case torch.Tensor():
            return f"tensor {value.tolist()}"
        case torch.nn.Module():
            return describe(dict(value.state_dict()))
        case np.ndarray() | Pillow.Image():
            return f"{type(value).__name__} {np.asarray(value).tolist()}"
        case dict():
            return str({key: describe(child) for key, child in value.items()})
        case list() | tuple():
            return f"{type(value).__name__} {[describe(child) for child in value]}"
    return describe(vars(value)) if hasattr(value, "__dict__") else repr(value)


KINDS = ("list", "dict", "tuple", "pair", "held", "array", "bytes", "model", "picture")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_in_a_returned_value_is_owned_by_the_caller(kind: str, tmp_path: Path) -> None:
    memory = MemoryCache()
    text = f"nodes: {{a: {{use: own.anything, with: {{kind: {kind}}}}}}}\noutputs: {{a: a, b: a}}"
    first = go(text, tmp_path, memory)
    before = describe(first.outputs["a"])
    spoil_value(first.outputs["a"])
    assert describe(first.outputs["a"]) != before
    assert describe(first.outputs["b"]) == before
    again = go(text, tmp_path, memory)
    assert again.origins == {"nodes.a": "memory"}
    assert describe(again.outputs["a"]) == before
    assert type(again.outputs["a"]) is type(first.outputs["a"])


def test_the_fields_of_a_condition_are_owned_by_the_caller(tmp_path: Path) -> None:
    runs = workflow("nodes: {c: {use: own.condition}}\noutputs: {c: c}", tmp_path)
    runs.run()["c"].tokens.numpy().fill(7)
    assert torch.equal(runs.run()["c"].tokens, torch.ones(1, 2, 3))


def test_a_changed_object_of_an_unknown_class_is_computed_again(tmp_path: Path) -> None:
    memory = MemoryCache()
    text = "nodes: {a: {use: own.anything, with: {kind: opaque}}}\noutputs: {a: a}"
    go(text, tmp_path, memory).outputs["a"].tensor.numpy().fill(0)
    assert torch.equal(go(text, tmp_path, memory).outputs["a"].tensor, torch.ones(3))


PARAM = """
params: {{value: {{type: any}}}}
nodes: {{a: {{use: own.through, in: {{value: params.value}}}}, n: {{use: toy.number, with: {{value: 1}}}}}}
outputs: {{a: {output}}}
"""


@pytest.mark.parametrize("output", ["a", "params.value"])
@pytest.mark.parametrize("kind", ["tensor", "array", "list", "dict", "pair"])
def test_a_parameter_is_copied_when_the_run_starts(kind: str, output: str, tmp_path: Path) -> None:
    value: Any = torch.ones(3) if kind == "tensor" else anything(kind=kind)
    memory, before = MemoryCache(), describe(value)
    text = PARAM.format(output=output)
    spoil_value(go(text, tmp_path, memory, value=value).outputs["a"])
    assert describe(value) == before
    kept = go(text, tmp_path, memory, value=value)
    mine = copy_value(value)
    spoil_value(mine)
    again = go(text, tmp_path, memory, value=copy_value(value))
    assert describe(kept.outputs["a"]) == describe(again.outputs["a"]) == before


def test_a_parameter_changed_during_the_run_keeps_its_value(tmp_path: Path) -> None:
    own_tensor = torch.ones(3)
    text = """
params: {value: {type: any}}
nodes:
  n: {use: toy.number, with: {value: 1}}
  a: {use: own.sum, in: {values: [params.value, n]}}
outputs: {n: n, a: a}
"""
    runs = workflow(text, tmp_path)
    result = runs.run_with({"value": own_tensor}, on_output=lambda *_: own_tensor.numpy().fill(9))
    assert result.outputs["a"] == 2.0


def test_changes_in_on_output_do_not_affect_the_run(tmp_path: Path) -> None:
    result = workflow(ONES, tmp_path, cache="off").run_with(
        {}, on_output=lambda name, value, kind: value.zero_() if name == "t" else None
    )
    assert result.outputs["m"] == 1.0


def test_model_weights_are_owned_by_the_caller_and_copies_are_frozen(tmp_path: Path) -> None:
    mine = torch.nn.Linear(2, 2).train()
    text = """
params: {model: {type: any}}
nodes: {a: {use: own.through, in: {value: params.model}}, p: {use: own.address, in: {model: a}}}
outputs: {a: a, p: p}
"""
    outputs = workflow(text, tmp_path).run(model=mine)
    assert outputs["p"] == mine.weight.data_ptr()  # weights are not copied for a run
    assert outputs["a"].weight.data_ptr() != mine.weight.data_ptr()
    assert not outputs["a"].training
    assert not outputs["a"].weight.requires_grad


def test_the_defaults_of_a_workflow_do_not_change(tmp_path: Path) -> None:
    text = "params: {a: [1, 2]}\nnodes: {a: {use: own.through, in: {value: params.a}}}\noutputs: {a: a, p: params.a}"
    runs = workflow(text, tmp_path)
    first = runs.run()
    first["a"].append(3)
    first["p"].append(3)
    runs.bind({})["a"].append(3)
    assert runs.run() == {"a": [1, 2], "p": [1, 2]}


def test_changes_to_settings_do_not_affect_the_next_call(tmp_path: Path) -> None:
    text = "nodes: {a: {use: own.setting, with: {names: [x], sizes: {y: 1}}}}\noutputs: {a: a}"
    runs = workflow(text, tmp_path, cache="off")
    assert runs.run() == runs.run() == {"a": "['x', 'more'] {'y': 1, 'more': 1}"}
    loop = """
params: {steps: 2}
nodes:
  s:
    loop: {over: params.steps, as: i}
    body: {a: {use: own.setting, with: {names: [x], sizes: {y: 1}}}}
    collect: {a: a}
outputs: {a: s.a}
"""
    alone = runs.run()["a"]
    assert [is_mutable(value) for value in ([], {}, (1, [2]), (1, (2, "a")), 1)] == [True, True, True, False, False]
    assert workflow(loop, tmp_path, passes=()).run()["a"] == [alone, alone]


@pytest.mark.parametrize(
    ("how", "use"),
    [("in place", "own.ones"), ("append", "own.anything, with: {kind: list}"), ("field", "own.condition")],
)
def test_a_node_that_changes_its_input_is_named(how: str, use: str, tmp_path: Path) -> None:
    text = f"""
nodes:
  t: {{use: {use}}}
  s: {{use: own.spoil, in: {{value: t}}, with: {{how: {how}}}}}
outputs: {{t: t, s: s}}
"""
    memory = MemoryCache()
    for _ in range(2):
        with pytest.raises(NodeError, match=r"nodes\.s.*port 'value'.*changed in place") as raised:
            go(text, tmp_path, memory)
        assert isinstance(raised.value.cause, GuidegraphError | ValueError)
    fine = f"nodes: {{t: {{use: {use}}}}}\noutputs: {{t: t}}"
    assert describe(go(fine, tmp_path, memory).outputs["t"]) == describe(go(fine, tmp_path, MemoryCache()).outputs["t"])


def test_a_node_in_a_loop_that_changes_a_value_from_outside_is_reported_with_its_link(tmp_path: Path) -> None:
    text = """
params: {steps: 2}
nodes:
  t: {use: own.ones}
  s:
    loop: {over: params.steps, as: i}
    carry: {x: t}
    body:
      a: {use: own.spoil, in: {value: carry.x}, with: {how: in place}}
      b: {use: own.through, in: {value: carry.x}}
    next: {x: b}
    collect: {a: a}
outputs: {t: t, s: s.a}
"""
    with pytest.raises(NodeError, match=r"nodes\.s \(loop\): .*port 't': .*in place by a node in the loop's body"):
        go(text, tmp_path, MemoryCache(), steps=2)


def test_a_cached_value_changed_without_torch_is_computed_again(tmp_path: Path) -> None:
    memory = MemoryCache()
    text = "nodes: {t: {use: own.ones}, s: {use: own.spoil, in: {value: t}, with: {how: data}}}\noutputs: {s: s}"
    go(text, tmp_path, memory)
    assert torch.equal(go(ONES, tmp_path, memory).outputs["t"], torch.ones(2, 3))


ENTRIES: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.arange(6.0).reshape(2, 3),
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "number": lambda: torch.tensor(2.0),
    "transposed": lambda: torch.ones(2, 3).T,
    "array": lambda: np.arange(4),
    "condition": lambda: Condition(tokens=torch.ones(1, 2, 3)),
    "nested": lambda: [{"a": (torch.ones(2), "b")}],
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_altered_entry_of_the_memory_cache_is_not_used(kind: str) -> None:
    memory, value = MemoryCache(), ENTRIES[kind]()
    memory.put("a", (value,))
    assert memory.get("a") is not None
    spoil_value(value)
    assert memory.get("a") is None
    assert memory.size == 0


def test_an_altered_large_entry_of_the_memory_cache_is_not_used() -> None:
    memory, value = MemoryCache(), torch.zeros(20 << 20)
    memory.put("a", (value,))
    assert memory.get("a") is not None
    value.numpy()[::1000] = 1
    assert memory.get("a") is None


def test_a_models_weight_changed_in_place_is_noticed_and_a_move_of_it_is_not() -> None:
    memory, model = MemoryCache(), torch.nn.Linear(2, 2).eval().requires_grad_(False)
    memory.put("a", (model,))
    model.weight.data = model.weight.data.clone()
    assert memory.get("a") is not None
    model.weight.add_(1)
    assert memory.get("a") is None


def test_a_tensor_of_inference_mode_is_cached(tmp_path: Path) -> None:
    memory = MemoryCache()
    with torch.inference_mode():
        value = torch.ones(3)
    memory.put("a", (value,))
    assert memory.get("a") is not None


def test_a_copy_keeps_classes_cycles_and_what_is_shared_inside() -> None:
    tensor = torch.ones(2, 3).T
    value: list[Any] = [tensor, tensor, {"a": Pair(tensor, ["b"])}, torch.Size([1]), frozenset({1}), {2}]
    value.append(value)
    copy = copy_value(value)
    assert copy[-1] is copy
    assert copy[0] is copy[1] is copy[2]["a"].tensor
    assert copy[0].data_ptr() != tensor.data_ptr()
    assert [type(element) for element in copy] == [type(element) for element in value]
    assert type(copy[2]["a"]) is Pair


def test_previews_are_owned_by_their_receiver(tmp_path: Path) -> None:
    (tmp_path / "look.yaml").write_text(
        "guidegraph: 1\nparams: {net: {type: Any}}\n"
        "nodes: {seen: {use: own.through, in: {value: params.net}}}\noutputs: {seen: seen}"
    )
    text = """
nodes:
  data: {use: toy.batches}
  line: {use: toy.line}
  fit:
    loop: {over: data, as: batch}
    carry: {net: line}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}}
    train: [{model: net, loss: loss, lr: 0.1, optimizer: sgd}]
    steps: 3
    preview: {every: 1, use: ./look.yaml, in: {net: carry.net}}
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""
    quiet = workflow(text, tmp_path, cache="off").run()["loss"]

    def spoils(made: Previewed) -> None:
        spoil_value(made.value)

    assert torch.equal(workflow(text, tmp_path, cache="off").run_with({}, on_preview=spoils).outputs["loss"], quiet)


class Spoiler:
    """A plugin whose observer changes the parameters it receives."""

    def __init__(self) -> None:
        self.runs = 0

    @hookimpl
    def guidegraph_observer(self, run: RunInfo) -> None:
        spoil_value(run.params)
        self.runs += 1


def test_changes_to_parameters_by_an_observer_do_not_affect_the_run(tmp_path: Path) -> None:
    manager, spoiler = PluginManager(entry_points=False), Spoiler()
    manager._hooks.register(spoiler, name="spoiler")
    names, tensor = ["a"], torch.ones(2)
    runs = workflow(PARAM.format(output="a"), tmp_path, manager=manager)
    assert runs.run(value=names)["a"] == names == ["a"]
    assert torch.equal(runs.run(value=tensor)["a"], torch.ones(2))
    assert spoiler.runs == 2


WORKFLOWS = ROOT / "workflows"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("text_to_image", {"steps": 2}),
        ("image_to_image", {"steps": 2}),
        ("class_cfg", {"steps": 2}),
        ("inpaint", {"steps": 2}),
        ("semantic_to_image", {"steps": 2}),
    ],
)
def test_changing_all_results_does_not_affect_a_shipped_workflow(name: str, params: dict[str, Any]) -> None:
    runs = load_workflow(WORKFLOWS / f"{name}.yaml")
    first = runs.run(**params)
    before = {key: describe(value) for key, value in first.items()}
    for _ in range(2):
        for value in runs.run(**params).values():
            spoil_value(value)
    assert {key: describe(value) for key, value in runs.run(**params).items()} == before
