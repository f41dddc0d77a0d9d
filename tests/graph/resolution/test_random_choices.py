"""Random graphs of choices against a plain evaluator that computes only the needed values."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guidegraph.graph.planning.passes import ALL_PASSES
from tests.graph.resolution.choice_nodes import ran, run_choice

Value = Callable[[], Any]


@dataclass
class Region:
    """Nodes of a region as YAML, with what computes each lazily. ``memo`` are values, ``met`` the nodes that ran."""

    prefix: str
    met: set[str]
    outside: list[tuple[str, Value]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    numbers: list[tuple[str, Value]] = field(default_factory=list)
    selectors: list[tuple[str, str, Value]] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Value, *, noted: bool = True) -> Value:
        def value() -> Any:
            if name not in self.memo:
                self.memo[name] = compute()
                self.met |= {name} if noted else set()
            return self.memo[name]

        return value


def grow(region: Region, rng: random.Random, count: int) -> None:
    """Add nodes: numbers, texts and booleans made of them, and choices between numbers."""
    for i in range(count):
        name = f"{region.prefix}{i}"
        (link, number), (other, second) = (rng.choice([*region.outside, *region.numbers]) for _ in range(2))
        kind = rng.choice(["mark", "mark", "effect", "text", "flag", "choice", "choice", "choice"])
        if kind == "mark":
            plus = rng.randrange(3)
            region.lines.append(f"{name}: {{use: pick.mark, in: {{a: {link}}}, with: {{name: {name}, plus: {plus}}}}}")
            region.numbers.append((name, region.once(name, lambda n=number, p=plus: n() + p)))
        elif kind == "effect":
            region.lines.append(f"{name}: {{use: pick.effect, in: {{a: {link}}}, with: {{name: {name}}}}}")
            region.numbers.append((name, region.once(name, number)))
        elif kind == "text":
            region.lines.append(f"{name}: {{use: pick.size, in: {{a: {link}}}}}")
            text = region.once(name, lambda n=number: "big" if n() > 2 else "small", noted=False)
            region.selectors.append((name, "text", text))
        elif kind == "flag":
            region.lines.append(f"{name}: {{use: pick.above, in: {{a: {link}}}}}")
            region.selectors.append((name, "flag", region.once(name, lambda n=number: n() > 2, noted=False)))
        else:
            decider, of, decide = rng.choice(region.selectors)
            labels = {"flag": ("true", "false"), "text": ("small", "big"), "index": ("0", "otherwise")}[of]
            branches = f"{{{labels[0]}: {link}, {labels[1]}: {other}}}"
            if of == "index":
                branches = f"{{0: {link}}}, otherwise: {other}"
            region.lines.append(f"{name}: {{choose: {{when: {decider}, of: {branches}}}}}")
            first = {"flag": True, "text": "small", "index": 0}[of]
            chosen = lambda d=decide, f=first, a=number, b=second: (a if d() == f else b)()  # noqa: E731
            region.numbers.append((name, region.once(name, chosen, noted=False)))


def effects_outside_of_branches(region: Region) -> set[str]:
    """Nodes with effects on which no branch depends, by the text of the nodes."""
    inside: set[str] = set()
    for line in reversed(region.lines):
        name, _, rest = line.partition(": ")
        names = {n for n, _ in region.numbers} | {n for n, _, _ in region.selectors}
        links = {word for word in rest.replace("{", " ").replace("}", " ").replace(",", " ").split() if word in names}
        if "choose" in rest:
            decider = rest.partition("when: ")[2].partition(",")[0]
            branches = rest.partition("of: ")[2]
            inside |= {link for link in links if link in branches.replace("}", " ").replace(",", " ").split()}
            links = {decider} & names
        inside |= links if name in inside else set()
    return {line.partition(": ")[0] for line in region.lines if "pick.effect" in line} - inside


@pytest.mark.parametrize("seed", range(15))
def test_a_run_computes_what_a_plain_evaluator_asks_for(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    values = {"at": rng.randrange(5), "flag": rng.random() < 0.5, "word": rng.choice(["small", "big"])}
    top = Region("n", set(), outside=[("params.at", lambda: values["at"])])
    top.selectors = [("params.flag", "flag", lambda: values["flag"]), ("params.word", "text", lambda: values["word"])]
    grow(top, rng, 12)
    name, value = rng.choice(top.numbers)
    text = "\n".join(["params: {at: {type: float}, flag: {type: bool}, word: {type: str}}", "nodes:"])
    text += "".join(f"\n  {line}" for line in top.lines) + f"\noutputs: {{x: {name}}}"
    expected = value()
    numbers = dict(top.numbers)
    for effect in effects_outside_of_branches(top):
        numbers[effect]()
    for passes in (ALL_PASSES, ALL_PASSES - {"prune"}, frozenset()):
        assert run_choice(text, tmp_path, values, passes=passes).outputs == {"x": expected}
        noted = [item for item in ran if item != "size"]
        assert len(noted) == len({*noted})
        assert {*noted} >= top.met
        if passes == ALL_PASSES:
            assert {*noted} == top.met
    run_choice(text, tmp_path, values, only=["x"])


@pytest.mark.parametrize("seed", range(15))
def test_a_loop_computes_what_a_plain_evaluator_asks_for(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    values = {"at": rng.randrange(5), "flag": rng.random() < 0.5, "n": rng.randrange(4)}
    top = Region("n", set(), outside=[("params.at", lambda: values["at"])])
    top.selectors = [("params.flag", "flag", lambda: values["flag"])]
    grow(top, rng, 5)
    state: dict[str, Any] = {"i": 0}
    body = Region("m", set(), outside=[*top.numbers, ("carry.x", lambda: state["x"]), *top.outside])
    body.selectors = [*top.selectors, ("loop.index", "index", lambda: state["i"])]
    grow(body, rng, 10)
    start, after = rng.choice(top.outside + top.numbers), rng.choice(body.numbers)
    lines = [*top.lines, "work:", "  loop: {over: params.n, as: i}", f"  carry: {{x: {start[0]}}}", "  body:"]
    lines += [*(f"    {line}" for line in body.lines), f"  next: {{x: {after[0]}}}"]
    text = "params: {at: {type: float}, flag: {type: bool}, n: {type: int}}\nnodes:\n  "
    text += "\n  ".join(lines) + "\noutputs: {x: work.x}"
    state["x"] = start[1]()
    certain = effects_outside_of_branches(body)
    for i in range(values["n"]):
        body.memo.clear()
        state["i"] = i
        following = after[1]()
        for effect in certain:
            dict(body.numbers)[effect]()
        state["x"] = following
    for passes in (ALL_PASSES, frozenset()):
        assert run_choice(text, tmp_path, values, passes=passes).outputs == {"x": state["x"]}
        if passes == ALL_PASSES and values["n"]:
            assert {item for item in ran if item.startswith("m")} == body.met
