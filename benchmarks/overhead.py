"""Measure the engine's overhead per node on chains and fans of trivial nodes, beside Haystack's Pipeline and
Hamilton's Driver.

    python benchmarks/overhead.py [--sizes 100 1000 10000] [--peers]

Prints microseconds of CPU time a node, the best and the median of several rounds. A whole call is `workflow.run(x=…)`
with another x each time, with the cache in memory and without one; of the peers it is `run` or `execute`. The stages
apart are loading + validation, which a call does not repeat, planning, and the run of a plan. The engines take turns in
one process, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from guidegraph import node
from guidegraph.graph.execution.run import Attachments, run_plan
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.workflow import Workflow

INPUTS = count(1)
"""Another input for each call, so that no call finds its values in a cache."""


@node("chain.increment")
def increment(x: int = 0) -> int:
    """x + 1."""
    return x + 1


@node("chain.add")
def add(x: int, *, k: int) -> int:
    """x + k."""
    return x + k


@node("chain.total")
def total(values: Sequence[int]) -> int:
    """The sum of the values."""
    return sum(values)


def wide_yaml(n: int) -> str:
    """One node that n - 2 read, and one that reads all of those."""
    names = [f"n{i}" for i in range(1, n - 1)]
    lines = ["guidegraph: 1", "params: {x: 0}", "nodes:", "  n0: {use: chain.increment, in: {x: params.x}}"]
    lines += [f"  {name}: {{use: chain.add, in: {{x: n0}}, with: {{k: {k}}}}}" for k, name in enumerate(names)]
    lines += [f"  last: {{use: chain.total, in: {{values: [{', '.join(names)}]}}}}"]
    return "\n".join([*lines, "outputs: {out: last}", ""])


def chain_yaml(n: int) -> str:
    """A chain of n nodes."""
    lines = ["guidegraph: 1", "params: {x: 0}", "nodes:", "  n0: {use: chain.increment, in: {x: params.x}}"]
    lines += [f"  n{i}: {{use: chain.increment, in: {{x: n{i - 1}}}}}" for i in range(1, n)]
    return "\n".join([*lines, f"outputs: {{out: n{n - 1}}}", ""])


def seconds(call: Callable[[], object]) -> float:
    """The CPU seconds of a call: the clock would count the waits for other processes too."""
    started = time.process_time()
    call()
    return time.process_time() - started


def ours(n: int, folder: Path, own: bool = False, wide: bool = False) -> dict[str, Callable[[], object]]:
    """A whole call and its stages, each to be timed. wide: not a chain, but n - 2 nodes between a first and a last.

    own: the node counts as one that comes with guidegraph; around that of anybody else, the state of the process is
    read and put back.
    """
    path = folder / f"{'wide' if wide else 'chain'}{n}.yaml"
    path.write_text(wide_yaml(n) if wide else chain_yaml(n))
    owner = "guidegraph==0" if own else ""
    specs = [replace(get_spec(function), distribution=owner) for function in (increment, add, total)]
    registry = Registry({spec.id: spec for spec in specs})
    graph = build(path, registry)
    plan = compile_plan(graph, {"x": 0})
    cached, uncached = Workflow(graph), Workflow(graph, cache="off")
    expected = sum(range(1, n - 1)) if wide else n
    for workflow in (cached, uncached):
        if (found := workflow.run(x=0)["out"]) != expected:
            raise SystemExit(f"{path.stem} gave {found}, not {expected}")
    return {
        "whole call": lambda: cached.run(x=next(INPUTS)),
        "without cache": lambda: uncached.run(x=next(INPUTS)),
        "load+validate": lambda: build(path, registry),
        "plan": lambda: compile_plan(graph, {"x": 0}),
        "run": lambda: run_plan(plan, Attachments()),
    }


def haystack(n: int) -> Callable[[], object]:
    from haystack import Pipeline, component

    @component
    class Increment:
        @component.output_types(out=int)
        def run(self, x: int) -> dict[str, int]:
            return {"out": x + 1}

    pipeline = Pipeline()
    for i in range(n):
        pipeline.add_component(f"n{i}", Increment())
    for i in range(1, n):
        pipeline.connect(f"n{i - 1}.out", f"n{i}.x")
    return lambda: pipeline.run({"n0": {"x": next(INPUTS)}})


def hamilton(n: int) -> Callable[[], object]:
    from hamilton import driver

    module = types.ModuleType(f"chain_{n}")
    source = ["def n0(x: int) -> int:\n    return x + 1"]
    source += [f"def n{i}(n{i - 1}: int) -> int:\n    return n{i - 1} + 1" for i in range(1, n)]
    exec("\n".join(source), module.__dict__)
    sys.modules[module.__name__] = module
    for name, value in vars(module).items():
        if name.startswith("n") and callable(value):
            value.__module__ = module.__name__
    built = driver.Builder().with_modules(module).build()
    return lambda: built.execute([f"n{n - 1}"], inputs={"x": next(INPUTS)})


def list_peers() -> Iterator[tuple[str, int, dict[str, Callable[[], object]]]]:
    """The whole call of each peer at 100 and 1,000 nodes, by name and size; those that fail are named at once."""
    for name, make in (("haystack Pipeline", haystack), ("hamilton Driver", hamilton)):
        for n in (100, 1000):
            try:
                call = make(n)
                call()
            except RecursionError:
                print(f"{name:22} {n:>7}  recursion error")
            else:
                yield name, n, {"whole call": call}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", action="store_true", help="measure Haystack and Hamilton too (at 100 and 1,000)")
    options = parser.parse_args()
    packages = ["guidegraph", "torch", "networkx", *(["haystack-ai", "sf-hamilton"] if options.peers else [])]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages if _installed(p))
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"own node": (True, False), "own node, wide": (True, True), "third-party node": (False, False)}
        calls = {(name, n): ours(n, Path(folder), *kind) for name, kind in kinds.items() for n in options.sizes}
        if options.peers:
            calls |= {(name, n): stages for name, n, stages in list_peers()}
        times: dict[tuple[str, int, str], list[float]] = {}
        for _ in range(options.rounds):
            for (name, n), stages in calls.items():
                for stage, call in stages.items():
                    times.setdefault((name, n, stage), []).append(seconds(call) / n * 1e6)
        for name, n in calls:
            parts = "  ".join(
                f"{s} {min(times[name, n, s]):7.1f} (median {statistics.median(times[name, n, s]):.1f})"
                for s in calls[name, n]
            )
            print(f"{name:22} {n:>7}  {parts} us a node")
        small, large = min(options.sizes), max(options.sizes)
        for stage in ("whole call", "plan", "run"):
            ratio = min(times["own node", large, stage]) / min(times["own node", small, stage])
            print(f"{stage}, {large} : {small} nodes: ratio {ratio:.2f}")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
