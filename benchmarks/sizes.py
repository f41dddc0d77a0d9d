"""Measure steps per second at several picture sizes in one process, in every order, beside those of a fresh process.

    python benchmarks/sizes.py [--sizes 4 8 12 16 20] [--steps 2] [--rounds 4] [--orders 120]

The denoiser of `pkg:scenes` takes a step of classifier-free guidance, two forwards, at latents of n × n. One process
goes through the orders; before each of them it forgets what it packed, as if it had just started, and in each it draws
at all sizes, one after the other. Between them, a fresh process for each size draws at that size alone, `rounds` times.
What counts is the least CPU time of `steps` steps, so that other work on the machine counts little; the first step
at a size of an order, in which weights are packed, is left out. Prints for each size a fresh process' steps a second,
and what the process of all orders reaches of it: in the median, and in the slowest order.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bundle_speed import machine

from guidegraph.graph.paths import resolve_path
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.nodes.models.networks import packed_convolution
from guidegraph.nodes.models.networks.packed_convolution import PackCache

MODEL = "pkg:scenes"
CHANNELS = 4


def sampling_step() -> Callable[[int], None]:
    """A function that takes one step at a size of the latent."""
    model = load_model(path=resolve_path(MODEL, Path.cwd()))
    conditions = [model.text(["a tiger on grass under a night sky"]), model.text([""])]

    @torch.no_grad()
    def step(size: int) -> None:
        x, t = torch.zeros(1, CHANNELS, size, size), torch.full((1,), 500)
        for condition in conditions:
            model.denoiser(x, t, condition)

    return step


def least_seconds(step: Callable[[int], None], size: int, steps: int) -> float:
    """The least CPU time of a step at a size, after one that is not counted."""
    times: list[float] = []
    for _ in range(steps + 1):
        start = time.process_time()
        step(size)
        times.append(time.process_time() - start)
    return min(times[1:])


def fresh_seconds(size: int, steps: int) -> float:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", "--steps", str(steps), "--sizes", str(size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def draw_orders(sizes: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Some of the orders of the sizes, each once, drawn by a seed; all of them if there are no more."""
    generator = random.Random(0)
    orders: dict[tuple[int, ...], None] = {}
    while len(orders) < min(count, math.factorial(len(sizes))):
        orders[tuple(generator.sample(sizes, len(sizes)))] = None
    return list(orders)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 12, 16, 20])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4, help="fresh processes for each size")
    parser.add_argument("--orders", type=int, default=120, help="how many of the orders, drawn by a seed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = sampling_step()
    if options.child:
        print(least_seconds(step, options.sizes[0], options.steps))
        return
    orders = draw_orders(options.sizes, options.orders)
    fresh: dict[int, list[float]] = {size: [] for size in options.sizes}
    after: dict[int, list[float]] = {size: [] for size in options.sizes}
    for number, order in enumerate(orders):
        if number % max(1, len(orders) // options.rounds) == 0:
            for size in options.sizes:
                fresh[size].append(fresh_seconds(size, options.steps))
        packed_convolution.CACHE = PackCache(packed_convolution.SPARE, packed_convolution.measure_layout)
        for size in order:
            after[size].append(least_seconds(step, size, options.steps))
    print(f"CPU time of a step of {MODEL} at {len(options.sizes)} sizes, in {len(orders)} orders in one process\n")
    print("| latent | fresh process: ms | steps/s | all orders: ms | of fresh: median | slowest order |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        alone, median, most = statistics.median(fresh[size]), statistics.median(after[size]), max(after[size])
        row = f"{1000 * alone:.1f} | {1 / alone:.1f} | {1000 * median:.1f} | {alone / median:.2f} | {alone / most:.2f}"
        print(f"| {size} × {size} | {row} |")
    kept = packed_convolution.CACHE
    print(f"\n{len(kept)} packed weights; spare copies in other layouts: {kept.spare_bytes / 1e6:.1f} MB")
    print(machine(1))


if __name__ == "__main__":
    main()
