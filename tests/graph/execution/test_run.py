"""The values that a run computes, the order, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Cancelled, NodeError
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress, NodeFinished, NodeTotals, OutputReady, RunFinished, RunStarted
from guidegraph.graph.execution.loop_context import Attachments
from guidegraph.graph.execution.run import run_plan
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from tests.graph.engine_nodes import REGISTRY, calls, run_text
from tests.work_counter import count_calls

LOOP = """
nodes:
  start: {use: toy.number, with: {value: 1}}
  steps: {use: toy.tensor, with: {rows: 4}}
  twice: {use: toy.scale, in: {a: start}}
  work:
    loop: {over: steps, as: row}
    carry: {x: start}
    body:
      more: {use: toy.add, in: {a: carry.x, b: twice}}
    next: {x: more}
    collect: {seen: more}
  end: {use: toy.scale, in: {a: work.x}, with: {by: 10}}
outputs: {end: end, seen: work.seen}
"""


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    calls.clear()
    return


def test_a_loop_carries_collects_and_reads_from_outside(tmp_path: Path) -> None:
    outputs = run_text(LOOP, tmp_path).outputs
    assert outputs == {"end": 90.0, "seen": [3.0, 5.0, 7.0, 9.0]}
    assert calls["scale"] == 2


def test_loops_nest_and_inner_bodies_read_all_that_encloses_them(tmp_path: Path) -> None:
    text = """
nodes:
  zero: {use: toy.number}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      base: {use: toy.add, in: {a: carry.x}, with: {b: 0}}
      inner:
        loop: {over: params.m, as: j}
        carry: {y: base}
        body: {up: {use: toy.add, in: {a: carry.y, b: loop.i}}}
        next: {y: up}
    next: {x: inner.y}
params: {n: 3, m: 2}
outputs: {x: outer.x}
"""
    assert run_text(text, tmp_path, {"n": 3, "m": 2}).outputs == {"x": 6}


def test_a_loop_without_iterations_gives_its_start(tmp_path: Path) -> None:
    text = """
params: {n: 0}
nodes:
  one: {use: toy.number, with: {value: 1}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: one}
    body: {up: {use: toy.add, in: {a: carry.x}}}
    next: {x: up}
outputs: {x: work.x}
"""
    assert run_text(text, tmp_path, {"n": 0}).outputs == {"x": 1.0}


def test_entries_of_a_vector_keep_one_axis(tmp_path: Path) -> None:
    text = """
params: {v: {type: Tensor}}
nodes:
  zero: {use: toy.time}
  work:
    loop: {over: params.v, as: t}
    carry: {x: zero}
    body: {same: {use: toy.mean, in: {x: loop.t}}}
    next: {x: same}
    collect: {t: loop.t}
outputs: {t: work.t}
"""
    out = run_text(text, tmp_path, {"v": torch.arange(3.0)}).outputs["t"]
    assert out.shape == (3, 1)


def test_lists_of_links_arrive_in_order_and_named_outputs_apart(tmp_path: Path) -> None:
    text = """
nodes:
  p: {use: toy.pair, in: {a: n}}
  n: {use: toy.number, with: {value: 5}}
  s: {use: toy.total, in: {values: [p.first, n, n]}}
outputs: {s: s, second: p.second}
"""
    assert run_text(text, tmp_path).outputs == {"s": 15.0, "second": -5.0}


def test_what_no_output_needs_is_not_run_but_effects_are(tmp_path: Path) -> None:
    text = """
nodes:
  used: {use: toy.number}
  unused: {use: toy.add, in: {a: used}}
  happens: {use: toy.effect, in: {a: used}}
outputs: {out: used}
"""
    run_text(text, tmp_path)
    assert (calls["add"], calls["effect"]) == (0, 1)
    run_text(text, tmp_path, only=["out"])
    assert calls["effect"] == 1


def test_a_failing_node_names_itself_its_line_and_the_iteration(tmp_path: Path) -> None:
    text = LOOP.replace("{use: toy.add, in: {a: carry.x, b: twice}}", "{use: toy.boom, in: {a: carry.x}}").replace(
        "value: 1", "value: 0"
    )
    assert run_text(text, tmp_path).outputs["end"] == 0
    text = text.replace("use: toy.boom, in: {a: carry.x}", "use: toy.boom, in: {a: loop.index}, with: {above: 1}")
    with pytest.raises(NodeError) as caught:
        run_text(text, tmp_path)
    assert caught.value.path == "nodes.work.body.more"
    assert caught.value.mark.line == 11
    assert "at iteration 2" in str(caught.value)
    assert "2 is too much" in str(caught.value)


def test_outputs_finished_before_a_failure_are_handed_over(tmp_path: Path) -> None:
    text = """
nodes:
  good: {use: toy.number, with: {value: 3}}
  bad: {use: toy.boom, in: {a: good}}
outputs: {bad: bad, good: good}
"""
    got: dict[str, Any] = {}
    with pytest.raises(NodeError, match=r"nodes\.bad \(toy\.boom\)"):
        run_text(text, tmp_path, on_output=lambda name, value, kind: got.update({name: value}))
    assert got == {"good": 3.0}


def test_a_narrowing_link_is_checked_by_shape_and_names_the_port(tmp_path: Path) -> None:
    text = """
params: {v: {type: Tensor}}
nodes: {m: {use: toy.mean, in: {x: params.v}}}
outputs: {m: m}
"""
    assert float(run_text(text, tmp_path, {"v": torch.ones(2)}).outputs["m"]) == 1
    wide = """
nodes:
  o: {use: toy.opaque}
  m: {use: toy.mean, in: {x: o}}
outputs: {m: m}
"""
    with pytest.raises(NodeError, match=r"port 'x': expected Tensor, found Opaque") as caught:
        run_text(wide, tmp_path)
    assert caught.value.mark.line == 5


def test_a_wired_setting_is_validated_when_it_arrives(tmp_path: Path) -> None:
    text = """
nodes:
  n: {use: toy.number, with: {value: -1}}
  s: {use: toy.scale, in: {a: n, by: n}}
outputs: {s: s}
"""
    with pytest.raises(NodeError, match=r"port 'by': .*greater than or equal to 0"):
        run_text(text, tmp_path)


def test_cancelling_ends_within_one_iteration(tmp_path: Path) -> None:
    token = CancelToken()
    seen: list[Event] = []

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, LoopProgress) and event.done == 2:
            token.cancel()

    with pytest.raises(Cancelled):
        run_text(LOOP, tmp_path, cancel=token, observers=[observe])
    assert max(e.done for e in seen if isinstance(e, LoopProgress)) == 2
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].status == "cancelled"


def test_events_tell_start_nodes_progress_outputs_and_end(tmp_path: Path) -> None:
    seen: list[Event] = []
    run_text(LOOP, tmp_path, observers=[seen.append])
    assert isinstance(seen[0], RunStarted)
    assert seen[0].total == 5
    finished = [e.path for e in seen if isinstance(e, NodeFinished)]
    assert sorted(finished) == ["nodes.end", "nodes.start", "nodes.steps", "nodes.twice", "nodes.work"]
    assert [e.done for e in seen if isinstance(e, LoopProgress)] == [1, 2, 3, 4]
    assert {e.name for e in seen if isinstance(e, OutputReady)} == {"end", "seen"}
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].status == "done"


def test_a_loop_whose_nodes_read_its_item_alone_tells_its_progress_item_by_item(tmp_path: Path) -> None:
    text = """
params: {n: 4}
nodes:
  work:
    loop: {over: params.n, as: t}
    body: {r: {use: toy.ramp, in: {t: loop.t}, with: {low: 2}}}
    collect: {seen: r}
outputs: {seen: work.seen}
"""
    counts: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            counts.append(calls["ramp"])

    run_text(text, tmp_path, {"n": 4}, observers=[observe])
    assert counts == [1, 2, 3, 4]


def test_a_loop_that_ends_tells_what_the_nodes_of_its_body_took(tmp_path: Path) -> None:
    seen: list[Event] = []
    run_text(LOOP, tmp_path, observers=[seen.append])
    totals = [e for e in seen if isinstance(e, NodeTotals)]
    whole = next(e for e in seen if isinstance(e, NodeFinished) and e.path == "nodes.work")
    assert totals
    assert {e.calls for e in totals} == {4}
    assert all(e.path.startswith("nodes.work.") for e in totals)
    assert 0 < sum(e.seconds for e in totals) <= whole.seconds
    assert max(seen.index(e) for e in totals) < seen.index(whole)


def test_a_loop_that_fails_tells_what_the_nodes_of_its_body_took_so_far(tmp_path: Path) -> None:
    seen: list[Event] = []
    bad = "      bad: {use: toy.unwrap, in: {a: more}}\n"
    with pytest.raises(NodeError):
        run_text(
            LOOP.replace("    next:", bad + "    next:").replace("{seen: more}", "{seen: bad}"),
            tmp_path,
            observers=[seen.append],
        )
    totals = {e.path: e.calls for e in seen if isinstance(e, NodeTotals)}
    assert totals == {"nodes.work.body.more": 1}


def test_files_are_read_beside_each_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    text = """
nodes:
  a: {use: toy.read, with: {path: a.txt}}
  b: {use: toy.read, with: {path: b.txt}}
outputs: {a: a, b: b}
"""
    assert run_text(text, tmp_path).outputs == {"a": "a", "b": "b"}
    (tmp_path / "c.txt").mkdir()
    with pytest.raises(NodeError, match=r"nodes\.b .*Is a directory"):
        run_text(text.replace("b.txt", "c.txt"), tmp_path)


def test_a_chain_of_ten_thousand_nodes_runs(tmp_path: Path) -> None:
    lines = ["nodes:", "  n0: {use: toy.number}"]
    lines += [f"  n{i}: {{use: toy.add, in: {{a: n{i - 1}}}}}" for i in range(1, 10_000)]
    text = "\n".join([*lines, "outputs: {out: n9999}"])
    assert run_text(text, tmp_path).outputs == {"out": 9999.0}


def test_a_parameter_arrives_as_the_port_that_it_feeds_has_it(tmp_path: Path) -> None:
    text = """
params: {sizes: [1, 2], by: 2}
nodes:
  wired: {use: toy.kinds, in: {sizes: params.sizes, by: params.by}}
  literal: {use: toy.kinds, with: {sizes: [1, 2], by: 2}}
outputs: {wired: wired, literal: literal}
"""
    outputs = run_text(text, tmp_path, {"sizes": [1, 2], "by": 2}).outputs
    assert outputs["wired"] == outputs["literal"] == "tuple float"


COUNTED = """
nodes:
  start: {use: toy.number}
  count: {use: toy.whole, with: {value: COUNT}}
  work:
    loop: {over: count, as: i}
    carry: {x: start}
    body: {more: {use: toy.add, in: {a: carry.x}}}
    next: {x: more}
outputs: {x: work.x}
"""


def test_a_loop_takes_a_computed_number_of_iterations_and_none_below_0(tmp_path: Path) -> None:
    assert run_text(COUNTED.replace("COUNT", "3"), tmp_path).outputs == {"x": 3.0}
    assert run_text(COUNTED.replace("COUNT", "0"), tmp_path).outputs == {"x": 0.0}
    with pytest.raises(NodeError, match="a loop takes 0 or more iterations; found -3") as caught:
        run_text(COUNTED.replace("COUNT", "-3"), tmp_path)
    assert (caught.value.path, caught.value.mark.line) == ("nodes.work", 6)


CALLS_OF_A_RUN = 265
"""A bound on the number of calls of a run of two nodes: 235 when this was written."""


def test_a_run_of_few_nodes_takes_few_calls(tmp_path: Path) -> None:
    """Between other work, most of its time is the first call of each function."""
    path = tmp_path / "workflow.yaml"
    path.write_text(
        "guidegraph: 1\nnodes: {n: {use: toy.number}, m: {use: toy.scale, in: {a: n}}}\noutputs: {out: m}\n"
    )
    plan = compile_plan(build(path, REGISTRY), {})
    run_plan(plan, Attachments())  # keeps what every run needs
    assert count_calls(lambda: run_plan(plan, Attachments())) < CALLS_OF_A_RUN


def test_a_run_records_no_gradients_and_leaves_the_callers_setting(tmp_path: Path) -> None:
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            run_text("nodes: {t: {use: toy.tensor}}\noutputs: {t: t}", tmp_path)
            assert torch.is_grad_enabled() is enabled
