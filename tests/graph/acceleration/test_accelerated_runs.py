"""Accelerated runs give the pictures of torch, use what an earlier run exported, and say what runs in torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Sample, node
from guidegraph.graph.acceleration.accelerator import forget_graphs
from tests.graph.acceleration import quick_nodes
from tests.graph.acceleration.conftest import LEVEL, Both

Prepare = Callable[..., Both]
BRANCH = (
    (
        "bent: {use: quick.bend, in: {x: guided",
        "choice: {use: quick.branch, in: {x: guided}}\n      bent: {use: quick.bend, in: {x: choice",
    ),
)
BEND = "bent: {use: quick.bend, in: {x: guided, shape: shape}}"
WEIGH = (
    (
        BEND,
        "weighted: {use: quick.weigh, in: {x: guided, weight: params.scale}}\n"
        "      bent: {use: quick.apply, in: {weighted: weighted}}",
    ),
)
WEIGH_LARGEST = (
    (
        BEND,
        "weighted: {use: quick.weigh_largest, in: {x: guided}}\n"
        "      bent: {use: quick.apply, in: {weighted: weighted}}",
    ),
)
ORDER = (
    ("  steps: ", "  order: {use: quick.order, with: {numbers: [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]}}\n  steps: "),
    ("over: steps, as: t", "over: order, as: i"),
    ("t: loop.t", "t: steps"),
    (BEND, "bent: {use: quick.shift, in: {x: guided, by: loop.i}}"),
)
NET = (
    ("a: {use: quick.predict, in: {model: model,", "a: {use: quick.predict, in: {model: params.net,"),
    ("b: {use: quick.predict, in: {model: model,", "b: {use: quick.predict, in: {model: params.net,"),
)
PULL = (
    (
        "moved: {use: quick.step, in: {x: carry.x, prediction: bent",
        "pulled: {use: quick.pull, in: {model: model, x: carry.x, t: loop.t, condition: first}}\n"
        "      sum: {use: quick.guide, in: {a: bent, b: pulled}}\n"
        "      moved: {use: quick.step, in: {x: carry.x, prediction: sum",
    ),
)


def assert_same(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Both are within a level of grey, and of the same type."""
    eager, fast = pictures
    assert fast.dtype == eager.dtype
    torch.testing.assert_close(fast, eager, atol=LEVEL, rtol=0)


def test_one_export_serves_other_batches_sizes_scales_and_numbers_of_steps(prepare: Prepare) -> None:
    both = prepare()
    assert_same(both.run())
    assert both.states() == ["exporting", "exported"]
    for changes in ({"batch": 3}, {"size": 16}, {"scale": 5.0}, {"count": 6}):
        assert_same(both.run(**changes))
    assert both.states() == []


def test_the_network_is_called_in_torch_for_one_comparison_in_a_process(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.graph.acceleration.quick_nodes import Network

    both = prepare()
    both.run()
    calls: list[int] = []
    forward = Network.forward

    def count(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(*args)

    monkeypatch.setattr(Network, "forward", count)
    both.run_again(count=9)
    assert len(calls) == 0, "the last run has compared the graph"
    forget_graphs()
    both.run_again(count=9)
    assert len(calls) == 1, "as in another process"


def test_a_run_that_compares_its_graph_equals_a_later_one(prepare: Prepare) -> None:
    both = prepare()
    both.run()
    forget_graphs()
    compared, later = both.run_again(), both.run_again()
    assert torch.equal(compared, later)


def test_a_plain_value_has_a_graph_of_its_own(prepare: Prepare) -> None:
    both = prepare()
    both.run()
    both.states()
    assert_same(both.run(square=True))
    assert both.states() == ["exporting", "exported"]
    assert_same(both.run(square=False))
    assert both.states() == []


def test_a_gradient_inside_is_part_of_the_graph(prepare: Prepare) -> None:
    both = prepare(*PULL)
    assert_same(both.run())
    paths = {path for event in both.events for path in event.paths}
    assert "nodes.sample.body.pulled" in paths


def test_a_node_that_cannot_be_traced_runs_in_torch_and_the_rest_does_not(prepare: Prepare) -> None:
    both = prepare(*BRANCH)
    with pytest.warns(UserWarning, match=r"body.choice: not accelerated, it runs in torch: .*value decides"):
        pictures = both.run(count=5)
    assert_same(pictures)
    refused = [event for event in both.events if event.state == "refused"]
    assert [event.paths for event in refused] == [("nodes.sample.body.choice",)]
    exported = [event.paths for event in both.events if event.state == "exported"]
    assert exported == [("nodes.sample.body.a", "nodes.sample.body.b", "nodes.sample.body.guided")]
    both.states()
    with pytest.warns(UserWarning, match="nodes.sample.body.choice"):
        assert_same(both.run(count=5))
    assert both.states() == ["refused"], "what failed once is not tried again"


def test_a_model_that_no_digest_identifies_runs_in_torch(prepare: Prepare) -> None:
    both = prepare(("use: quick.model", "use: quick.unknown_model"))
    with pytest.warns(UserWarning, match="nodes.model gives a model that nothing identifies"):
        pictures = both.run()
    assert torch.equal(*pictures)
    (row,) = both.plan()["loops"]
    assert row["parts"] == []
    assert {node["reason"].partition(" that")[0] for node in row["torch"]} == {"nodes.model gives a model"}


def test_a_model_from_python_runs_in_torch(prepare: Prepare, parts_folder: Path) -> None:
    both = prepare(("  model: {use: quick.model}\n", ""), ("params:\n", "params:\n  net: {type: any}\n"), *NET)
    kept = sorted(parts_folder.glob("*/*"))
    with pytest.warns(UserWarning, match=r"body.a: not accelerated, .* nothing identifies it .* an object from Python"):
        pictures = both.run(net=quick_nodes.model(seed=3))
    assert torch.equal(*pictures)
    assert set(both.states()) == {"refused"}
    assert sorted(parts_folder.glob("*/*")) == kept, "no other run could find a graph"


CELL = """
@node("quick.bend")
def bend(x: Sample, shape: Shape) -> Sample:
    '''As in a notebook, where it may be defined again.'''
    return FACTOR * x
"""


def test_a_node_whose_code_is_in_no_file_runs_in_torch(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    both = prepare()
    for factor in (1.0, 3.0):
        cell: dict[str, Any] = {"__name__": "cell", "node": node, "Sample": Sample, "Shape": quick_nodes.Shape}
        exec(CELL.replace("FACTOR", str(factor)), cell)
        monkeypatch.setattr(quick_nodes, "bend", cell["bend"])
        expected = both.run("")[0]
        with pytest.warns(UserWarning, match=r"body.bent: not accelerated, .* its code is in no file"):
            assert_same((expected, both.run_again()))


def test_the_model_is_freed_at_the_end_of_the_loop(prepare: Prepare) -> None:
    both = prepare(
        ("outputs: {x: sample.x}", "  count: {use: quick.count_networks, in: {x: sample.x}}\noutputs: {x: count}")
    )
    eager, fast = both.run()
    assert (int(eager), int(fast), int(both.run_again())) == (0, 0, 0)


def test_a_size_that_is_watched_in_a_graph_gives_the_warning_of_torch(prepare: Prepare) -> None:
    both = prepare((BEND, "bent: {use: quick.watch, in: {x: guided}}"))
    warned = []
    for run in (lambda: both.run(""), both.run_again, both.run_again):
        with pytest.warns(UserWarning, match=r"body.bent \(quick.watch\): from step 1 of 3 on x is 0\.") as record:
            run()
        warned.append({str(warning.message) for warning in record})
    assert warned[0] == warned[1] == warned[2]


def test_of_many_plain_values_the_first_ones_have_graphs(prepare: Prepare) -> None:
    both = prepare(*ORDER)
    with pytest.warns(UserWarning, match="more than 8 sets of plain values"):
        assert_same(both.run(count=1))
    assert both.states() == ["refused", "exporting", "exported"], "0 comes again after eight others"


def test_a_number_that_leaves_a_part_keeps_the_part_in_torch(prepare: Prepare) -> None:
    both = prepare(*WEIGH)
    for expected in (["exporting", "refused"], ["refused"]):  # another process does not try again
        with pytest.warns(UserWarning, match="a node outside of the part reads a number that is computed in it"):
            assert torch.equal(*both.run())
        assert both.states() == expected


def test_a_damaged_graph_is_exported_again(
    prepare: Prepare, parts_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = prepare()
    both.run()
    both.states()
    for file in parts_folder.glob("*/*/graph.onnx"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert_same(both.run())
    assert both.states() == ["exporting", "exported"]
    assert "is damaged" in caplog.text


def test_openvino_runs_the_parts_where_it_is_installed(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidegraph.graph.acceleration.onnx_backend import _sessions
    from guidegraph.graph.acceleration.store import FOLDER
    from guidegraph_runtime.sessions.providers import missing

    if reason := missing("openvino"):
        pytest.skip(f"OpenVINO: {reason}")
    monkeypatch.setenv(FOLDER, str(tmp_path / "parts"))
    both = prepare()
    all_changes: list[dict[str, Any]] = [{}, {"batch": 3}, {"size": 16}]
    for changes in all_changes:
        assert_same(both.run(**changes))
    assert both.states() == ["exporting", "exported"]
    (runner,) = _sessions.values()
    assert runner._session.get_providers()[0] == "OpenVINOExecutionProvider"


def test_a_wrong_graph_is_not_used(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph.graph.acceleration.onnx_backend import OnnxRunner

    both = prepare()
    both.run()
    run = OnnxRunner.__call__
    monkeypatch.setattr(OnnxRunner, "__call__", lambda self, tensors: [out + 0.01 for out in run(self, tensors)])
    with pytest.warns(UserWarning, match=r"results of its graph are .* from torch's"):
        assert torch.equal(*both.run())


def test_a_run_with_a_cache_keeps_the_parts_there(prepare: Prepare, parts_folder: Path, tmp_path: Path) -> None:
    from guidegraph.graph.acceleration.store import store_folder
    from guidegraph.graph.run_config import RunConfig

    assert store_folder(RunConfig(cache=tmp_path)) == tmp_path / "accelerated"
    assert store_folder(RunConfig()) == parts_folder


def test_nothing_is_kept_where_the_folder_is_off(
    prepare: Prepare, parts_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidegraph.graph.acceleration.store import FOLDER

    both = prepare()
    shutil.rmtree(parts_folder, ignore_errors=True)
    monkeypatch.setenv(FOLDER, "off")
    assert_same(both.run())
    assert not parts_folder.exists()
    assert both.states() == ["exporting", "exported"]
    both.run_again()
    assert both.states() == [], "the session of this process"


@pytest.mark.slow
def test_compiled_parts_give_the_same_picture(prepare: Prepare) -> None:
    from guidegraph.graph.acceleration.requirements import acceleration_problem
    from guidegraph.graph.run_config import RunConfig

    if reason := acceleration_problem(RunConfig(accelerate="compile")):
        pytest.skip(reason)
    both = prepare()
    assert_same(both.run("compile"))
    assert both.states() == ["exporting", "exported"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [WEIGH, WEIGH_LARGEST], ids=["of a parameter", "of a tensor"])
def test_a_number_that_leaves_a_compiled_part_is_not_that_of_another_step(
    prepare: Prepare, changes: tuple[tuple[str, str], ...]
) -> None:
    from guidegraph.graph.acceleration.requirements import acceleration_problem
    from guidegraph.graph.run_config import RunConfig

    if reason := acceleration_problem(RunConfig(accelerate="compile")):
        pytest.skip(reason)
    both = prepare(*changes)
    expected = both.run("", scale=5.0)[0]
    both.run_again("compile")
    assert_same((expected, both.run_again("compile", scale=5.0)))
