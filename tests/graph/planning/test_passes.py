"""Each pass saves work and changes no result: every workflow here runs with the pass on and off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import NodeError
from guidegraph.graph.planning.passes import ALL_PASSES
from tests.graph.engine_nodes import calls, run_text


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    calls.clear()
    return


def both(text: str, folder: Path, name: str, values: dict[str, Any] | None = None) -> tuple[int, int]:
    """Counted calls with all passes, and without the named one; the outputs must agree."""
    calls.clear()
    on = run_text(text, folder, values).outputs
    count_on = calls.total()
    calls.clear()
    off = run_text(text, folder, values, passes=ALL_PASSES - {name}).outputs
    count_off = calls.total()
    none = run_text(text, folder, values, passes=()).outputs
    for other in (off, none):
        assert on.keys() == other.keys()
        for key, value in on.items():
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(other[key]), rtol=1e-6, atol=1e-6)
    return count_on, count_off


MIX = """
params: {s: 1.0}
nodes:
  one: {use: toy.number, with: {value: 1}}
  a: {use: toy.add, in: {a: one}}
  b: {use: toy.scale, in: {a: one}, with: {by: 7}}
  m: {use: toy.mix, in: {a: a, b: b, scale: params.s}}
outputs: {m: m}
"""


def test_a_port_that_settings_do_not_need_is_not_computed(tmp_path: Path) -> None:
    assert both(MIX, tmp_path, "skip", {"s": 1.0}) == (3, 4)
    calls.clear()
    assert run_text(MIX, tmp_path, {"s": 1.0}).outputs["m"] == 2
    assert calls["scale"] == 0
    assert run_text(MIX, tmp_path, {"s": 3.0}).outputs["m"] == 7 + 3 * (2 - 7)
    assert calls["scale"] == 1


def test_identity_passes_a_port_through(tmp_path: Path) -> None:
    text = """
nodes:
  n: {use: toy.number, with: {value: 4}}
  s: {use: toy.same, in: {a: n}}
  t: {use: toy.same, in: {a: s}, with: {off: false}}
outputs: {s: s, t: t}
"""
    assert both(text, tmp_path, "skip") == (2, 3)


INTERVAL = """
params: {n: 5}
nodes:
  zero: {use: toy.number}
  work:
    loop: {over: params.n, as: t}
    carry: {x: zero}
    body:
      a: {use: toy.add, in: {a: carry.x}}
      b: {use: toy.scale, in: {a: carry.x}, with: {by: 5}}
      s: {use: toy.ramp, in: {t: loop.t}, with: {low: 2}}
      m: {use: toy.mix, in: {a: a, b: b, scale: s}}
    next: {x: m}
outputs: {x: work.x}
"""


def test_needs_sees_values_that_depend_on_the_loop_entry_row_by_row(tmp_path: Path) -> None:
    both(INTERVAL, tmp_path, "skip", {"n": 5})
    calls.clear()
    run_text(INTERVAL, tmp_path, {"n": 5})
    assert calls["add"] == 5
    assert calls["scale"] == 3


def test_what_depends_on_the_entry_alone_gives_the_same_before_the_loop(tmp_path: Path) -> None:
    with_pass, without = both(INTERVAL, tmp_path, "precompute", {"n": 5})
    assert with_pass < without


def test_precomputing_stops_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_text(INTERVAL, tmp_path, {"n": 5}).outputs
    monkeypatch.setattr("guidegraph.graph.execution.loop.PRECOMPUTE_LIMIT", 70)
    calls.clear()
    assert run_text(INTERVAL, tmp_path, {"n": 5}).outputs == expected
    assert calls["ramp"] > 5


def test_invariant_nodes_leave_the_loop(tmp_path: Path) -> None:
    text = """
params: {n: 4}
nodes:
  one: {use: toy.number, with: {value: 1}}
  work:
    loop: {over: params.n, as: t}
    carry: {x: one}
    body:
      c: {use: toy.scale, in: {a: one}, with: {by: 3}}
      d: {use: toy.scale, in: {a: c}, with: {by: 2}}
      x: {use: toy.add, in: {a: carry.x, b: d}}
    next: {x: x}
outputs: {x: work.x}
"""
    assert both(text, tmp_path, "hoist", {"n": 4})[0] == 1 + 2 + 4


NEVER = """
params: {n: {type: Any, default: 0}}
nodes:
  one: {use: toy.number, with: {value: 1}}
  work:
    loop: {over: params.n, as: t}
    carry: {x: one}
    body:
      inner:
        loop: {over: params.n, as: u}
        carry: {y: one}
        body:
          fails: {use: toy.boom, in: {a: one}}
          y: {use: toy.add, in: {a: carry.y, b: fails}}
        next: {y: y}
      also: {use: toy.boom, in: {a: one}}
      x: {use: toy.add, in: {a: inner.y, b: also}}
    next: {x: x}
outputs: {x: work.x}
"""


@pytest.mark.parametrize("none", [0, [], torch.empty(0, 2)], ids=["number", "list", "tensor"])
def test_nothing_leaves_a_loop_known_to_have_no_iterations(tmp_path: Path, none: object) -> None:
    both(NEVER, tmp_path, "hoist", {"n": none})
    assert run_text(NEVER, tmp_path, {"n": none}).outputs == {"x": 1.0}
    with pytest.raises(NodeError):
        run_text(NEVER, tmp_path, {"n": 1})


def test_effects_stay_in_the_loop(tmp_path: Path) -> None:
    text = """
params: {n: 3}
nodes:
  one: {use: toy.number, with: {value: 1}}
  work:
    loop: {over: params.n, as: t}
    carry: {x: one}
    body:
      e: {use: toy.effect, in: {a: one}}
      x: {use: toy.add, in: {a: carry.x}}
    next: {x: x}
outputs: {x: work.x}
"""
    run_text(text, tmp_path, {"n": 3})
    assert calls["effect"] == 3


def test_equal_nodes_are_computed_once_and_different_ones_apart(tmp_path: Path) -> None:
    text = """
nodes:
  n: {use: toy.number, with: {value: 2}}
  a: {use: toy.scale, in: {a: n}, with: {by: 3}}
  b: {use: toy.scale, in: {a: n}, with: {by: 3}}
  c: {use: toy.scale, in: {a: n}, with: {by: 4}}
  r: {use: toy.random}
  q: {use: toy.random}
  out: {use: toy.total, in: {values: [a, b, c]}}
outputs: {out: out}
"""
    assert both(text, tmp_path, "merge") == (4, 5)
    assert run_text(text.replace("{out: out}", "{r: r, q: q}"), tmp_path).outputs.keys() == {"r", "q"}


SIBLINGS = """
params: {n: 3}
nodes:
  w: {use: toy.number, with: {value: 0.5}}
  x: {use: toy.tensor}
  t: {use: toy.time, with: {value: 2}}
  u: {use: toy.time, with: {value: 3}}
  work:
    loop: {over: params.n, as: i}
    carry: {x: x}
    body:
      p: {use: toy.model, in: {weight: w, x: carry.x, t: t}}
      q: {use: toy.model, in: {weight: w, x: carry.x, t: u}}
      m: {use: toy.mean, in: {x: q}}
      o: {use: toy.model, in: {weight: w, x: p, t: t}}
    next: {x: o}
    collect: {m: m}
outputs: {x: work.x, m: work.m}
"""


def test_sibling_calls_become_one_and_dependent_ones_do_not(tmp_path: Path) -> None:
    both(SIBLINGS, tmp_path, "batch", {"n": 3})
    calls.clear()
    run_text(SIBLINGS, tmp_path, {"n": 3})
    assert calls["model"] == 2 * 3
    calls.clear()
    run_text(SIBLINGS, tmp_path, {"n": 3}, passes=ALL_PASSES - {"batch"})
    assert calls["model"] == 3 * 3


def test_calls_that_do_not_fit_together_are_made_one_by_one(tmp_path: Path) -> None:
    text = """
nodes:
  w: {use: toy.number, with: {value: 0.5}}
  x: {use: toy.tensor, with: {rows: 2}}
  y: {use: toy.tensor, with: {rows: 3}}
  t: {use: toy.time}
  big: {use: toy.mean, in: {x: q}}
  p: {use: toy.model, in: {weight: w, x: x, t: t}}
  q: {use: toy.model, in: {weight: w, x: y, t: t}}
outputs: {p: p, q: q, big: big}
"""
    out = run_text(text, tmp_path).outputs
    assert out["p"].shape == (2, 3)
    assert out["q"].shape == (3, 3)
    assert calls["model"] == 1


def test_the_first_port_says_the_batch_and_others_are_expanded_to_it_alone(tmp_path: Path) -> None:
    """One row of x with two of t is a mistake that the pass must not repair."""
    text = """
nodes:
  w: {use: toy.number, with: {value: 0.5}}
  x: {use: toy.tensor, with: {rows: 1}}
  t: {use: toy.ones, with: {rows: 2}}
  p: {use: toy.strict, in: {weight: w, x: x, t: t}}
  q: {use: toy.strict, in: {weight: w, x: y, t: t}}
  y: {use: toy.tensor, with: {rows: 1, fill: 2}}
outputs: {p: p, q: q}
"""
    for passes in (ALL_PASSES, ()):
        with pytest.raises(NodeError, match="2 times for 1 rows"):
            run_text(text, tmp_path, passes=passes)


def test_calls_on_one_model_given_from_python_are_siblings(tmp_path: Path) -> None:
    text = """
params: {w: {type: any}}
nodes:
  x: {use: toy.tensor}
  t: {use: toy.time, with: {value: 2}}
  u: {use: toy.time, with: {value: 3}}
  p: {use: toy.model, in: {weight: params.w, x: x, t: t}}
  q: {use: toy.model, in: {weight: params.w, x: x, t: u}}
outputs: {p: p, q: q}
"""

    class Half:
        """What multiplies like a model that a caller made."""

        def __mul__(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    outputs = run_text(text, tmp_path, {"w": Half()}).outputs
    assert calls["model"] == 1
    assert torch.equal(outputs["q"], torch.full((2, 3), 3.5))
