"""Measure how well pictures match their prompts, with a detector trained on real scenes and held-out pairs of objects.

    python benchmarks/prompt_fidelity.py [--count 400] [--scales 1 2 4 8] [--dtype bfloat16] [--json FILE]

The prompts are captions of composed scenes whose pairs of objects are held out of training. Ceilings: the scenes
themselves, and their reconstructions by the autoencoder. Floor: the pictures of scale 4 judged by other prompts.
Intervals are 95 %: Wilson's for one yes or no per picture, a bootstrap over pictures otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from guidegraph import load_workflow
from guidegraph.nodes.models.store import load_part
from guidegraph.nodes.training.batches import to_image
from guidegraph_scenes.scene_sprites import OBJECTS, SKIES
from guidegraph_scenes.scenes import compose_scene

WORKFLOWS = Path(__file__).parents[1] / "workflows"
PROMPT_SEED = 20_000  # neither the training data nor the detector's
FLOOR_SCALE = 4.0
Bools = NDArray[np.bool_]


class Rate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:5.1f} [{100 * self.low:5.1f}, {100 * self.high:5.1f}]"


class Scores(NamedTuple):
    """The detector's scores of a set of pictures, in the columns' order."""

    object_recall: Rate
    all_named: Rate
    background: Rate
    sky: Rate
    ground: Rate
    false_positives: Rate


COLUMNS = ("objects found", "all named found", "background", "sky", "ground", "false positives")


def wilson(hits: Bools, z: float = 1.96) -> Rate:
    """The share of `hits` with Wilson's interval."""
    n, p = len(hits), float(hits.mean())
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Rate(p, centre - half, centre + half)


def bootstrap(parts: NDArray[np.float64], wholes: NDArray[np.float64], rounds: int = 2000) -> Rate:
    """Σ parts / Σ wholes, with the interval from resampling pictures."""
    picks = np.random.default_rng(0).integers(0, len(parts), (rounds, len(parts)))
    shares = parts[picks].sum(1) / wholes[picks].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return Rate(float(parts.sum() / wholes.sum()), float(low), float(high))


def judge(detector: torch.nn.Module, pictures: torch.Tensor, labels: Bools) -> Scores:
    """Pictures (N, 3, 64, 64) in [-1, 1] against what their prompts name (N, K)."""
    with torch.no_grad():
        logits = torch.cat([detector(part) for part in pictures.split(100)]).float().numpy()
    objects, skies = len(OBJECTS), len(OBJECTS) + len(SKIES)
    seen, expected_objects = logits[:, :objects] > 0, labels[:, :objects]
    sky = logits[:, objects:skies].argmax(1) == labels[:, objects:skies].argmax(1)
    ground = logits[:, skies:].argmax(1) == labels[:, skies:].argmax(1)
    return Scores(
        object_recall=bootstrap((seen & expected_objects).sum(1).astype(float), expected_objects.sum(1).astype(float)),
        all_named=wilson((seen | ~expected_objects).all(1)),
        background=wilson(sky & ground),
        sky=wilson(sky),
        ground=wilson(ground),
        false_positives=bootstrap(
            (seen & ~expected_objects).sum(1).astype(float), (~expected_objects).sum(1).astype(float)
        ),
    )


def draw(workflow: Any, prompts: list[str], scale: float, steps: int, batch: int) -> torch.Tensor:
    """One picture for each prompt, through the shipped workflow; picture i has seed i at every scale."""
    pictures = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        image = workflow.run(prompt=part, batch=len(part), scale=scale, steps=steps, seed=first)["image"]
        pictures.append(image.float())
    return torch.cat(pictures)


def machine() -> str:
    """The machine and the versions of the measurement."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{len(names)} × {names[0]}" if names else cpu
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("guidegraph", "torch", "numpy"))
    return f"{cpu}; Python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--dtype", default="float32", help="of the networks: float32 or bfloat16")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()

    scenes = [compose_scene(PROMPT_SEED, i, split="held_out") for i in range(options.count)]
    labels = np.stack([scene.labels for scene in scenes])
    prompts = [scene.caption for scene in scenes]
    cpu = torch.device("cpu")
    detector = load_part(WORKFLOWS / "models" / "detector", "detector", device=cpu, dtype=torch.float32)
    autoencoder: Any = load_part(WORKFLOWS / "models" / "scenes", "autoencoder", device=cpu, dtype=torch.float32)
    real = to_image(np.stack([scene.image for scene in scenes]))
    with torch.no_grad():
        rebuilt = torch.cat([autoencoder.decode(autoencoder.encode(part)).clamp(-1, 1) for part in real.split(100)])

    rows: dict[str, Scores] = {
        "real scenes": judge(detector, real, labels),
        "autoencoder's reconstructions": judge(detector, rebuilt, labels),
    }
    workflow = load_workflow(WORKFLOWS / "text_to_image.yaml", dtype=options.dtype, cache="off")
    began = time.perf_counter()
    for scale in options.scales:
        pictures = draw(workflow, prompts, scale, options.steps, options.batch)
        rows[f"scale {scale:g}"] = judge(detector, pictures, labels)
        if scale == FLOOR_SCALE:
            rows[f"scale {scale:g}, shuffled prompts"] = judge(detector, pictures, np.roll(labels, 1, axis=0))
    seconds = time.perf_counter() - began

    print(machine())
    print(
        f"{options.count} prompts with held-out pairs, DDIM {options.steps} steps, {options.dtype}, "
        f"{len(options.scales)} scales in {seconds:.0f} s; per cent with 95 % intervals"
    )
    print(f"\n| pictures | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    for name, scores in rows.items():
        print(f"| {name} | {' | '.join(map(str, scores))} |")
    if options.json is not None:
        figures = {name: {key: list(rate) for key, rate in scores._asdict().items()} for name, scores in rows.items()}
        options.json.write_text(json.dumps({"machine": machine(), "rows": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
