"""Models are values: those from nodes are frozen, and the caller's models are not changed."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from guidegraph import node
from guidegraph.graph.execution.run import run
from guidegraph.graph.frozen_models import copy_frozen, deepcopy_module
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build


@node("m.make")
def make() -> Any:
    """A model as its author left it: ready to train."""
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))


@node("m.through")
def through(model: Any) -> Any:
    """The model it is given."""
    return model


REGISTRY = Registry({get_spec(f).id: get_spec(f) for f in (make, through)})


def go(text: str, folder: Path, values: dict[str, Any]) -> Any:
    (folder / "w.yaml").write_text("guidegraph: 1\n" + text)
    return run(build(folder / "w.yaml", REGISTRY), values).outputs["m"]


def test_a_model_from_a_node_is_frozen(tmp_path: Path) -> None:
    model = go("nodes: {a: {use: m.make}}\noutputs: {m: a}", tmp_path, {})
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_callers_model_is_used_frozen_but_not_changed(tmp_path: Path) -> None:
    own = torch.nn.Linear(2, 2).train()
    text = "params: {model: {type: any}}\nnodes: {a: {use: m.through, in: {model: params.model}}}\noutputs: {m: a}"
    model = go(text, tmp_path, {"model": own})
    assert own.training
    assert all(p.requires_grad for p in own.parameters())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    model.weight.data.zero_()
    assert own.weight.count_nonzero() > 0


class Odd(nn.Module):
    """Attributes of all kinds: tied weights, a module in a list, a reference back, and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first
        self.register_buffer("kept", torch.ones(2), persistent=False)
        self.others = [nn.Linear(3, 3), {"self": self}]
        self.settings = {"sizes": [1, 2], "pair": (1, [2]), 3: "three"}
        self.shared_settings = self.settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x)) + self.others[0](x) * self.kept.sum()  # type: ignore[operator]
        return out


class CopiesItself(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> str:
        return "its own copy"


class ReadsChild(nn.Module):
    """Reads a module in it while it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.norm = float(self.linear.weight.detach().norm())


class Reader:
    """A plain object that reads a module while it is copied."""

    def __init__(self, module: nn.Linear) -> None:
        self.module, self.size = module, module.weight.numel()

    def __deepcopy__(self, memo: dict[int, Any]) -> Reader:
        return Reader(copy.deepcopy(self.module, memo))


class WithReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.reader = Reader(self.linear)


class WithoutModules(nn.Module):
    """Names no module, although it holds one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def modules(self, remove_duplicate: bool = True) -> Any:
        raise RuntimeError("nobody asks")


def with_method_of_its_own() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].__dict__["__deepcopy__"] = lambda memo: nn.Identity()
    return module


def with_attribute_of_a_dict() -> nn.Module:
    module = nn.Identity()
    settings: OrderedDict[str, int] = OrderedDict()
    settings.__dict__["version"] = 2
    module.__dict__["settings"] = settings
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


MODULES = {
    "odd": Odd,
    "hooked": hooked,
    "lstm": lambda: nn.LSTM(3, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)),
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2),
    "compiled in a module": lambda: nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager")),  # type: ignore[call-overload]
    "reads a child": lambda: nn.Sequential(ReadsChild()),
    "read by an object": WithReader,
    "without modules": WithoutModules,
    "method of its own": with_method_of_its_own,
    "attribute of a dict": with_attribute_of_a_dict,
}


def describe(value: Any, seen: dict[int, int]) -> Any:
    """A value as plain text, with the tensors' values and what is the same object as what.

    seen: the places of objects by `id`, so none may be made here that goes away, and whose `id` another would get.
    """
    if isinstance(value, (int, float, str, type(None))):
        return value
    if callable(value) and not isinstance(value, nn.Module):
        return getattr(value, "__qualname__", type(value).__name__)
    if id(value) in seen:
        return f"as {seen[id(value)]}"
    seen[id(value)] = len(seen)
    if isinstance(value, torch.Tensor):
        return type(value), value.tolist(), value.requires_grad
    if isinstance(value, dict):
        return type(value), [(key, describe(item, seen)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [describe(item, seen) for item in value]
    if not hasattr(value, "__dict__"):
        return type(value).__name__, repr(value)
    return type(value).__name__, [(name, describe(item, seen)) for name, item in sorted(vars(value).items())]


@pytest.mark.parametrize("kind", MODULES)
def test_a_copy_is_that_of_deepcopy(kind: str) -> None:
    module: nn.Module = MODULES[kind]()
    copied = deepcopy_module(module, {})
    assert describe(copied, {}) == describe(copy.deepcopy(module), {})
    assert not {id(tensor) for tensor in copied.parameters()} & {id(tensor) for tensor in module.parameters()}


def test_a_copy_of_a_module_with_a_copy_of_its_own() -> None:
    inner = CopiesItself()
    assert deepcopy_module(inner, {}) == "its own copy"
    holder = nn.Module()
    holder.__dict__["inner"] = inner
    assert deepcopy_module(holder, {}).inner == "its own copy"


def test_nothing_in_a_copy_is_shared_but_its_tensors() -> None:
    module = Odd()
    copied = copy_frozen(module)
    assert copied.others[1]["self"] is copied
    assert copied.again is copied.first
    assert copied.second.weight is copied.first.weight
    assert copied.first.weight.data_ptr() == module.first.weight.data_ptr()
    assert copied.kept is module.kept
    copied.settings["sizes"].append(3)
    copied.settings["pair"][1].append(3)
    copied.first.register_forward_hook(lambda module, inputs, output: output * 0)
    copied.extra = nn.Linear(1, 1)
    assert module.settings == {"sizes": [1, 2], "pair": (1, [2]), 3: "three"}
    assert not module.first._forward_hooks
    assert not hasattr(module, "extra")
    assert copied.settings is copied.shared_settings


def test_a_traced_graph_in_a_module_is_copied() -> None:
    module = nn.Sequential(torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.Linear(3, 3)))))
    x = torch.ones(1, 3)
    assert torch.equal(deepcopy_module(module, {})(x), module(x))


def test_an_attribute_of_an_empty_dict_is_copied() -> None:
    assert vars(deepcopy_module(with_attribute_of_a_dict(), {}).settings) == {"version": 2}


def test_copies_keep_no_class_alive() -> None:
    kind = weakref.ref(type("Temporary", (nn.Linear,), {}))
    deepcopy_module(kind()(1, 1), {})  # type: ignore[misc]
    gc.collect()
    assert kind() is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_frozen_script_has_no_flag_of_training() -> None:
    script = torch.jit.freeze(torch.jit.script(nn.Linear(2, 2).eval()))
    x = torch.ones(1, 2)
    assert torch.equal(copy_frozen(script)(x), script(x))


class Leads(nn.Module):
    """Puts a module that it does not own into its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.others = [nn.Dropout()]

    def train(self, mode: bool = True) -> Leads:
        self.others[0].train(mode)
        return super().train(mode)


def test_a_model_with_its_own_train_is_frozen_by_it() -> None:
    leads = Leads()
    model = nn.Sequential(leads).eval()
    leads.others[0].train()
    assert not copy_frozen(leads).others[0].training
    assert not copy_frozen(model)[0].others[0].training


def test_a_model_of_which_a_part_trains_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout())).eval()
    model[1][0].train()  # type: ignore[index]
    assert not any(module.training for module in copy_frozen(model).modules())
