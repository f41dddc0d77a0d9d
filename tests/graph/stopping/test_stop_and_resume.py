"""A loop is stopped between two iterations and goes on from its state, without or with a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest
import torch

from guidegraph import LoopStopped, StoppedRun, Tensor, WorkflowError, load_workflow, node
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.node import get_spec
from guidegraph.graph.stopping.loop_state import StopToken
from guidegraph.workflow import Workflow
from tests.graph.engine_nodes import REGISTRY

SUM = """
guidegraph: 1
params: {count: 6, step: 1.0, first: 2.0, after: 10.0}
nodes:
  start: {use: stop.tensor, in: {value: params.first}}
  sum:
    loop: {over: params.count, as: i}
    carry: {x: start}
    body:
      next: {use: stop.add, in: {x: carry.x, step: params.step, index: loop.index}}
    next: {x: next}
    collect: {all: next}
  scaled: {use: stop.add, in: {x: sum.x, step: params.after}}
outputs: {x: scaled, all: sum.all}
"""


@node("stop.tensor")
def tensor(*, value: float) -> Tensor:
    """A tensor of one number."""
    return torch.tensor([value])


@node("stop.add")
def add(x: Tensor, *, step: float, index: int = 0) -> Tensor:
    """x + step · (index + 1)."""
    return x + step * (index + 1)


@node("stop.function")
def function() -> Any:
    """A value that no file can hold."""
    return lambda: 0


@node("stop.read")
def read(x: Tensor, *, path: Path) -> Tensor:
    """x plus the number in a file."""
    return x + float(path.read_text())


@node("stop.sum")
def add_weights(*, weights: dict[str, float]) -> Tensor:
    """The sum of some numbers with names."""
    return torch.tensor([sum(weights.values())])


@runtime_checkable
class Model(Protocol):
    """What a loop may use as a model."""

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Another tensor."""
        ...


class Growth:
    """A model that multiplies."""

    def __init__(self, value: float):
        self.value = value

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.value


@node("stop.model")
def model(*, value: float) -> Model:
    """A model that multiplies by 1 + value."""
    return Growth(1 + value)


@node("stop.apply")
def apply(model: Model, x: Tensor) -> Tensor:
    """What the model makes of x."""
    return model.apply(x)


@node("stop.join")
def join(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@node("stop.keep")
def keep(value: Any) -> Any:
    """The same value."""
    return value


@node("stop.names")
def list_names(*, names: list[str]) -> Any:
    """Some names."""
    return names


@node("stop.memory")
def make_memory(names: Any) -> Any:
    """Zero for each name."""
    return dict.fromkeys(names, 0.0)


@node("stop.grow")
def grow_memory(memory: Any, names: Any, *, step: float) -> Any:
    """The memory with the step added to some of its numbers."""
    return {**memory, **{name: memory[name] + step for name in names}}


NODES = replace(
    REGISTRY,
    nodes={
        **REGISTRY.nodes,
        **{get_spec(f).id: get_spec(f) for f in (tensor, add, add_weights, read, function, model, apply, join, keep)},
        **{get_spec(f).id: get_spec(f) for f in (list_names, make_memory, grow_memory)},
    },
)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Workflow]:
    def load(text: str = SUM, **options: Any) -> Workflow:
        (tmp_path / "sum.yaml").write_text(text)
        return load_workflow(tmp_path / "sum.yaml", **{"registry": NODES, "cache": "off", **options})

    return load


@pytest.mark.parametrize("stop_at", [1, 3, 6, "sum:2", "nodes.sum:5"])
def test_a_run_that_goes_on_without_a_change_gives_what_it_would_have_given(
    make: Callable[..., Workflow], tmp_path: Path, stop_at: int | str
) -> None:
    expected = make().run(step=0.1)
    stopped = make().run(stop_at=stop_at, step=0.1)
    assert isinstance(stopped, StoppedRun)
    stopped.save(tmp_path / "sum.safetensors")
    for resume in (stopped, tmp_path / "sum.safetensors"):
        outputs = make().run(resume=resume)
        assert torch.equal(outputs["x"], expected["x"])
        assert torch.equal(outputs["all"], expected["all"])


def test_a_change_counts_from_where_the_run_was_stopped(make: Callable[..., Workflow]) -> None:
    stopped = make().run(stop_at=2)
    outputs = make().run(resume=stopped, step=100.0, after=0.0)
    assert outputs["all"].flatten().tolist() == [3.0, 5.0, 305.0, 705.0, 1205.0, 1805.0]
    assert outputs["x"].item() == 1805.0


def test_a_run_is_stopped_again_and_its_parts_are_kept(make: Callable[..., Workflow]) -> None:
    first = make().run(stop_at=2)
    second = make().run(stop_at=4, resume=first, step=100.0)
    assert (second.state.done, [part["until"] for part in second.segments]) == (4, [2])
    assert make().run(resume=second)["all"].flatten().tolist() == [3.0, 5.0, 305.0, 705.0, 1205.0, 1805.0]


def test_a_file_that_the_body_reads_counts_as_changed_when_its_contents_are(
    make: Callable[..., Workflow], tmp_path: Path
) -> None:
    (tmp_path / "number.txt").write_text("1")
    text = SUM.replace("{use: stop.add, in: {x: carry.x, step: params.step, index: loop.index}}", "READ")
    text = text.replace("READ", "{use: stop.read, in: {x: carry.x}, with: {path: number.txt}}")
    stopped = make(text).run(stop_at=2)
    assert make(text).run(stop_at=3, resume=stopped).segments == []
    (tmp_path / "number.txt").write_text("2")
    again = make(text).run(stop_at=3, resume=stopped)
    assert [segment["until"] for segment in again.segments] == [2]


@pytest.mark.parametrize(
    ("done", "stop_at", "words"),
    [
        (2, 1, "goes on after 2 of 6 iterations of nodes.sum: expected from 3 to 6; found 1"),
        (2, 2, "expected from 3 to 6; found 2"),
        (2, "sum:7", "expected from 3 to 6; found 7"),
        (6, 6, "expected none, all are done; found 6"),
    ],
)
def test_a_stop_that_the_run_has_passed_is_named_before_anything_runs(
    make: Callable[..., Workflow], done: int, stop_at: int | str, words: str
) -> None:
    stopped = make().run(stop_at=done)
    workflow = make(observers=[lambda event: pytest.fail(f"it ran: {event}")])
    with pytest.raises(WorkflowError, match=f"--stop-at:1:1: bad-stop: the run .*{words}"):
        workflow.run(stop_at=stop_at, resume=stopped)


def test_a_node_of_the_start_that_is_read_later_too_may_change_and_the_run_says_so(
    make: Callable[..., Workflow],
) -> None:
    text = SUM.replace("outputs: {x: scaled", "outputs: {start: start, x: scaled")
    stopped = make(text).run(stop_at=2)
    outputs = make(text).run(resume=stopped, first=3.0)
    assert (outputs["start"].item(), outputs["all"][0].item()) == (3.0, 3.0), "the sums are those of the first start"
    assert [segment["until"] for segment in make(text).run(stop_at=3, resume=stopped, first=3.0).segments] == [2]


def test_another_version_of_a_node_of_the_body_counts_as_a_change(make: Callable[..., Workflow]) -> None:
    stopped = make().run(stop_at=2)
    newer = replace(NODES, nodes={**NODES.nodes, "stop.add": replace(NODES.nodes["stop.add"], version="2")})
    assert make(registry=NODES).run(stop_at=3, resume=stopped).segments == []
    assert [part["until"] for part in make(registry=newer).run(stop_at=3, resume=stopped).segments] == [2]


def test_values_of_a_cache_do_not_hide_the_stop_nor_the_change(make: Callable[..., Workflow], tmp_path: Path) -> None:
    workflow = make(cache=tmp_path / "cache")
    whole = workflow.run()
    stopped = workflow.run(stop_at=3)
    assert isinstance(stopped, StoppedRun)
    changed = workflow.run(resume=stopped, step=5.0)
    assert not torch.equal(changed["x"], whole["x"])
    assert torch.equal(workflow.run(resume=stopped, step=5.0)["x"], changed["x"])
    assert torch.equal(workflow.run(step=1.0)["x"], whole["x"])


def test_a_token_stops_the_loop_that_is_running(make: Callable[..., Workflow]) -> None:
    token = StopToken()
    workflow = make(observers=[lambda event: token.stop() if getattr(event, "done", 0) == 4 else None])
    workflow.attachments = replace(workflow.attachments, stop=token)
    with pytest.raises(LoopStopped, match=r"stopped after 4 of 6 iterations of nodes.sum") as stopped:
        workflow.run_with({})
    assert stopped.value.state.read_carry()["x"].item() == 2 + 1 + 2 + 3 + 4


def test_a_token_does_not_stop_in_an_inner_loop_that_runs_before_its_outer_one(make: Callable[..., Workflow]) -> None:
    text = """
guidegraph: 1
params: {count: 3, trips: 5, step: 1.0, first: 2.0}
nodes:
  start: {use: stop.tensor, in: {value: params.first}}
  outer:
    loop: {over: params.count, as: i}
    carry: {y: start}
    body:
      inner:
        loop: {over: params.trips, as: j}
        carry: {x: start}
        body: {next: {use: stop.add, in: {x: carry.x, step: params.step}}}
        next: {x: next}
      grow: {use: stop.add, in: {x: carry.y, step: params.step}}
    next: {y: grow}
    collect: {all: inner.x}
outputs: {y: outer.y, all: outer.all}
"""
    token = StopToken()
    workflow = make(text, observers=[lambda event: token.stop() if getattr(event, "done", 0) else None])
    workflow.attachments = replace(workflow.attachments, stop=token)
    with pytest.raises(LoopStopped, match=r"stopped after 1 of 3 iterations of nodes.outer$"):
        workflow.run_with({})


@pytest.mark.parametrize(
    ("change", "params", "words"),
    [
        (("", ""), {"count": 7}, "'over' was 6, and is 7 now (params.count)"),
        (("", ""), {"first": 3.0}, "'value' was 2.0, and is 3.0 now (params.first)"),
        (
            (
                "start: {use: stop.tensor, in: {value: params.first}}",
                "start: {use: stop.keep, in: {value: params.first}}",
            ),
            {},
            "it was stop.tensor",
        ),
        (("carry: {x: start}", "carry: {x: start, y: start}"), {}, "it had no carry 'y', and has one now"),
        (("collect: {all: next}", "collect: {all: next, more: next}"), {}, "it had no collect 'more'"),
        (("sum:", "total:"), {}, "the state is of the loop 'sum', which this run does not have"),
    ],
)
def test_a_change_that_the_state_cannot_take_is_named_before_anything_runs(
    make: Callable[..., Workflow], change: tuple[str, str], params: dict[str, Any], words: str
) -> None:
    stopped = make().run(stop_at=2)
    old, new = change
    text = SUM.replace(old, new).replace(
        "next: {x: next}\n", "next: {x: next, y: next}\n" if "y:" in new else "next: {x: next}\n"
    )
    text = text.replace("sum.", "total.") if "total" in new else text
    workflow = make(text, observers=[lambda event: pytest.fail("something ran")])
    with pytest.raises(WorkflowError) as refused:
        workflow.run(resume=stopped, **params)
    assert words in str(refused.value)
    assert {problem.code for problem in refused.value.problems} == {"cannot-resume"}


NAMED = """
guidegraph: 1
params: {count: 6, names: [a, b], step: 1.0}
nodes:
  named: {use: stop.names, in: {names: params.names}}
  memory: {use: stop.memory, in: {names: named}}
  sum:
    loop: {over: params.count, as: i}
    carry: {memory: memory}
    body:
      next: {use: stop.grow, in: {memory: carry.memory, names: named, step: params.step}}
    next: {memory: next}
outputs: {memory: sum.memory}
"""


def test_a_start_with_names_that_the_state_lacks_is_refused_before_the_first_iteration(
    make: Callable[..., Workflow],
) -> None:
    stopped = make(NAMED).run(stop_at=2)
    iterations: list[object] = []
    workflow = make(NAMED, observers=[lambda event: iterations.append(event) if hasattr(event, "done") else None])
    with pytest.raises(WorkflowError, match=r"the carry 'memory' starts with c, d after the change") as refused:
        workflow.run(resume=stopped, names=["a", "c", "d"])
    assert [problem.code for problem in refused.value.problems] == ["cannot-resume"]
    assert iterations == []
    assert make(NAMED).run(resume=stopped, names=["a"])["memory"] == {"a": 6.0, "b": 2.0}
    assert make(NAMED).run(resume=stopped, step=2.0)["memory"] == {"a": 10.0, "b": 10.0}


def test_the_order_of_the_keys_of_a_setting_is_no_change(make: Callable[..., Workflow]) -> None:
    text = SUM.replace("start: {use: stop.tensor, in: {value: params.first}}", "start: {use: stop.sum, with: SETTING}")
    stopped = make(text.replace("SETTING", "{weights: {a: 1.0, b: 2.0}}")).run(stop_at=2)
    reordered = make(text.replace("SETTING", "{weights: {b: 2.0, a: 1.0}}"))
    assert reordered.run(stop_at=3, resume=stopped).state.done == 3
    with pytest.raises(WorkflowError, match="'weights' was"):
        make(text.replace("SETTING", "{weights: {a: 2.0, b: 1.0}}")).run(resume=stopped)


def test_a_parameter_that_only_finished_work_read_is_refused(make: Callable[..., Workflow]) -> None:
    text = SUM.replace(
        "  sum:\n",
        "  early:\n    loop: {over: params.count, as: i}\n    carry: {x: start}\n    body:\n"
        "      before: {use: stop.add, in: {x: carry.x, step: params.early}}\n    next: {x: before}\n  sum:\n",
    )
    text = text.replace("params: {", "params: {early: 1.0, ").replace(
        "carry: {x: start}\n    body:\n      next", "carry: {x: early.x}\n    body:\n      next"
    )
    stopped = make(text).run(stop_at="sum:2", early=2.0)
    with pytest.raises(
        WorkflowError, match=r"'early' was changed, but nothing after 2 iterations of nodes.sum reads it"
    ):
        make(text).run(resume=stopped, early=3.0)
    assert torch.equal(make(text).run(resume=stopped)["x"], make(text).run(early=2.0)["x"])
    with pytest.raises(WorkflowError, match="write early:2 or sum:2"):
        make(text).run(stop_at=2)


@pytest.mark.parametrize(("stop_at", "code"), [(0, "bad-stop"), ("x", "bad-stop"), ("sun:2", "no-loop")])
def test_a_wrong_place_to_stop_is_named(make: Callable[..., Workflow], stop_at: int | str, code: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        make().run(stop_at=stop_at)
    assert refused.value.problems[0].code == code


def test_more_iterations_than_the_loop_has_are_named(make: Callable[..., Workflow]) -> None:
    with pytest.raises(WorkflowError, match=r"bad-stop: nodes\.sum has 6 iterations with these parameters; found 7"):
        make().run(stop_at=7)


FUNCTION = (
    SUM.replace("carry: {x: start}", "carry: {x: start, f: made}")
    .replace("  start:", "  made: {use: stop.function}\n  start:")
    .replace("next: {x: next}\n", "next: {x: next, f: kept}\n")
    .replace("      next:", "      kept: {use: stop.keep, in: {value: carry.f}}\n      next:")
)
"""A loop with a carry that no file can hold."""


def test_a_token_does_not_end_a_run_whose_state_no_file_can_hold(make: Callable[..., Workflow]) -> None:
    token = StopToken()
    workflow = make(FUNCTION, observers=[lambda event: token.stop() if getattr(event, "done", 0) == 4 else None])
    workflow.attachments = replace(workflow.attachments, stop=token)
    with pytest.warns(UserWarning, match=r"nodes.sum cannot be stopped: its carry 'f' (.*); the run goes on"):
        values = workflow.run()
    assert torch.equal(values["x"], make(FUNCTION).run()["x"])
    assert not token.requested


def test_a_carry_that_no_file_can_hold_is_named_before_the_first_iteration(make: Callable[..., Workflow]) -> None:
    with pytest.raises(GuidegraphError, match="its carry 'f' cannot be kept in a file: function"):
        make(FUNCTION, observers=[lambda event: pytest.fail("it ran") if hasattr(event, "done") else None]).run(
            stop_at=3
        )


def test_a_damaged_or_foreign_file_is_an_error_that_names_it(make: Callable[..., Workflow], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    make().run(stop_at=2).save(good)
    content = good.read_bytes()
    save_file({"x": torch.ones(2)}, bad)
    contents = [bad.read_bytes(), b"", b"not a file", content[:-1], content[:-1] + bytes([content[-1] ^ 1])]
    contents += [content.replace(b'\\"dict\\"', b'\\"diet\\"'), content.replace(b'"done":"2"', b'"done":"7"')]
    for wrong in contents:
        bad.write_bytes(wrong)
        with pytest.raises(WorkflowError, match=r"bad.safetensors:1:1: bad-state: "):
            make().run(resume=bad)
    with pytest.raises(WorkflowError, match=r"nothing.safetensors:1:1: missing-file"):
        make().run(resume=tmp_path / "nothing.safetensors")
    with pytest.raises(WorkflowError, match="bad-state"):
        make().run(resume=tmp_path)


def test_a_file_with_a_right_checksum_and_wrong_contents_is_named(
    make: Callable[..., Workflow], tmp_path: Path
) -> None:
    from guidegraph.graph.values.serialise import read_checked, write_checked

    path = tmp_path / "sum.safetensors"
    make().run(stop_at=2).save(path)
    metadata, tensors = read_checked(path)
    for key, value in (
        ("done", "9"),
        ("tree", "{}"),
        ("run", "[]"),
        ("run", "{}"),
        ("host", "3"),
        ("tree", "[" * 10**5),
    ):
        write_checked(path, tensors, {**metadata, key: value})
        with pytest.raises(WorkflowError, match=r"sum.safetensors:1:1: bad-state"):
            make().run(resume=path)


def test_a_run_in_another_dtype_is_refused(make: Callable[..., Workflow]) -> None:
    stopped = make().run(stop_at=2)
    with pytest.raises(WorkflowError, match="the state is of a run in float32; this run is in float64"):
        make(dtype="float64").run(resume=stopped)


def test_parameters_that_are_called_like_the_options_are_parameters(make: Callable[..., Workflow]) -> None:
    text = SUM.replace("params: {", "params: {stop_at: 1.0, ").replace("step: params.step", "step: params.stop_at")
    assert make(text).run(stop_at=2.0)["x"].item() == make().run(step=2.0)["x"].item()


def test_a_file_whose_description_of_the_run_is_damaged_is_named(make: Callable[..., Workflow], tmp_path: Path) -> None:
    from guidegraph.graph.values.serialise import read_checked, write_checked

    path = tmp_path / "sum.safetensors"
    make().run(stop_at=2).save(path)
    metadata, tensors = read_checked(path)
    run = json.loads(metadata["run"])
    good = run["origin"]
    wrong: list[Any] = [3, {}, {**good, "over": 3}, {**good, "nodes": {}}, {**good, "nodes": {"start": {}}}]
    wrong += [
        {**good, "carry": ["x"]},
        {**good, "models": [{}]},
        {**good, "nodes": {"start": {"use": 1, "version": 2}}},
    ]
    for origin in wrong:
        write_checked(path, tensors, {**metadata, "run": json.dumps({**run, "origin": origin})})
        with pytest.raises(WorkflowError, match=r"sum.safetensors:1:1: bad-state"):
            make().run(resume=path)


def test_a_loop_whose_branch_is_not_taken_or_that_no_output_needs_does_not_count(make: Callable[..., Workflow]) -> None:
    text = SUM.replace("params: {", "params: {which: a, ").replace(
        "  scaled:",
        "  other:\n    loop: {over: params.count, as: j}\n    carry: {y: start}\n    body:\n"
        "      more: {use: stop.add, in: {x: carry.y, step: params.step}}\n    next: {y: more}\n"
        "  chosen: {choose: {when: params.which, of: {a: sum.x, b: other.y}}}\n  scaled:",
    )
    text = text.replace("in: {x: sum.x, step: params.after}", "in: {x: chosen, step: params.after}")
    text = text.replace(", all: sum.all", "")
    assert make(text).run(stop_at=2).state.loop == "sum"
    stopped = make(text).run(stop_at=2, which="b")
    assert stopped.state.loop == "other"
    assert make(text).run(resume=stopped)["x"].item() == make(text).run(which="b")["x"].item()
    with pytest.raises(
        WorkflowError, match=r"the state is of the loop 'other', which this run does not have; loops: sum"
    ):
        make(text).run(resume=stopped, which="a")


TWO_LOOPS = """
guidegraph: 1
params: {count: 3, more: 4, step: 1.0, first: 2.0, grow: 1.0, kind: low}
nodes:
  model: {use: stop.model, in: {value: params.grow}}
  other: {use: stop.model, with: {value: 5.0}}
  start: {use: stop.tensor, in: {value: params.first}}
  high:  {use: stop.tensor, with: {value: 100.0}}
  begin: {choose: {when: params.kind, of: {low: start, high: high}}}
  plan:
    loop: {over: params.count, as: i}
    carry: {x: begin}
    body: {next: {use: stop.apply, in: {model: model, x: carry.x}}}
    next: {x: next}
  sum:
    loop: {over: params.more, as: i}
    carry: {x: CARRY}
    body:
      moved: {use: stop.add, in: {x: carry.x, step: params.step}}
      next:  {use: stop.join, in: {x: moved, y: plan.x}}
    next: {x: next}
outputs: {x: sum.x}
"""


@pytest.mark.parametrize("carry", ["begin", "plan.x"])
@pytest.mark.parametrize("kind", ["low", "high"])
def test_a_loop_after_another_loop_with_a_model_of_its_own_goes_on(
    make: Callable[..., Workflow], tmp_path: Path, carry: str, kind: str
) -> None:
    text, path = TWO_LOOPS.replace("CARRY", carry), tmp_path / "two.safetensors"
    expected = make(text).run(kind=kind)
    for stop_at in ("plan:2", "sum:2"):
        make(text).run(stop_at=stop_at, kind=kind).save(path)
        assert torch.equal(make(text).run(resume=path)["x"], expected["x"])
        assert not torch.equal(make(text).run(resume=path, step=50.0)["x"], expected["x"])


@pytest.mark.parametrize(
    ("carry", "change", "params", "words"),
    [
        ("begin", ("model: model, x", "model: other, x"), {}, "its Model is another model than before"),
        ("begin", ("", ""), {"grow": 2.0}, "its Model is another model than before"),
        ("plan.x", ("", ""), {"count": 2}, "'over' was 3, and is 2 now (params.count)"),
        ("plan.x", ("", ""), {"first": 3.0}, "'value' was 2.0, and is 3.0 now (params.first)"),
        ("plan.x", ("", ""), {"kind": "high"}, "nodes.high: 'value' was 2.0, and is 100.0 now"),
    ],
)
def test_the_model_and_the_start_of_an_earlier_loop_belong_to_the_state(
    make: Callable[..., Workflow], carry: str, change: tuple[str, str], params: dict[str, Any], words: str
) -> None:
    text = TWO_LOOPS.replace("CARRY", carry).replace("y: plan.x", "y: moved" if carry == "plan.x" else "y: plan.x")
    stopped = make(text).run(stop_at="sum:2")
    with pytest.raises(WorkflowError) as refused:
        make(text.replace(*change)).run(resume=stopped, **params)
    assert words in str(refused.value)


def test_a_stopped_run_of_this_process_may_name_any_file_and_a_saved_one_may_not(
    make: Callable[..., Workflow], tmp_path: Path
) -> None:
    text = SUM.replace("params: {", "params: {path: {type: Path}, ").replace(
        "stop.tensor, in: {value: params.first}", "stop.read, in: {x: base, path: params.path}"
    )
    text = text.replace("  start:", "  base: {use: stop.tensor, in: {value: params.first}}\n  start:")
    (tmp_path / "number.txt").write_text("1")
    stopped = make(text).run(stop_at=2, path=tmp_path / "number.txt")
    expected = make(text).run(path=tmp_path / "number.txt")["x"]
    assert torch.equal(make(text).run(resume=stopped)["x"], expected)
    stopped.save(tmp_path / "sum.safetensors")
    with pytest.raises(WorkflowError, match="forbidden-read: the file names"):
        make(text).run(resume=tmp_path / "sum.safetensors")


def test_a_file_that_an_earlier_loop_reads_counts_as_changed(make: Callable[..., Workflow], tmp_path: Path) -> None:
    text = TWO_LOOPS.replace("CARRY", "begin").replace("body: {next: {", "body: {read: READ, next: {")
    text = text.replace("READ", '{use: stop.read, in: {x: carry.x}, with: {path: "number.txt"}}')
    text = text.replace("model: model, x: carry.x", "model: model, x: read")
    (tmp_path / "number.txt").write_text("1")
    stopped = make(text).run(stop_at="sum:2")
    assert make(text).run(stop_at="sum:3", resume=stopped).segments == []
    (tmp_path / "number.txt").write_text("2")
    assert len(make(text).run(stop_at="sum:3", resume=stopped).segments) == 1


def test_a_file_with_an_incomplete_description_says_what_it_lacks(
    make: Callable[..., Workflow], tmp_path: Path
) -> None:
    stopped = make().run(stop_at=2)
    incomplete = replace(stopped, origin={**stopped.origin, "nodes": {}})
    incomplete.save(tmp_path / "sum.safetensors")
    with pytest.raises(WorkflowError, match="its description of the run lacks 'start': expected a file that"):
        make().run(resume=tmp_path / "sum.safetensors")
