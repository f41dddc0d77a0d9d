"""A node's changes to the process are undone after its call, with one warning that names the node."""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from guidegraph import NodeError
from guidegraph.graph.events import NodeFinished
from guidegraph.graph.execution.run import Attachments, run
from guidegraph.graph.node import get_spec, node
from guidegraph.graph.registry import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust import process_state
from guidegraph.graph.trust.environment import make_version_reader, read_variables
from guidegraph.graph.trust.seed_detection import (
    Marks,
    TwisterState,
    _find_torch_offset,
    _is_philox_seeded,
    _pack_torch,
    find_numpy_state,
    find_python_generator,
    find_torch_state,
    import_numpy,
    is_seeded,
)

CHANGES: dict[str, Callable[[], object]] = {
    "the current directory": lambda: os.chdir("/"),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's recording of gradients": lambda: torch.set_grad_enabled(True),
    "torch's number of threads": lambda: torch.set_num_threads(3),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "environment variables": lambda: os.environ.update(GG_TEST_LEFT="1", HOME="/nowhere"),
    "torch's random generator": lambda: torch.manual_seed(11),
    "Python's random generator": lambda: random.seed(11),
    "NumPy's random generator": lambda: np.random.seed(11),
}


def read_state() -> list[Any]:
    numpy_state: Any = np.random.get_state()
    return [
        os.getcwd(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        dict(os.environ),
        torch.get_rng_state().tolist(),
        random.getstate(),
        [*numpy_state[1], numpy_state[2]],
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


@pytest.fixture
def _unknown_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is read from memory, as where its layout is unknown."""
    cached = (process_state._get_readers, make_version_reader, find_torch_state, find_python_generator)
    monkeypatch.setattr("guidegraph.graph.trust.environment._has_versions", lambda: False)
    monkeypatch.setattr("guidegraph.graph.trust.seed_detection._has_known_layout", lambda: False)
    monkeypatch.setattr("guidegraph.graph.trust.seed_detection._find_torch_offset", lambda: None)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("_unknown_memory")
@pytest.mark.parametrize("kind", CHANGES)
def test_each_change_is_undone_where_no_memory_can_be_read(tmp_path: Path, kind: str) -> None:
    before = read_state()
    _, (message,) = run_nodes(tmp_path, f'  a: {{use: meddler.change, with: {{x: 1, kind: "{kind}"}}}}')
    assert kind in message
    assert read_state() == before


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
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)

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


def test_torchs_generator_is_read_from_memory_as_it_is() -> None:
    draws: tuple[Callable[[], object], ...] = (
        lambda: torch.manual_seed(3),
        lambda: torch.randn(1),
        lambda: torch.randn(1),
        lambda: torch.randn(3, dtype=torch.float64),
        lambda: torch.rand(700),
    )
    assert _find_torch_offset() is not None
    for draw_numbers in draws:
        draw_numbers()
        assert _pack_torch(find_torch_state().state.raw) == torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("marks", [find_torch_state(), find_python_generator()[0], find_numpy_state(import_numpy()())])
def test_a_piece_of_a_generators_state_changes_with_it(marks: Marks) -> None:
    seen: list[tuple[list[Any], Any]] = []
    for draw_numbers in (
        lambda: (torch.manual_seed(3), random.seed(3), np.random.seed(3)),
        *[lambda: (torch.randn(1), random.random(), np.random.random())] * 3,
        *[lambda: torch.randn(3, dtype=torch.float64)] * 3,
        *[lambda: (torch.rand(311), random.getrandbits(32 * 311), np.random.bytes(4 * 311))] * 5,
        lambda: (torch.manual_seed(4), random.seed(4), np.random.seed(4)),
    ):
        draw_numbers()
        seen.append(([piece.raw for piece in marks.pieces], marks.state.raw))
    for (pieces, whole), (new_pieces, new_whole) in pairwise(seen):
        assert (pieces == new_pieces) == (whole == new_whole)
    assert len({str(pieces) for pieces, _ in seen}) >= 10


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


def test_setting_the_same_seed_again_is_detected(tmp_path: Path) -> None:
    torch.manual_seed(11)
    torch.rand(5000)
    before = torch.get_rng_state()
    _, (message,) = run_nodes(tmp_path, '  a: {use: meddler.change, with: {x: 1, kind: "torch\'s random generator"}}')
    assert "seeds torch's random generator" in message
    assert torch.equal(torch.get_rng_state(), before)


def test_many_draws_are_not_mistaken_for_a_seed() -> None:
    def twister() -> TwisterState:
        numbers = random.getstate()[1]
        return TwisterState(numbers[:624], numbers[624])

    random.seed(5)
    states = [twister()]
    for draws in (1, 623, 1, 5000, 100_000):
        random.getrandbits(32 * draws)
        states.append(twister())
    for before, after in pairwise(states):
        assert not is_seeded(before, after)
    assert is_seeded(states[1], states[0])  # a state before an earlier one
    random.seed(6)
    assert is_seeded(states[-1], twister())


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


def test_a_cuda_seed_differs_from_draws_by_its_offset() -> None:
    def state_of(seed: int, offset: int) -> torch.Tensor:
        return torch.frombuffer(bytearray(struct.pack("<QQ", seed, offset)), dtype=torch.uint8)

    before = state_of(7, 12)
    assert not _is_philox_seeded(before, state_of(7, 16))
    assert _is_philox_seeded(before, state_of(7, 4))
    assert _is_philox_seeded(before, state_of(8, 16))


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
    """The version of the dict before says nothing of them."""
    call, variables = build_call(tmp_path), read_variables()
    saved = process_state.save_state("everything")
    monkeypatch.setattr(os.environ, "_data", {**variables, os.fsencode("GG_TEST_LEFT"): b"1"})
    with pytest.warns(UserWarning, match="GG_TEST_LEFT"):
        process_state.restore_state(saved, call)
    assert "GG_TEST_LEFT" not in os.environ


def test_another_kind_of_generator_of_numpys_is_put_back(tmp_path: Path) -> None:
    before: Any = np.random.get_state()
    saved = process_state.save_state("everything")
    numpy_random: Any = np.random
    numpy_random.set_bit_generator(np.random.PCG64(3))
    with pytest.warns(UserWarning, match="seeds NumPy's random generator"):
        process_state.restore_state(saved, build_call(tmp_path))
    after: Any = np.random.get_state()
    assert (after[0], [*after[1]], after[2]) == (before[0], [*before[1]], before[2])


def test_numpys_generator_is_watched_before_anything_has_imported_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, before = build_call(tmp_path), read_state()
    monkeypatch.setattr(np, "random", np.random)  # puts the module back
    monkeypatch.delitem(sys.modules, "numpy.random")
    import_numpy.cache_clear()
    saved = process_state.save_state("everything")
    np.random.seed(11)
    with pytest.warns(UserWarning, match="seeds NumPy's random generator"):
        process_state.restore_state(saved, call)
    assert read_state() == before


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
