"""Runs of a bundle that are held open and step together: each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from weakref import ref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.limits import Limits, enforce_limits
from guidegraph_runtime.open_runs.joined_calls import JoinCache, describe_joins
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.compute import Computation, refuse_part
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.sessions import Session
from tests.fake_clock import replace_clock
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle

CPU = SessionSettings.on("cpu", intra_threads=1)
REQUESTS: Sequence[Mapping[str, Any]] = (
    {"level": 1.0, "scale": 0.5, "seed": 3, "steps": 5, "batch": 1},
    {"level": 2.5, "scale": 0.9, "seed": 4, "steps": 2, "batch": 3},
    {"level": 0.0, "scale": 0.1, "seed": 11, "steps": 9, "batch": 2},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(write_loop_bundle(tmp_path_factory.mktemp("joined") / "b", collect=True, joins=JOINS), CPU)


def count_steps(bundle: Bundle) -> int:
    return bundle.timings.calls.get("step", 0)


def step_to_the_end(bundle: Bundle, runs: Sequence[OpenRun]) -> None:
    while not all(run.done for run in runs):
        bundle.step(runs)


def check_as_alone(bundle: Bundle, requests: Sequence[Mapping[str, Any]], runs: Sequence[OpenRun]) -> None:
    for request, run in zip(requests, runs, strict=True):
        outputs, alone = run.finish(), bundle.run(**request)
        assert outputs.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-6, err_msg=name)


def test_unlike_runs_share_each_call_of_the_step(bundle: Bundle) -> None:
    runs = [bundle.start(**request) for request in REQUESTS]
    before = count_steps(bundle)
    step_to_the_end(bundle, runs)
    assert count_steps(bundle) - before == max(request["steps"] for request in REQUESTS)
    assert [run.unshared for run in runs] == ["", "", ""]
    check_as_alone(bundle, REQUESTS, runs)


def test_runs_join_and_leave_between_steps(bundle: Bundle) -> None:
    first = bundle.start(**REQUESTS[2])
    for _ in range(4):
        bundle.step([first])
    second = bundle.start(**REQUESTS[1])
    bundle.step([second, first])
    third = bundle.start(**REQUESTS[0])
    step_to_the_end(bundle, [first, second, third])
    check_as_alone(bundle, [REQUESTS[2], REQUESTS[1], REQUESTS[0]], [first, second, third])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_of_steps_gives_the_same(bundle: Bundle, data: st.DataObject) -> None:
    requests = [
        {**request, "steps": data.draw(st.integers(1, 6)), "batch": data.draw(st.integers(1, 3))}
        for request in REQUESTS
    ]
    runs = [bundle.start(**request) for request in requests]
    while active := [run for run in runs if not run.done]:
        bundle.step(data.draw(st.lists(st.sampled_from(active), min_size=1, unique_by=id)))
    check_as_alone(bundle, requests, runs)


def test_another_sampler_is_a_change_of_the_table(bundle: Bundle) -> None:
    nodes: Sequence[dict[str, Any]] = [{}, {"scheduler.use": "scheduler.heun"}, {"scheduler.use": "scheduler.ddpm"}]
    runs = [bundle.start_with(request, nodes=change) for request, change in zip(REQUESTS, nodes, strict=True)]
    step_to_the_end(bundle, runs)
    for request, change, run in zip(REQUESTS, nodes, runs, strict=True):
        alone = bundle.run_with(request, nodes=change)
        np.testing.assert_allclose(run.finish()["image"], alone["image"], atol=1e-6)
        assert run.count == run.total == len(alone["path"])


def test_a_run_tells_how_far_it_is_and_what_it_carries(bundle: Bundle) -> None:
    run = bundle.start(**REQUESTS[0])
    assert (run.done, run.count, run.total) == (False, 0, 5)
    noise = run.read_carries()["x"]
    assert noise.shape == (1, 2, 3, 5)
    bundle.step([run])
    assert run.count == 1
    assert not np.array_equal(run.read_carries()["x"], noise)
    with pytest.raises(BundleError, match=r"the run has done 1 of 5 steps: call bundle.step until run.done"):
        run.finish()
    step_to_the_end(bundle, [run])
    bundle.step([run])  # a run that is done stays as it is
    assert run.count == 5
    assert run.read_carries() == {}
    first = run.finish()
    first["image"].fill(9)
    assert not np.array_equal(run.finish()["image"], first["image"])


def test_a_bundle_of_an_earlier_export_runs_each_alone_and_says_why(tmp_path: Path) -> None:
    bundle = Bundle(write_loop_bundle(tmp_path / "b"), CPU)
    runs = [bundle.start(**request) for request in REQUESTS]
    step_to_the_end(bundle, runs[:2])
    assert count_steps(bundle) == 5 + 2
    bundle.step([runs[2], bundle.start(**REQUESTS[0])])
    assert "exported by an earlier guidegraph" in runs[2].unshared
    ((name, text),) = describe_joins(bundle.manifest)
    assert name == "step"
    assert text.startswith("each run alone: it was exported by an earlier guidegraph")
    check_as_alone(bundle, REQUESTS[:2], runs[:2])


def test_the_exports_reason_is_that_of_the_runs(tmp_path: Path) -> None:
    why = "a sample of 'x' depends on the other samples of the batch"
    bundle = Bundle(write_loop_bundle(tmp_path / "b", joins={"why": why}), CPU)
    runs = [bundle.start(**request) for request in REQUESTS]
    bundle.step(runs)
    assert [run.unshared for run in runs] == [why] * 3
    assert describe_joins(bundle.manifest) == [("step", f"each run alone: {why}")]


def test_runs_of_unlike_sizes_step_apart(bundle: Bundle) -> None:
    wide = {"noise.shape": [2, 3, 8]}
    runs = [bundle.start_with(REQUESTS[0], nodes=nodes) for nodes in ({}, wide, wide)]
    before = count_steps(bundle)
    bundle.step(runs)
    assert count_steps(bundle) - before == 2
    assert runs[1].unshared == "'width' is 5 in 'x' of one run and 8 in another"
    step_to_the_end(bundle, runs)
    for nodes, run in zip(({}, wide, wide), runs, strict=True):
        np.testing.assert_allclose(run.finish()["image"], bundle.run_with(REQUESTS[0], nodes=nodes)["image"], atol=1e-6)


def test_threads_step_their_own_runs(bundle: Bundle) -> None:
    requests = [{**request, "seed": seed} for request in REQUESTS for seed in range(4)]

    def draw(share: Sequence[Mapping[str, Any]]) -> list[OpenRun]:
        runs = [bundle.start(**request) for request in share]
        step_to_the_end(bundle, runs)
        return runs

    with ThreadPoolExecutor(4) as pool:
        runs = [run for some in pool.map(draw, [requests[i::4] for i in range(4)]) for run in some]
    check_as_alone(bundle, [request for i in range(4) for request in requests[i::4]], runs)


def test_threads_may_step_the_same_runs(bundle: Bundle) -> None:
    requests = [{**REQUESTS[0], "steps": 40, "seed": seed} for seed in range(3)]
    runs = [bundle.start(**request) for request in requests]

    def step_some(order: Sequence[int]) -> None:
        while not all(run.done for run in runs):
            bundle.step([runs[i] for i in order])

    with ThreadPoolExecutor(3) as pool:
        [*pool.map(step_some, [(0, 1, 2), (2, 0), (1, 2)])]
    assert [run.count for run in runs] == [40, 40, 40]
    check_as_alone(bundle, requests, runs)


class CountedSession:
    """A session of a part that counts its calls, as a LoRA's would stand in for the bundle's own."""

    def __init__(self, session: Session) -> None:
        self._session, self.calls = session, 0

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls += 1
        return self._session.run(inputs)


def test_joined_inputs_are_those_of_their_runs_and_go_with_them(bundle: Bundle) -> None:
    class Run:
        """A run of which Python may use the id again."""

    cache = JoinCache()
    assert cache.of("step", [Run()]) is not cache.of("step", [Run()])
    run = Run()
    assert cache.of("step", [run]) is cache.of("step", [run])

    adapted: Any = CountedSession(bundle.session("step"))
    runs = [bundle.start(**request) for request in REQUESTS]
    for i in range(len(runs)):
        runs[i].sessions = {"step": adapted}
    bundle.step(runs)
    assert adapted.calls == 1
    exists = ref(adapted)
    del runs, adapted
    bundle.step([bundle.start(**REQUESTS[0])])
    assert exists() is None, "the weights of a LoRA are kept for runs that are gone"


def test_a_run_computes_only_while_no_other_replays_a_cuda_graph(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = MagicMock()
    monkeypatch.setattr(bundle, "_turn", turn)
    run = bundle.start(**REQUESTS[1])
    actions: Sequence[Callable[[], Any]] = (run.read_carries, lambda: step_to_the_end(bundle, [run]), run.finish)
    for action in actions:
        turn.reset_mock()
        action()
        turn.__enter__.assert_called()


class SmallSession(CountedSession):
    """A session without the memory for more than three samples, or for a scale of 0.9."""

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(inputs["x"]) > 3 or np.isclose(inputs["params.scale"], 0.9).any():
            raise BundleError("b", "run-failed", "no memory is left")
        return super().run(inputs)


def test_runs_of_a_shared_call_that_fails_are_called_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, session = [bundle.start(**request) for request in REQUESTS], SmallSession(bundle.session("step"))
    monkeypatch.setitem(bundle._sessions, "step", session)
    with pytest.raises(BundleError, match="no memory is left"):
        bundle.step(runs)
    assert [run.failed for run in runs] == [False, True, False]
    assert all(run.unshared.startswith("the shared call failed: b: run-failed: no memory") for run in runs)
    rest = [runs[0], runs[2]]
    step_to_the_end(bundle, rest)
    assert session.calls == 2 + 8, "two calls alone, and then one for both"
    monkeypatch.undo()
    check_as_alone(bundle, [REQUESTS[0], REQUESTS[2]], rest)


def test_the_time_of_a_shared_call_counts_against_the_limit_of_each_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class SlowSession(CountedSession):
        def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            clock[0] += 60
            return super().run(inputs)

    monkeypatch.setitem(bundle._sessions, "step", SlowSession(bundle.session("step")))
    modules = ("open_runs.open_run", "open_runs.joined_calls", "running.compute")
    replace_clock(monkeypatch, lambda: clock[0], *(f"guidegraph_runtime.{module}" for module in modules))
    with enforce_limits(Limits(seconds=100)):
        runs = [bundle.start(**request) for request in REQUESTS[:2]]
        for _ in range(2):
            bundle.step(runs)
        assert [run.unshared for run in runs] == ["", ""]
        with pytest.raises(BundleError, match="the run took longer than the limit of 100 s"):
            bundle.step([runs[0]])
        with pytest.raises(BundleError, match="the run took longer than the limit of 100 s"):
            runs[1].finish()


def make_loop(name: str, start: str) -> Operation:
    """A loop of four trips that carries a value and does not change it."""
    links = {"next": {f"{name}.x": f"{name}.x"}, "result": {name: f"{name}.x"}}
    return Operation("loop", name, {f"{name}.x": start}, {"over": 4, **links}, (name,), ())


def test_the_trips_of_loops_one_after_the_other_are_added() -> None:
    loops = [make_loop("first", "zero"), make_loop("second", "first")]

    def run_to_second_loop() -> OpenRun:
        computation = Computation("b", refuse_part, lambda name: b"", Values(zero=np.zeros(1)))
        run = OpenRun(None, computation, loops, {"x": "second"}, {}, nullcontext())
        run.run_to_loop()
        for _ in range(4):
            run.run_to_part()
        return run

    with enforce_limits(Limits(trips=8)):
        assert (run_to_second_loop().count, run_to_second_loop().total) == (4, 8)
    with enforce_limits(Limits(trips=7)), pytest.raises(BundleError, match=r"second \(loop\): .* 4 trips, 8 with"):
        run_to_second_loop()


def test_wrong_arguments_are_errors_before_anything_runs(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no input 'stepz'; did you mean 'steps'"):
        bundle.start(stepz=4)
    other = Bundle(write_loop_bundle(tmp_path / "b", joins=JOINS), CPU)
    run = bundle.start(**REQUESTS[0])
    with pytest.raises(BundleError, match="a run of another bundle"):
        other.step([run])
    with pytest.raises(BundleError, match="listed twice"):
        bundle.step([run, run])


def test_a_run_that_fails_leaves_the_others_whole(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [bundle.start(**request) for request in REQUESTS]
    bundle.step(runs)
    end = OpenRun.run_to_part

    def fail_for_the_second(run: OpenRun, results: Any = None) -> Any:
        if run is runs[1] and run.count == 1:
            raise BundleError("folders/b", "operation-failed", "its noise is no noise")
        return end(run, results)

    monkeypatch.setattr(OpenRun, "run_to_part", fail_for_the_second)
    with pytest.raises(BundleError, match="its noise is no noise"):
        bundle.step(runs)
    monkeypatch.undo()
    with pytest.raises(BundleError, match="the run has failed, and cannot go on: b: operation-failed: its noise"):
        bundle.step([runs[1]])
    rest = [runs[0], runs[2]]
    step_to_the_end(bundle, rest)
    check_as_alone(bundle, [REQUESTS[0], REQUESTS[2]], rest)
