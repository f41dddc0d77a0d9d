"""A node's changes to the process are undone after its call, with one warning that names the node."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from guidegraph import NodeError
from guidegraph.graph.events import NodeFinished
from guidegraph.graph.execution.run import Attachments, run
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust import process_state

CHANGES: dict[str, Callable[[], object]] = {
    "the current directory": lambda: os.chdir("/"),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's recording of gradients": lambda: torch.set_grad_enabled(True),
    "torch's number of threads": lambda: torch.set_num_threads(3),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "environment variables": lambda: os.environ.update(GG_TEST_LEFT="1", HOME="/nowhere"),
    "torch's random generator": lambda: torch.manual_seed(11),
}


def read_state() -> list[Any]:
    return [
        os.getcwd(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        dict(os.environ),
        torch.get_rng_state().tolist(),
    ]


@node("meddler.change", pure=False)
def change(x: float, *, kind: str, fails: bool = False) -> float:
    """x; changes the process."""
    CHANGES[kind]()
    if fails:
        raise ValueError("after the change")
    return x


@node("meddler.draw", pure=False)
def draw(x: float) -> float:
    """A number from each generator."""
    return x + random.random() + float(np.random.rand()) + float(torch.rand(()))


seen: list[list[Any]] = []


@node("meddler.look", pure=False)
def look(x: float) -> float:
    """x, and the state that a node sees."""
    seen.append(read_state())
    return x


class Model(Protocol):
    """A function of one number."""

    def __call__(self, x: float) -> float: ...


@node("meddler.model")
def model() -> Model:
    """A model that changes the process when it is called."""

    def call(x: float) -> float:
        torch.set_default_dtype(torch.float64)
        return x

    return call


@node("meddler.ask")
def ask(model: Model, x: float = 1.0) -> float:
    """The model's result for x."""
    return model(x)


@node("meddler.ask_nobody")
def ask_nobody(x: float = 1.0) -> float:
    """x."""
    return x


REGISTRY = Registry({spec.id: spec for spec in map(get_spec, (change, draw, look, model))}, {"Model": Model})


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore the process, so that tests do not affect each other."""
    seen.clear()
    folder, variables, generator = os.getcwd(), dict(os.environ), random.getstate()
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    random.setstate(generator)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")


def run_nodes(folder: Path, nodes: str, output: str = "a", registry: Registry = REGISTRY) -> tuple[Any, list[str]]:
    """The output of a workflow, and the warnings of the run."""
    path = folder / "w.yaml"
    path.write_text(f"guidegraph: 1\nnodes:\n{nodes}\noutputs: {{out: {output}}}\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(build(path, registry), {})
    return result.outputs["out"], [str(warning.message) for warning in caught]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", CHANGES)
def test_each_change_is_undone_and_the_node_is_named(tmp_path: Path, kind: str, fails: bool) -> None:
    before = read_state()
    nodes = f'  a: {{use: meddler.change, with: {{x: 1, kind: "{kind}", fails: {str(fails).lower()}}}}}'
    if fails:
        with pytest.raises(NodeError, match="after the change"), pytest.warns(UserWarning, match=kind):
            run_nodes_uncaught(tmp_path, nodes)
    else:
        _, (message,) = run_nodes(tmp_path, f"{nodes}\n  b: {{use: meddler.look, in: {{x: a}}}}", "b")
        assert message.startswith(f"{tmp_path / 'w.yaml'}:3:3: nodes.a (meddler.change) ")
        assert kind in message
        assert seen == [[*before[:3], False, *before[4:]]]  # a run records no gradients
    assert read_state() == before


def run_nodes_uncaught(folder: Path, nodes: str) -> None:
    path = folder / "w.yaml"
    path.write_text(f"guidegraph: 1\nnodes:\n{nodes}\noutputs: {{out: a}}\n")
    run(build(path, REGISTRY), {})


@pytest.mark.parametrize("kind", CHANGES)
def test_the_second_of_two_nodes_is_named_for_its_change(tmp_path: Path, kind: str) -> None:
    """The state before it is the one that was read after the first."""
    before = read_state()
    nodes = "  a: {use: meddler.look, with: {x: 1}}\n"
    nodes += f'  b: {{use: meddler.change, in: {{x: a}}, with: {{kind: "{kind}"}}}}'
    _, (message,) = run_nodes(tmp_path, nodes, "b")
    assert f"nodes.b (meddler.change) {'seeds' if 'generator' in kind else 'changes'} {kind}" in message
    assert read_state() == before


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("way", ["observer", "output", "own node"])
def test_a_change_between_two_nodes_stays_and_is_nobodys(tmp_path: Path, kind: str, way: str) -> None:
    """Only changes by nodes are undone: not those of the caller's observers, of callbacks, or of built-in nodes."""
    changes = [CHANGES[kind]]
    torch.manual_seed(1)

    def change_once(*_: object) -> None:
        if changes:
            changes.pop()()

    def observe(event: object) -> None:
        if isinstance(event, NodeFinished) and event.path == "nodes.a":
            change_once()

    own = replace(get_spec(change), id="own.change", distribution="guidegraph==1")
    registry = Registry({**REGISTRY.nodes, own.id: own}, {"Model": Model})
    path = tmp_path / "w.yaml"
    use = f'own.change, in: {{x: a}}, with: {{kind: "{kind}"}}' if way == "own node" else "meddler.look, in: {x: a}"
    nodes = f"a: {{use: meddler.look, with: {{x: 1}}}}, b: {{use: {use}}}, c: {{use: meddler.look, in: {{x: b}}}}"
    path.write_text(f"guidegraph: 1\nnodes: {{{nodes}}}\noutputs: {{a: a, c: c}}\n")
    attachments = Attachments(
        observers=[observe] if way == "observer" else [], on_output=change_once if way == "output" else None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(build(path, registry), {}, attachments=attachments)
    assert seen[0] != seen[-1]


def test_a_kept_normal_number_is_put_back_with_torchs_generator(tmp_path: Path) -> None:
    """torch makes normal numbers in pairs, and keeps the second one beside the generator's state."""
    torch.manual_seed(7)
    expected = torch.randn(1), torch.randn(1), torch.rand(3)
    torch.manual_seed(7)
    first = torch.randn(1)
    run_nodes(tmp_path, '  a: {use: meddler.change, with: {x: 1, kind: "torch\'s random generator"}}')
    assert all(map(torch.equal, (first, torch.randn(1), torch.rand(3)), expected))


def test_a_node_in_a_loop_is_named_once(tmp_path: Path) -> None:
    loop = """  steps:
    loop: {over: params.n, as: i}
    body: {moved: {use: meddler.change, in: {x: loop.i}, with: {kind: the current directory}}}
    collect: {seen: moved}"""
    path = tmp_path / "w.yaml"
    path.write_text(f"guidegraph: 1\nparams: {{n: 5}}\nnodes:\n{loop}\noutputs: {{out: steps.seen}}\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(build(path, REGISTRY), {"n": 5})
    assert len(caught) == 1


def test_draws_are_not_undone(tmp_path: Path) -> None:
    """The next draw differs: only seeds are undone."""
    nodes = "\n".join(f"  {name}: {{use: meddler.draw, with: {{x: 0}}}}" for name in "ab")
    first, messages = run_nodes(tmp_path, nodes + "\n  c: {use: meddler.look, in: {x: a}}")
    second, _ = run_nodes(tmp_path, nodes)
    assert messages == []
    assert first != second


def test_draws_before_a_seed_are_not_undone_with_it(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)[1]
    torch.manual_seed(7)
    nodes = "  a: {use: meddler.draw, with: {x: 0}}\n"
    nodes += '  b: {use: meddler.change, in: {x: a}, with: {kind: "torch\'s random generator"}}'
    _, (message,) = run_nodes(tmp_path, nodes, "b")
    assert "nodes.b (meddler.change) seeds torch's random generator, which was put back" in message
    assert torch.equal(torch.rand(()), expected)


def test_a_model_called_by_a_built_in_node_is_watched_too(tmp_path: Path) -> None:
    own = {spec.id: replace(spec, distribution="guidegraph==1") for spec in map(get_spec, (ask, ask_nobody))}
    registry = Registry({**REGISTRY.nodes, **own}, {"Model": Model})
    nodes = "  model: {use: meddler.model}\n  a: {use: meddler.ask, in: {model: model}}"
    _, (message,) = run_nodes(tmp_path, nodes, "a", registry)
    assert "nodes.a (meddler.ask) changes torch's default dtype to torch.float64" in message
    assert torch.get_default_dtype() == torch.float32
    assert {spec.id: spec.watch for spec in registry.nodes.values()} == {
        "meddler.change": "everything",
        "meddler.draw": "everything",
        "meddler.look": "everything",
        "meddler.model": "everything",
        "meddler.ask": "torch",
        "meddler.ask_nobody": "nothing",
    }


def test_a_seed_of_a_cuda_device_is_put_back_and_the_device_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With generators of the CPU in the place of the devices'."""
    generators = tuple(torch.Generator().manual_seed(seed) for seed in (1, 2, 3))
    monkeypatch.setattr(process_state, "_list_generators", lambda: generators)
    states = tuple(generator.get_state() for generator in generators)
    saved = process_state.SavedState((*[None] * 6, 1, (2, 3)), {}, states)
    torch.rand(4, generator=generators[1])
    generators[2].manual_seed(9)
    changes = list(process_state._restore_seeded(saved, (*[None] * 6, 1, (2, 9))))
    assert changes == ["seeds torch's random generator of cuda:1, which was put back"]
    assert [torch.equal(*pair) for pair in zip(states, (g.get_state() for g in generators), strict=True)] == [
        True,
        False,
        True,
    ]


def test_overlapping_calls_restore_the_state_before_the_first(tmp_path: Path) -> None:
    """The second call begins while the first has changed the folder, and ends after the folder was restored."""
    folder = os.getcwd()
    changed, begun, ended = threading.Event(), threading.Event(), threading.Event()
    call: Any = build_call(tmp_path)

    def first() -> None:
        saved = process_state.save_state("everything")
        os.chdir("/")
        changed.set()
        begun.wait(10)
        process_state.restore_state(saved, call)
        ended.set()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=first)
        thread.start()
        changed.wait(10)
        saved = process_state.save_state("everything")
        begun.set()
        ended.wait(10)
        process_state.restore_state(saved, call)
        thread.join()
    assert os.getcwd() == folder


def test_a_variable_of_one_call_does_not_outlive_an_overlapping_one(tmp_path: Path) -> None:
    """The second call begins while the first has set it, and ends after it was removed."""
    before = dict(os.environ)
    call = build_call(tmp_path)
    first = process_state.save_state("everything")
    os.environ["GG_TEST_LEFT"] = "1"
    second = process_state.save_state("everything")
    with pytest.warns(UserWarning, match="GG_TEST_LEFT"):
        process_state.restore_state(first, call)
    process_state.restore_state(second, call)
    assert os.environ == before


def test_a_call_that_ends_while_the_next_one_is_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call has read the folder of the first, which is then put back before the second one begins."""
    folder, call = os.getcwd(), build_call(tmp_path)
    readers = process_state._get_readers()
    first = process_state.save_state("everything")
    os.chdir("/")

    def read_and_end_first() -> Any:
        values = readers.everything()
        with monkeypatch.context() as patch:
            patch.setattr(process_state, "_get_readers", lambda: readers)
            process_state.restore_state(first, call)
        return values

    monkeypatch.setattr(process_state, "_get_readers", lambda: readers._replace(everything=read_and_end_first))
    with pytest.warns(UserWarning, match="the current directory"):
        second = process_state.save_state("everything")
    monkeypatch.undo()
    process_state.restore_state(second, call)
    assert os.getcwd() == folder


def test_variables_in_a_replaced_dict_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, variables = build_call(tmp_path), process_state._read_variables()
    saved = process_state.save_state("everything")
    monkeypatch.setattr(os.environ, "_data", {**variables, os.fsencode("GG_TEST_LEFT"): b"1"})
    with pytest.warns(UserWarning, match="GG_TEST_LEFT"):
        process_state.restore_state(saved, call)
    assert "GG_TEST_LEFT" not in os.environ


def test_a_folder_that_is_no_more_is_named_as_such(tmp_path: Path) -> None:
    folder, call = os.getcwd(), build_call(tmp_path)
    saved = process_state.save_state("everything")
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    message = f"changes the current directory to one that was removed; it was put back to {folder}$"
    with pytest.warns(UserWarning, match=message):
        process_state.restore_state(saved, call)
    assert os.getcwd() == folder


BACKENDS: Any = torch.backends


@pytest.fixture
def _precision_by_device() -> Iterator[None]:
    """No precision is set for a device, neither before the test nor after it."""
    places = (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul)
    for place in places:
        place.fp32_precision = "none"
    yield
    for place in places:
        place.fp32_precision = "none"


@pytest.mark.usefixtures("_precision_by_device")
@pytest.mark.parametrize(
    ("place", "after"),
    [
        (BACKENDS, "tf32 on CUDA and tf32 on the CPU"),
        (BACKENDS.cuda.matmul, "tf32 on CUDA and .* on the CPU"),
    ],
)
def test_a_precision_that_is_set_for_a_device_is_put_back(tmp_path: Path, place: Any, after: str) -> None:
    """torch refuses to tell the precision in its older words then."""
    call = build_call(tmp_path)
    saved = process_state.save_state("everything")
    place.fp32_precision = "tf32"
    message = f"changes torch's precision of matrix products to {after}; it was put back to highest"
    with pytest.warns(UserWarning, match=message):
        process_state.restore_state(saved, call)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("_precision_by_device")
def test_a_precision_that_the_caller_has_set_for_a_device_stays(tmp_path: Path) -> None:
    call = build_call(tmp_path)
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    saved = process_state.save_state("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process_state.restore_state(saved, call)
    saved = process_state.save_state("torch")
    torch.set_float32_matmul_precision("highest")
    with pytest.warns(UserWarning, match="to highest; it was put back to tf32 on CUDA and .* on the CPU"):
        process_state.restore_state(saved, call)
    assert BACKENDS.cuda.matmul.fp32_precision == "tf32"


def build_call(folder: Path) -> Any:
    path = folder / "w.yaml"
    path.write_text("guidegraph: 1\nnodes: {a: {use: meddler.look, with: {x: 1}}}\noutputs: {out: a}\n")
    return build(path, REGISTRY).ops["a"]
