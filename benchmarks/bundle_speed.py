"""Measure sampling steps per second: a bundle in onnxruntime, and the engine, eager and with torch.compile.

    python benchmarks/bundle_speed.py --keep FOLDER [--models embedded 128 flow dit mmdit] [--batches 1 8] [--cpu]

The sides take turns in one process with equal threads. Only the loop of the workflow is timed, by
each side's own events: not loading, encoding and decoding, nor the first run, in which torch compiles and sessions are
created.
torch.compile has fixed shapes and, where no gradient is taken, frozen weights, which it then packs as the engine does.
`flow`, `dit`, `mmdit` and `128_mmdit` are the models that workflows/train/text_to_image_{flow,dit,mmdit,128_mmdit}.yaml
write. `large` is Stable Diffusion 1.5's U-Net (860 M parameters) with random weights in float32; its bundle takes
minutes to export, 4 GB of disk and 20 GB of memory. Bundles are exported once, into the folder given with --keep.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _pipelines import pipeline_folder

from guidegraph.graph.events import NodeFinished, NodeStarted
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.workflow import Workflow, load_workflow
from guidegraph_runtime import Bundle, SessionSettings

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SIDES = ("bundle", "eager", "compiled")
LARGEST_CACHE = 16 << 30
LATENT = [4, 16, 16]
Loop = Callable[..., tuple[float, Any]]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Model:
    """A workflow, its networks (outputs of nodes), the output that is compared, and the steps of a timed run."""

    workflow: Path
    networks: tuple[str, ...]
    output: str
    steps: int
    params: dict[str, Any] = field(default_factory=dict)


def models(folder: Path) -> dict[str, Callable[[], Model]]:
    def large() -> Model:
        arguments = {"checkpoint": pipeline_folder("large", folder), "shape": LATENT, "prompt": "a b c"}
        return Model(WORKFLOWS / "checkpoints/text_to_image.yaml", ("model.denoiser",), "latent", 2, arguments)

    def trained(name: str, workflow: str) -> Model:
        path = WORKFLOWS.parent / "runs" / f"scenes_{name}"
        if not (path / "model.json").exists():
            raise SystemExit(f"{path} is missing: run workflows/train/text_to_image_{name}.yaml")
        return Model(WORKFLOWS / workflow, ("model.denoiser",), "image", 20, {"model": str(path)})

    classifier = WORKFLOWS / "class_classifier_guidance_ddim.yaml"
    return {
        "embedded": lambda: Model(WORKFLOWS / "text_to_image.yaml", ("model.denoiser",), "image", 20),
        "128": lambda: Model(WORKFLOWS / "text_to_image_128.yaml", ("model.denoiser",), "image", 20),
        "128_mmdit": lambda: trained("128_mmdit", "text_to_image_128.yaml"),
        "classifier": lambda: Model(classifier, ("model.denoiser", "guide.classifier"), "image", 20),
        "mmdit": lambda: trained("mmdit", "text_to_image_mmdit.yaml"),
        "dit": lambda: trained("dit", "text_to_image_dit.yaml"),
        "flow": lambda: trained("flow", "text_to_image_mmdit.yaml"),  # a U-Net, with the condition of an MMDiT
        "large": large,
    }


def export_models(name: str, model: Model, folder: Path) -> Path:
    """The bundle of a model, made by the command line where it is not there yet."""
    path = folder / f"{name}-bundle"
    if not path.exists():
        print(f"exporting {name} …", flush=True)
        settings = [f"{key}={value}" for key, value in model.params.items()] + [f"steps={model.steps}"]
        options = [option for setting in settings for option in ("--set", setting)]
        command = [sys.executable, "-m", "guidegraph", "export", str(model.workflow), "-o", str(path), *options]
        subprocess.run([*command, "--only", model.output, "--no-reference"], check=True, stdout=subprocess.DEVNULL)
    return path


def engine_side(model: Model, compiled: bool, clock: Clock) -> Loop:
    """Runs of a workflow in the engine: the seconds of its loop, and the output."""
    source = model.workflow.read_text()
    names = {f"network{i}": network for i, network in enumerate(model.networks)}
    text = source.replace("outputs: {", f"outputs: {{{', '.join(f'{k}: {v}' for k, v in names.items())}, ")
    loops: list[float] = []
    began = 0.0

    def observe(event: object) -> None:
        nonlocal began
        if isinstance(event, NodeStarted) and event.path == "nodes.sample":
            began = clock()
        if isinstance(event, NodeFinished) and event.path == "nodes.sample":
            loops.append(clock() - began)

    workflow: Workflow = load_workflow(model.workflow, sources={str(model.workflow): text}, observers=[observe])
    # A memory of its own, in which the large network fits: what is compiled is not what the other side runs.
    workflow.attachments = replace(workflow.attachments, memory=MemoryCache(LARGEST_CACHE))
    if compiled:
        for network in workflow.run_with(model.params, only=[*names]).outputs.values():
            network.compile(dynamic=False, options={"freezing": True})

    def run(**arguments: Any) -> tuple[float, Any]:
        result = workflow.run_with({**model.params, **arguments}, only=[model.output]).outputs[model.output]
        return loops[-1], result.detach().numpy()

    return run


def bundle_side(model: Model, path: Path, threads: int, clock: Clock) -> Loop:
    """Runs of a bundle: the seconds of its loop, and the output."""
    bundle = Bundle(path, SessionSettings.on("cpu", intra_threads=threads))
    inputs = {name: value for name, value in model.params.items() if name in bundle.manifest.inputs}

    def run(**arguments: Any) -> tuple[float, Any]:
        ends = [("", clock())]
        result = bundle.run_with(
            {**inputs, **arguments}, finished=lambda operation, _: ends.append((operation.node, clock()))
        )
        index = next(i for i, (node, _) in enumerate(ends) if node == "sample")
        return ends[index][1] - ends[index - 1][1], result[model.output]

    return run


def compare(name: str, model: Model, batch: int, loops: dict[str, Loop], rounds: int) -> None:
    """Print one model's figures at one batch."""
    steps = model.steps
    seed = 0
    first = {side: loop(seed=seed, batch=batch, steps=steps)[1] for side, loop in loops.items()}
    peak = {side: float(np.abs(first["bundle"] - output).max()) for side, output in first.items()}
    seconds: dict[str, list[float]] = {side: [] for side in loops}
    for turn in range(rounds):
        seed += batch  # a run with the same seed would come from the engine's cache
        for side in list(loops) if turn % 2 else reversed(list(loops)):
            seconds[side].append(loops[side](seed=seed, batch=batch, steps=steps)[0])
    for side, times in seconds.items():
        speed = steps / statistics.median(times)
        ratios = [theirs / ours for ours, theirs in zip(seconds["bundle"], times, strict=True)]
        versus = f"bundle is {_range(ratios)} times as fast" if side != "bundle" else ""
        print(f"{name:<10} batch {batch}  {side:<8} {speed:8.3f} steps/s  {versus}", end="  ")
        print(f"differs by {peak[side]:.1e}" if side != "bundle" else "", flush=True)


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def machine(threads: int) -> str:
    names = ("guidegraph", "guidegraph-runtime", "torch", "onnxruntime-gpu", "onnxruntime", "numpy")
    packages = [f"{name} {importlib.metadata.version(name)}" for name in names if _installed(name)]
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), "")
    processor = f"{platform.machine()} {model}".strip()
    return f"{processor}, Python {platform.python_version()}, {', '.join(packages)}; threads: {threads}"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(models(Path())), default=["embedded", "classifier"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="count the time of the processor, for a shared machine")
    parser.add_argument("--keep", type=Path, help="the folder of the bundles; without it they are exported each time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock: Clock = time.process_time if options.cpu else time.perf_counter
    print(f"{machine(options.threads)}; {'processor' if options.cpu else 'wall-clock'} seconds")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            model = models(folder)[name]()
            bundle = export_models(name, model, folder)
            makers: dict[str, Callable[[], Loop]] = {
                "bundle": lambda model=model, bundle=bundle: bundle_side(model, bundle, options.threads, clock),  # type: ignore[misc]
                "eager": lambda model=model: engine_side(model, False, clock),  # type: ignore[misc]
                "compiled": lambda model=model: engine_side(model, True, clock),  # type: ignore[misc]
            }
            started = time.perf_counter()
            loops = {side: makers[side]() for side in SIDES if side in options.sides or side == "bundle"}
            for batch in options.batches:
                compare(name, model, batch, loops, options.rounds)
            print(f"{name}: {time.perf_counter() - started:.0f} s in all", flush=True)
            del loops, makers
            gc.collect()


if __name__ == "__main__":
    main()
