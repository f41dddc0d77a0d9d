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
class Block:
    """Nodes of a block as YAML, each with a function that computes it lazily.

    memo: computed values by name. ran: the nodes that ran. outside: sources from outside the block.
    """

    prefix: str
    ran: set[str]
    outside: list[tuple[str, Value]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    numbers: list[tuple[str, Value]] = field(default_factory=list)
    selectors: list[tuple[str, str, Value]] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Value, *, record: bool = True) -> Value:
        def value() -> Any:
            if name not in self.memo:
                self.memo[name] = compute()
                self.ran |= {name} if record else set()
            return self.memo[name]

        return value


def add_nodes(block: Block, rng: random.Random, count: int) -> None:
    """Add nodes: numbers, texts and booleans made of them, and choices between numbers."""
    for i in range(count):
        name = f"{block.prefix}{i}"
        (link, number), (other, second) = (rng.choice([*block.outside, *block.numbers]) for _ in range(2))
        kind = rng.choice(["mark", "mark", "effect", "text", "flag", "choice", "choice", "choice"])
        if kind == "mark":
            plus = rng.randrange(3)
            block.lines.append(f"{name}: {{use: pick.mark, in: {{a: {link}}}, with: {{name: {name}, plus: {plus}}}}}")
            block.numbers.append((name, block.once(name, lambda n=number, p=plus: n() + p)))
        elif kind == "effect":
            block.lines.append(f"{name}: {{use: pick.effect, in: {{a: {link}}}, with: {{name: {name}}}}}")
            block.numbers.append((name, block.once(name, number)))
        elif kind == "text":
            block.lines.append(f"{name}: {{use: pick.size, in: {{a: {link}}}}}")
            text = block.once(name, lambda n=number: "big" if n() > 2 else "small", record=False)
            block.selectors.append((name, "text", text))
        elif kind == "flag":
            block.lines.append(f"{name}: {{use: pick.above, in: {{a: {link}}}}}")
            block.selectors.append((name, "flag", block.once(name, lambda n=number: n() > 2, record=False)))
        else:
            decider, of, decide = rng.choice(block.selectors)
            labels = {"flag": ("true", "false"), "text": ("small", "big"), "index": ("0", "otherwise")}[of]
            branches = f"{{{labels[0]}: {link}, {labels[1]}: {other}}}"
            if of == "index":
                branches = f"{{0: {link}}}, otherwise: {other}"
            block.lines.append(f"{name}: {{choose: {{when: {decider}, of: {branches}}}}}")
            first = {"flag": True, "text": "small", "index": 0}[of]
            chosen = lambda d=decide, f=first, a=number, b=second: (a if d() == f else b)()  # noqa: E731
            block.numbers.append((name, block.once(name, chosen, record=False)))


def find_effects_outside_branches(block: Block) -> set[str]:
    """The names of nodes with effects on which no branch depends, read from the YAML."""
    inside: set[str] = set()
    for line in reversed(block.lines):
        name, _, remaining = line.partition(": ")
        names = {n for n, _ in block.numbers} | {n for n, _, _ in block.selectors}
        links = {
            word for word in remaining.replace("{", " ").replace("}", " ").replace(",", " ").split() if word in names
        }
        if "choose" in remaining:
            decider = remaining.partition("when: ")[2].partition(",")[0]
            branches = remaining.partition("of: ")[2]
            inside |= {link for link in links if link in branches.replace("}", " ").replace(",", " ").split()}
            links = {decider} & names
        inside |= links if name in inside else set()
    return {line.partition(": ")[0] for line in block.lines if "pick.effect" in line} - inside


@pytest.mark.parametrize("seed", range(15))
def test_a_run_computes_the_same_nodes_as_a_plain_evaluator(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    values = {"at": rng.randrange(5), "flag": rng.random() < 0.5, "word": rng.choice(["small", "big"])}
    top = Block("n", set(), outside=[("params.at", lambda: values["at"])])
    top.selectors = [("params.flag", "flag", lambda: values["flag"]), ("params.word", "text", lambda: values["word"])]
    add_nodes(top, rng, 12)
    name, value = rng.choice(top.numbers)
    text = "\n".join(["params: {at: {type: float}, flag: {type: bool}, word: {type: str}}", "nodes:"])
    text += "".join(f"\n  {line}" for line in top.lines) + f"\noutputs: {{x: {name}}}"
    expected = value()
    numbers = dict(top.numbers)
    for effect in find_effects_outside_branches(top):
        numbers[effect]()
    for passes in (ALL_PASSES, ALL_PASSES - {"prune"}, frozenset()):
        assert run_choice(text, tmp_path, values, passes=passes).outputs == {"x": expected}
        noted = [item for item in ran if item != "size"]
        assert len(noted) == len({*noted})
        assert {*noted} >= top.ran
        if passes == ALL_PASSES:
            assert {*noted} == top.ran
    run_choice(text, tmp_path, values, only=["x"])


@pytest.mark.parametrize("seed", range(15))
def test_a_loop_computes_the_same_nodes_as_a_plain_evaluator(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    values = {"at": rng.randrange(5), "flag": rng.random() < 0.5, "n": rng.randrange(4)}
    top = Block("n", set(), outside=[("params.at", lambda: values["at"])])
    top.selectors = [("params.flag", "flag", lambda: values["flag"])]
    add_nodes(top, rng, 5)
    state: dict[str, Any] = {"i": 0}
    body = Block("m", set(), outside=[*top.numbers, ("carry.x", lambda: state["x"]), *top.outside])
    body.selectors = [*top.selectors, ("loop.index", "index", lambda: state["i"])]
    add_nodes(body, rng, 10)
    start, after = rng.choice(top.outside + top.numbers), rng.choice(body.numbers)
    lines = [*top.lines, "work:", "  loop: {over: params.n, as: i}", f"  carry: {{x: {start[0]}}}", "  body:"]
    lines += [*(f"    {line}" for line in body.lines), f"  next: {{x: {after[0]}}}"]
    text = "params: {at: {type: float}, flag: {type: bool}, n: {type: int}}\nnodes:\n  "
    text += "\n  ".join(lines) + "\noutputs: {x: work.x}"
    state["x"] = start[1]()
    certain = find_effects_outside_branches(body)
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
            assert {item for item in ran if item.startswith("m")} == body.ran
