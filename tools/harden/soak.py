"""Runs on four threads of one process, of workflows and of bundles: every result is that of a run alone."""

from __future__ import annotations

import random
import resource
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 4
TOLERANCE = 2 / 255
"""Of a picture in [-1, 1]; one of another seed is further away by far."""

Run = Callable[[Mapping[str, Any]], Any]


def soak(count: int, folder: Path, say: Callable[[str], object]) -> Counter[str]:
    """So many runs of a workflow and so many of its bundle, on four threads, with any seed, scale and prompt."""
    import guidegraph
    from guidegraph.commands import main
    from guidegraph_runtime.running.bundle import Bundle
    from tools.harden.children import run_child

    path = Path(__file__).parents[2] / "workflows" / "text_to_image.yaml"
    ended = run_child(main, ("export", str(path), "-o", "bundle", "--set", "steps=2", "--no-reference"), folder, 1200)
    if ended.code != 0:
        raise RuntimeError(f"the export fails: {ended.out}")
    workflow, bundle = guidegraph.load_workflow(path), Bundle(folder / "bundle")
    fixed = set(bundle.manifest.fixed)
    ends: Counter[str] = Counter()
    runs: dict[str, Run] = {
        "workflow": lambda params: workflow.run(**params)["image"].numpy(),
        "bundle": lambda params: bundle.run(**{k: v for k, v in params.items() if k not in fixed})["image"],
    }
    choices = [_params(seed) for seed in range(12)]
    references = {name: [run(params) for params in choices] for name, run in runs.items()}
    for name, run in runs.items():
        before = _resident()
        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [(i % len(choices), pool.submit(_one, run, choices[i % len(choices)])) for i in range(count)]
            for which, job in jobs:
                ends[f"{name}: {_compare(job.result(), references[name][which], say, name, which)}"] += 1
        say(f"{name}: {count} runs, memory grew by {(_resident() - before) / 1e6:.0f} MB at most")
    return ends


def _one(run: Run, params: Mapping[str, Any]) -> Any:
    try:
        return run(params)
    except Exception as error:
        return error


def _compare(result: Any, reference: Any, say: Callable[[str], object], name: str, which: int) -> str:
    if isinstance(result, Exception):
        say(f"{name}, parameters {which}: {type(result).__name__}: {result}")
        return "failed"
    if result.shape != reference.shape or float(np.abs(result - reference).max()) > TOLERANCE:
        say(f"{name}, parameters {which}: another picture")
        return "another picture"
    return "the same picture"


def _params(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    prompt = rng.choice(["a tiger on grass", "a house in the snow", "an elephant on sand"])
    return {"prompt": prompt, "seed": rng.randrange(1000), "scale": rng.choice([1.0, 2.0, 4.0]), "steps": 2}


def _resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
