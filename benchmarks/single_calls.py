"""Measure whether a model that a run calls once gains by being a graph, beside what opening the graph takes.

    python benchmarks/single_calls.py [--only NAME ...] [--rounds 15] [--batches 1 8]

Text encoders on the tokens of prompts, an image embedder, and decoders, which `--accelerate` makes graphs. Each is
exported as the parts of accelerated runs are, into a temporary folder. CLIP has the shape of Stable Diffusion 1.5's
text encoder and random weights. MiniLM needs its package. Torch and the graph take turns in one process, and their
results are compared first. Prints the median CPU milliseconds of a call in torch and in the graph; of opening the
graph, which is to read and check its file, to create a session, and what its first call takes longer than the others;
and how many calls in a process pay for that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _pipelines import write_clip
from bundle_speed import machine
from torch import Tensor

from guidegraph.graph.acceleration.export_part import export_part
from guidegraph.graph.acceleration.onnx_backend import OnnxRunner
from guidegraph.graph.acceleration.part_values import compare, list_tensors
from guidegraph.graph.acceleration.store import GraphDescription, PartStore
from guidegraph.graph.export.partition.subgraph import PartInput, PartPlan
from guidegraph.graph.types import register_structured
from guidegraph.nodes.conditioning.text_pretrained import clip, minilm
from guidegraph.nodes.models.store import load_part

MODELS = Path(__file__).parents[1] / "workflows/models"
PROMPT = "a tiger on grass under a night sky"


@dataclass(frozen=True)
class Case:
    """A model's function of tensors, and its inputs at a batch of 1, whose leading axis is the batch."""

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]


def text_case(embedder: Any) -> Case:
    """A text encoder from the tokens of a prompt on."""
    if hasattr(embedder, "tokenize"):
        ids, mask = embedder.tokenize([PROMPT])
    else:
        from guidegraph.nodes.models.own.text_encoder import tokenize

        ids, mask = tokenize(embedder.tokenizer, [PROMPT])
    return Case(embedder.embed, (ids, mask))


def load(folder: str, part: str) -> Any:
    """A part of a shipped model."""
    return load_part(MODELS / folder, part, device=torch.device("cpu"), dtype=torch.float32)


def picture_case(function: Callable[..., Any], channels: int, side: int) -> Case:
    """A function of pictures or latents."""
    return Case(function, (torch.rand(1, channels, side, side, generator=torch.manual_seed(0)) * 2 - 1,))


CASES: dict[str, Callable[[Path], Case]] = {
    "scenes, text": lambda _: text_case(load("scenes", "text")),
    "MiniLM": lambda _: text_case(minilm(length=32)),
    "CLIP": lambda folder: text_case(clip(path=write_clip(folder / "clip"))),
    "variation, image": lambda _: picture_case(load("variation", "image"), 3, 64),
    "scenes, decoder": lambda _: picture_case(load("scenes", "autoencoder").decode, 4, 16),
    "scenes_128, decoder": lambda _: picture_case(load("scenes_128", "autoencoder").decode, 8, 16),
}


def export_case(case: Case, store: PartStore, key: str) -> None:
    """Export a case into a store, with a free batch."""
    outputs = tuple(f"out{i}" for i, _ in enumerate(list_tensors(case.function(*case.inputs))))
    inputs = tuple(PartInput(f"in{i}", x, ("B", *x.shape[1:])) for i, x in enumerate(case.inputs))
    plan = PartPlan("part", inputs, outputs, lambda *x: tuple(list_tensors(case.function(*x))), (), in_loop=True)
    store.add(key, *export_part(plan, [], "cpu", "float32"))


def open_graph(store: PartStore, key: str) -> OnnxRunner:
    """Read and check a graph, and create its session, as a new process does."""

    def fits(_: GraphDescription) -> bool:
        return True

    graph = store.find(key, fits)
    if graph is None:
        raise SystemExit(f"the graph of {key} was not kept in {store.folder}")
    return OnnxRunner(graph, "cpu")


def milliseconds(call: Callable[[], object]) -> float:
    """The CPU time of a call."""
    started = time.process_time()
    call()
    return 1000 * (time.process_time() - started)


def time_opening(store: PartStore, key: str, inputs: list[Tensor]) -> float:
    """The CPU time to open a graph and call it once."""
    return milliseconds(lambda: open_graph(store, key)(inputs))


def measure(case: Case, store: PartStore, key: str, batch: int, rounds: int) -> str:
    """The cells of a row: the times in torch, in the graph and to open it, and the calls that pay for that."""
    inputs = [x.expand(batch, *x.shape[1:]).contiguous() for x in case.inputs]
    first_calls = [time_opening(store, key, inputs) for _ in range(max(3, rounds // 5))]
    runner = open_graph(store, key)
    sides: dict[str, Callable[[], Any]] = {"torch": lambda: case.function(*inputs), "graph": lambda: runner(inputs)}
    if problem := compare(sides["graph"](), list_tensors(sides["torch"]())):
        raise SystemExit(f"{key}: {problem}")
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in list(sides) if turn % 2 else reversed(list(sides)):
            times[side].append(milliseconds(sides[side]))
    torch_ms, graph_ms = (statistics.median(times[side]) for side in sides)
    opening, gain = statistics.median(first_calls) - graph_ms, torch_ms - graph_ms
    calls = f"{opening / gain:.0f}" if gain > 0 else "never"
    return f"{torch_ms:.1f} | {graph_ms:.1f} | {opening:.0f} | {calls}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=[*CASES])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    register_structured()
    print("| model | batch | torch, ms | graph, ms | opening, ms | calls that pay for it |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        store = PartStore(Path(temporary) / "graphs")
        for name in options.only:
            case, key = CASES[name](Path(temporary)), name.replace(", ", "-")
            export_case(case, store, key)
            for batch in options.batches:
                print(f"| {name} | {batch} | {measure(case, store, key, batch, options.rounds)} |", flush=True)
    print(f"\n{machine(1)}")


if __name__ == "__main__":
    main()
