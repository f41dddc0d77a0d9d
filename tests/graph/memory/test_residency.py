"""Models come to the device when a step reads them, and leave it when the budget or the plan says so."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidegraph import NodeError
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.events import Event, LoopProgress, ModelMoved, NodeFailed
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.run import RunConfig, run
from guidegraph.graph.memory.weights import Weights, find_models
from tests.graph.memory.fake_device import NAME, FakeDevice, Net, log, run_on_fake

CHECKPOINT = """
nodes:
  parts: {use: r.parts}
  x: {use: r.start}
  text: {use: r.use, in: {x: x, models: [parts.small]}}
  look: {use: r.table, in: {x: text, table: parts.table}}
  image: {use: r.use, in: {x: look, models: [parts.big]}}
outputs: {image: image}
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()


def three(steps: str) -> str:
    """Models a, b and c of 40 bytes, and a chain of steps that read the named ones."""
    lines = ["nodes:", "  x0: {use: r.start}"]
    lines += [f"  {name}: {{use: r.model, with: {{name: {name}, size: 10}}}}" for name in sorted(set(steps))]
    for i, name in enumerate(steps):
        lines.append(f"  x{i + 1}: {{use: r.use, in: {{x: x{i}, models: [{name}]}}}}")
    return "\n".join([*lines, f"outputs: {{x: x{len(steps)}}}"])


def test_the_parts_of_a_checkpoint_are_never_on_the_device_together(tmp_path: Path) -> None:
    result = run_on_fake(CHECKPOINT, tmp_path, budget=120)
    assert log.lines == [
        "make big on host",
        "make small on host",
        "small in 40",
        "use small",
        "small out 40",
        "big in 120",
        "use big",
        "big out 120",
    ]
    assert log.device.peak == 120
    assert log.device.released == 2
    assert result.outputs["image"].item() == 4.0 + 1 + 3 + 14.0 + 1


def test_who_is_read_last_leaves_first(tmp_path: Path) -> None:
    run_on_fake(three("abcab"), tmp_path, budget=80)
    moves = [line for line in log.lines if " in " in line or " out " in line]
    assert moves == ["a in 40", "b in 40", "b out 40", "c in 40", "c out 40", "a out 40", "b in 40", "b out 40"]
    assert log.device.peak == 80
    assert log.device.used == 0


def test_models_stay_where_the_budget_has_room(tmp_path: Path) -> None:
    run_on_fake(three("ababab"), tmp_path, budget=80)
    assert [line for line in log.lines if " in " in line] == ["a in 40", "b in 40"]


def test_a_cached_model_takes_no_memory_on_the_device_after_its_last_use(tmp_path: Path) -> None:
    memory = MemoryCache()
    run_on_fake(CHECKPOINT, tmp_path, budget=160, memory=memory)
    assert log.device.used == 12  # the cached table
    assert log.lines.index("small out 40") < log.lines.index("big in 120")
    big = log.made["big"]
    text = CHECKPOINT.replace("models: [parts.big]", "models: [parts.big, parts.big]")
    run_on_fake(text, tmp_path, budget=160, memory=memory)
    assert log.lines[-4:] == ["big in 120", "use big", "use big", "big out 120"]
    assert log.made["big"] is big


def test_without_a_budget_a_cached_model_comes_back_and_nothing_leaves(tmp_path: Path) -> None:
    memory = MemoryCache()
    run_on_fake(CHECKPOINT, tmp_path, budget=160, memory=memory)
    log.lines.clear()
    text = CHECKPOINT.replace("models: [parts.big]", "models: [parts.big, parts.big]")
    run_on_fake(text, tmp_path, budget=None, memory=memory)
    assert log.lines == ["big in 120", "use big", "use big"]
    assert log.device.used == 12 + 120


def test_a_copy_that_shares_weights_shares_them_on_the_device_and_counts_once(tmp_path: Path) -> None:
    text = """
nodes:
  x: {use: r.start}
  base: {use: r.model, with: {name: base, size: 10}}
  lora: {use: r.changed, in: {model: base}}
  both: {use: r.use, in: {x: x, models: [base, lora]}}
  one: {use: r.use, in: {x: both, models: [lora]}}
outputs: {x: one}
"""
    result = run_on_fake(text, tmp_path, budget=44)
    assert log.lines == [
        "make base on host",
        "change base on host",
        "base in 40",
        "lora in 4",
        "use base",
        "use base+",
        "base out 4",
        "use base+",
        "lora out 40",
    ]
    assert log.device.peak == 44
    assert result.outputs["x"].item() == 4.0 + 1 + 4.0 + 2 + 4.0 + 2


def test_copies_with_parameters_of_their_own_over_the_same_memory_share_it_too() -> None:
    device = FakeDevice()
    weights = Weights(device)
    first = Net("first", 10)
    second = Net("second", 10)
    second.weight = torch.nn.Parameter(first.weight.detach(), requires_grad=False)
    shared = [w for w in weights.of(first) if w in weights.of(second)]
    assert [w.nbytes for w in shared] == [36]
    for weight in weights.of(first):
        weights.enter(weight)
    assert second.weight.data_ptr() == first.weight.data_ptr()
    assert device.on_device(second.weight)
    assert not device.on_device(second.shift)
    for weight in weights.of(second):
        weights.leave(weight)
    assert second.weight.data_ptr() == first.weight.data_ptr()
    assert not device.on_device(first.weight)
    assert device.used == 4


GIVEN = """
params: {model: {type: any}}
nodes:
  x: {use: r.start}
  y: {use: r.use, in: {x: x, models: [params.model]}}
outputs: {x: y}
"""


@pytest.mark.parametrize("budget", [None, 40])
def test_a_callers_module_is_never_touched(tmp_path: Path, budget: int | None) -> None:
    own = Net("own", 10)
    before = own.weight.data_ptr(), own.shift.data_ptr()
    run_on_fake(GIVEN, tmp_path, budget, {"model": own})
    assert log.lines[:2] == ["params in 40", "use own"]
    assert (own.weight.data_ptr(), own.shift.data_ptr()) == before
    assert own.weight.requires_grad
    assert log.device.used == 0


def test_a_callers_module_on_the_device_stays_there_and_does_not_count(tmp_path: Path) -> None:
    own = Net("own", 1000)
    own.weight.data = log.device.to_device(own.weight.data)
    own._buffers["shift"] = log.device.to_device(own.shift)
    run_on_fake(GIVEN, tmp_path, 40, {"model": own})
    assert log.lines == ["use own"]
    assert log.device.on_device(own.weight)
    assert log.device.used == 4000
    lora = GIVEN.replace("  y:", "  c: {use: r.changed, in: {model: params.model}}\n  y:").replace(
        "[params.model]", "[c]"
    )
    log.lines.clear()
    run_on_fake(lora, tmp_path, 40, {"model": own})
    assert log.lines == ["change own on device", "use own+", "c out 4"]


LOOP = """
params: {n: 3}
nodes:
  x: {use: r.start}
  a: {use: r.model, with: {name: a, size: 10}}
  b: {use: r.model, with: {name: b, size: 10}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: x}
    body:
      one: {use: r.use, in: {x: carry.x, models: [a]}}
      two: {use: r.use, in: {x: one, models: [b]}}
    next: {x: two}
outputs: {x: work.x}
"""


def test_a_loop_is_one_step_that_reads_all_that_its_body_reads(tmp_path: Path) -> None:
    def watch(event: Event) -> None:
        if isinstance(event, LoopProgress):
            log.lines.append(f"iteration {event.done}")

    run_on_fake(LOOP, tmp_path, 80, {"n": 3}, watch)
    assert log.lines[2:4] == ["a in 40", "b in 40"]
    assert log.lines[-3:] == ["iteration 3", "a out 40", "b out 40"]
    assert sum(" in " in line or " out " in line for line in log.lines) == 4


def test_a_step_over_the_budget_is_refused_before_anything_is_computed_with_a_model(tmp_path: Path) -> None:
    failed: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, NodeFailed):
            failed.append(event)

    text = LOOP.replace("  work:", "  early: {use: r.use, in: {x: x, models: [a]}}\n  work:").replace(
        "carry: {x: x}", "carry: {x: early}"
    )
    with pytest.raises(NodeError, match=r"nodes\.work \(loop\)") as caught:
        run_on_fake(text, tmp_path, 79, {"n": 3}, watch)
    assert "reads models of 80 bytes (Net 40 bytes, Net 40 bytes), and the memory budget is 79 bytes: give 80" in str(
        caught.value
    )
    assert [line for line in log.lines if not line.startswith("make")] == []
    assert [event.path for event in failed if isinstance(event, NodeFailed)] == ["nodes.work"]


def test_after_a_failed_step_nothing_is_left_on_the_device(tmp_path: Path) -> None:
    text = three("ab").replace("x2: {use: r.use", "x2: {use: r.boom")
    memory = MemoryCache()
    with pytest.raises(NodeError, match="RuntimeError: no"):
        run_on_fake(text, tmp_path, 80, memory=memory)
    assert log.lines[-1] == "b out 40"
    assert log.device.used == 0


def test_a_full_device_is_the_error_of_the_node_that_needs_the_model(tmp_path: Path) -> None:
    log.device.full_at = 50
    with pytest.raises(NodeError, match=r"nodes\.x2 .*the device has not enough memory"):
        run_on_fake(three("aba"), tmp_path, 80)
    assert log.device.used == 0


def test_models_made_on_the_device_are_brought_within_the_budget_afterwards(tmp_path: Path) -> None:
    text = """
nodes:
  x: {use: r.start}
  a: {use: r.measured, with: {name: a, size: 10}}
  b: {use: r.measured, with: {name: b, size: 10}}
  y: {use: r.use, in: {x: x, models: [b.model]}}
  z: {use: r.use, in: {x: y, models: [a.model]}}
outputs: {z: z}
"""
    run_on_fake(text, tmp_path, budget=40)
    assert log.lines == [
        "make a on device",
        "make b on device",
        "a out 40",
        "use b",
        "b out 40",
        "a in 40",
        "use a",
        "a out 40",
    ]


def test_models_made_on_the_device_are_within_the_budget_before_a_step_on_the_host(tmp_path: Path) -> None:
    text = """
nodes:
  x: {use: r.start}
  a: {use: r.measured, with: {name: a, size: 10}}
  b: {use: r.measured, with: {name: b, size: 10}}
  c: {use: r.model, with: {name: c, size: 10}}
  y: {use: r.use, in: {x: x, models: [b.model]}}
  z: {use: r.use, in: {x: y, models: [a.model]}}
  w: {use: r.use, in: {x: z, models: [c]}}
outputs: {w: w}
"""
    run_on_fake(text, tmp_path, budget=40)
    assert log.lines[:4] == ["make a on device", "make b on device", "a out 40", "make c on host"]


def test_saving_happens_on_the_host(tmp_path: Path) -> None:
    text = three("ab").replace("outputs:", "  s: {use: r.save, in: {models: [a, b]}}\noutputs:")
    run_on_fake(text, tmp_path, budget=40)
    assert "save on host" in log.lines
    assert log.device.peak == 40


def test_models_in_closures_are_found(tmp_path: Path) -> None:
    text = """
nodes:
  x: {use: r.start}
  a: {use: r.model, with: {name: a, size: 10}}
  f: {use: r.closure, in: {model: a}}
  y: {use: r.use, in: {x: x, models: [f]}}
outputs: {y: y}
"""
    assert run_on_fake(text, tmp_path, budget=40).outputs["y"].item() == 2 * (4.0 + 1)
    assert log.device.used == 0


def test_models_are_found_in_containers_objects_and_functions_each_once() -> None:
    a, b = Net("a", 2), Net("b", 2)
    value: Any = {"x": (a, [functools.partial(max, b)]), "y": SimpleNamespace(inner=a.forward), "z": [1, "t", None]}
    value["self"] = value
    assert find_models(value) == [a, b]
    assert find_models(torch.ones(2)) == []


def test_a_buffer_that_a_module_replaces_stays_replaced(tmp_path: Path) -> None:
    text = """
nodes:
  x: {use: r.start}
  a: {use: r.model, with: {name: a, size: 10}}
  c: {use: r.detached, in: {models: [a]}}
  y: {use: r.use, in: {x: x, models: [c]}}
  b: {use: r.measured, with: {name: b, size: 10}}
  z: {use: r.use, in: {x: y, models: [b.model]}}
  w: {use: r.use, in: {x: z, models: [c]}}
outputs: {y: y, w: w}
"""
    memory = MemoryCache()
    result = run_on_fake(text, tmp_path, budget=48, memory=memory)
    assert result.outputs["y"].item() == 5 + 1
    assert result.outputs["w"].item() == 6 + 5 + 5 + 2
    assert log.device.used == 0


def test_reading_ahead_goes_on_beside_a_budget(tmp_path: Path) -> None:
    text = """
nodes:
  r1: {use: r.read, with: {value: 1}}
  r2: {use: r.read, with: {value: 2}}
  a: {use: r.model, with: {name: a, size: 10}}
  y: {use: r.use, in: {x: r1, models: [a]}}
  z: {use: r.use, in: {x: r2, models: [a]}}
outputs: {y: y, z: z}
"""
    outputs = run_on_fake(text, tmp_path, budget=40).outputs
    assert (outputs["y"].item(), outputs["z"].item()) == (6.0, 7.0)


def test_what_reads_or_makes_models_does_not_run_ahead(tmp_path: Path) -> None:
    text = """
params: {model: {type: any}}
nodes:
  a: {use: r.load, with: {name: a, size: 10}}
  b: {use: r.load, with: {name: b, size: 10}}
  p: {use: r.ask, in: {models: [params.model]}, with: {about: 1}}
  q: {use: r.ask, in: {models: [params.model]}, with: {about: 2}}
  y: {use: r.use, in: {x: p, models: [a]}}
  z: {use: r.use, in: {x: q, models: [b]}}
outputs: {y: y, z: z}
"""
    outputs = run_on_fake(text, tmp_path, 40, {"model": Net("own", 10)}).outputs
    assert (outputs["y"].item(), outputs["z"].item()) == (11.0, 12.0)
    assert log.lines[:3] == ["make a on host", "make b on host", "params in 40"]
    assert log.device.peak == 40


def test_weights_that_cannot_be_moved_are_an_error_with_a_budget_only(tmp_path: Path) -> None:
    own = Net("own", 10)
    own._buffers["shift"] = torch.ones(1).to_sparse()
    with pytest.raises(GuidegraphError, match="cannot be moved: run without a memory budget"):
        run_on_fake(GIVEN, tmp_path, 40, {"model": own})
    with pytest.raises(NodeError, match="own is read while it is not on the device"):
        run_on_fake(GIVEN, tmp_path, None, {"model": own})


def test_a_device_that_is_full_from_the_start_is_one_error(tmp_path: Path) -> None:
    log.device.full_at = 10
    with pytest.raises(GuidegraphError, match="models cannot be brought to 'cpu:0': the device has not enough memory"):
        run_on_fake(GIVEN, tmp_path, None, {"model": Net("own", 10)})


def test_a_budget_on_the_cpu_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("guidegraph: 1\nnodes: {x: {use: r.start}}\noutputs: {x: x}")
    from guidegraph.graph.resolution.load import build
    from tests.graph.memory.fake_device import REGISTRY

    with pytest.raises(GuidegraphError, match="this run is on the CPU"):
        run(build(tmp_path / "w.yaml", REGISTRY), {}, RunConfig(memory_budget=1))


def test_an_event_says_what_was_moved_and_where_it_was_made(tmp_path: Path) -> None:
    moves: list[ModelMoved] = []

    def watch(event: Event) -> None:
        if isinstance(event, ModelMoved):
            moves.append(event)

    run_on_fake(CHECKPOINT, tmp_path, 120, observer=watch)
    seen = [(m.path, m.output, m.model, m.device, m.bytes) for m in moves]
    assert seen[:2] == [("nodes.parts", "small", "Net", NAME, 40), ("nodes.parts", "small", "Net", "cpu", 40)]
    assert all(move.seconds >= 0 for move in moves)


@st.composite
def plans(draw: st.DrawFn) -> tuple[str, int]:
    """A workflow of models, copies that share weights, steps that read some of them, and a budget that is enough."""
    sizes = draw(st.lists(st.integers(2, 40), min_size=1, max_size=5))
    lines = ["nodes:", "  x0: {use: r.start}"]
    need = {}
    for i, size in enumerate(sizes):
        made = draw(st.sampled_from(["r.model", "r.model", "r.measured"]))
        name = f"m{i}.model" if made == "r.measured" else f"m{i}"
        lines.append(f"  m{i}: {{use: {made}, with: {{name: m{i}, size: {size}}}}}")
        need[name] = (4 * size, 0)
        if draw(st.booleans()):
            lines.append(f"  c{i}: {{use: r.changed, in: {{model: {name}}}, with: {{shift: {i}}}}}")
            need[f"c{i}"] = (4 * size, 4)
    largest = 0
    count = draw(st.integers(1, 8))
    for i in range(count):
        read = draw(st.lists(st.sampled_from(sorted(need)), min_size=1, max_size=3, unique=True))
        largest = max(largest, sum(sum(need[name]) for name in read))
        lines.append(f"  x{i + 1}: {{use: r.use, in: {{x: x{i}, models: [{', '.join(read)}]}}}}")
    return "\n".join([*lines, f"outputs: {{x: x{count}}}"]), largest + draw(st.integers(0, 100))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans())
def test_any_plan_stays_within_its_budget_and_computes_the_same(tmp_path: Path, plan: tuple[str, int]) -> None:
    text, budget = plan
    log.clear()
    # On the device a step makes one model at a time beside those that are there; all others are made on the host.
    slack = 160 if "r.measured" in text else 0
    within = run_on_fake(text, tmp_path, budget).outputs["x"]
    assert log.device.peak <= budget + slack
    assert log.device.used == 0
    log.clear()
    without = run_on_fake(text, tmp_path, budget=None).outputs["x"]
    assert torch.equal(within, without)


CHOOSING = """
nodes:
  x: {use: r.start}
  judge: {use: r.model, with: {name: judge, size: 5}}
  a: {use: r.model, with: {name: a, size: 10}}
  b: {use: r.model, with: {name: b, size: 20}}
  judged: {use: r.use, in: {x: x, models: [judge]}}
  positive: {use: r.positive, in: {x: judged}}
  small: {use: r.use, in: {x: judged, models: [a]}}
  big: {use: r.use, in: {x: judged, models: [b, judge]}}
  either: {choose: {when: positive, of: {true: small, false: big}}}
outputs: {x: either}
"""


@pytest.mark.parametrize("swapped", [False, True])
def test_the_models_of_a_branch_that_is_not_taken_are_not_made(swapped: bool, tmp_path: Path) -> None:
    text = CHOOSING.replace("true: small, false: big", "false: small, true: big") if swapped else CHOOSING
    result = run_on_fake(text, tmp_path, budget=100)
    decided = ["make judge on host", "judge in 20", "use judge", "judge out 20"]
    small = ["make a on host", "a in 40", "use a", "a out 40"]
    big = ["make b on host", "b in 80", "judge in 20", "use b", "use judge", "judge out 20", "b out 80"]
    assert (log.lines, log.device.peak) == ([*decided, *(big if swapped else small)], 100 if swapped else 40)
    assert result.outputs.keys() == {"x"}
