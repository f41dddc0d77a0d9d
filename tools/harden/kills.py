"""Kill runs, sweeps, trainings and exports with SIGKILL: no file is half-written, and a restart gives the result of an
uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph.commands import main
from tools.harden.children import fork_child, run_child, wait_for

ROOT = Path(__file__).parents[2]
SECONDS = 300.0

DRAW = """
guidegraph: 1
params: {seed: 0}
nodes:
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [3, 96, 96], batch: 6}}
  image: {use: image.from_sample, in: {sample: noise}}
outputs: {image: image, noise: noise}
"""
DECODE = """
guidegraph: 1
params: {seed: 0}
nodes:
  model: {use: model.autoencoder, with: {channels: 8}}
  noise: {use: noise.gaussian, in: {seed: params.seed}, with: {shape: [4, 8, 8]}}
  latent: {use: tensor.as_latent, in: {tensor: noise}}
  image: {use: autoencoder.decode, in: {autoencoder: model, latent: latent}}
outputs: {image: image}
"""


@dataclass(frozen=True)
class Subject:
    """A command to kill, in its own folder. result: reads from the folder the result that must not change."""

    name: str
    arguments: tuple[str, ...]
    result: Callable[[Path], Mapping[str, Any]]


def try_kills(count: int, folder: Path, say: Callable[[str], object]) -> Counter[str]:
    """Kill each kind of command at random times of its run; print and count the failures."""
    ends: Counter[str] = Counter()
    for subject in _subjects(folder):
        reference = folder / f"{subject.name}-whole"
        reference.mkdir()
        started = time.monotonic()
        unbroken = run_child(main, subject.arguments, reference, SECONDS)
        took = time.monotonic() - started
        if unbroken.code != 0:
            raise RuntimeError(f"{subject.name} fails without being killed: {unbroken.out}")
        expected = subject.result(reference)
        for seed in range(count):
            place = folder / f"{subject.name}-{seed}"
            place.mkdir()
            wrong = _kill_once(subject, place, took * random.Random(seed).uniform(0.02, 1.05), expected)
            ends[f"{subject.name}: {wrong.partition(':')[0] or 'whole'}"] += 1
            if wrong:
                say(f"{subject.name}, kill {seed}: {wrong}")
            shutil.rmtree(place)
    return ends


def _kill_once(subject: Subject, place: Path, after: float, expected: Mapping[str, Any]) -> str:
    """Describe the failure after one kill or the following run; empty if there was none."""
    with open(os.devnull, "wb") as nothing:
        child = fork_child(main, subject.arguments, place, nothing.fileno())
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        wait_for(child, SECONDS)
    for path in sorted(path for path in place.rglob("*") if path.is_file() and not _is_temporary(path)):
        if problem := _damage(path):
            return f"half-written: {path.relative_to(place)}: {problem}"
    again = run_child(main, subject.arguments, place, SECONDS)
    if again.code != 0:
        return f"no second start: {again.code}: {again.out[-400:]}"
    result = subject.result(place)
    if result != expected:
        differing = [name for name in {*result, *expected} if result.get(name) != expected.get(name)]
        return f"another result: {differing}"
    left = [path.name for path in place.rglob("*") if _is_temporary(path)]
    return f"left behind: {left}" if left else ""


def _is_temporary(path: Path) -> bool:
    """Whether a file is a lock, or one that is written before it gets its own name: .sheet-….tmp.png, say."""
    return path.name.startswith(".") and (".tmp" in path.name or path.suffix == ".lock")


def _damage(path: Path) -> str:
    """Describe why a file with its final name is incomplete."""
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".png":
                from PIL import Image

                with Image.open(path) as picture:
                    picture.load()
            case ".safetensors":
                from safetensors import safe_open

                with safe_open(path, "np") as file:
                    list(file.keys())
            case ".onnx":
                import onnx

                onnx.load(path, load_external_data=False)
            case _:
                return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _subjects(folder: Path) -> list[Subject]:
    draw, decode, train = (folder / f"{name}.yaml" for name in ("draw", "decode", "train"))
    draw.write_text(DRAW)
    decode.write_text(DECODE)
    text = (ROOT / "workflows" / "train" / "class_judge.yaml").read_text()
    train.write_text(text.replace("every: 250", "every: 1").replace("channels: 24", "channels: 8"))
    small = ("--set", "steps=8", "--set", "batch=4", "--set", "path=model", "--set", "checkpoint=state")
    return [
        Subject("run", ("run", str(draw), "--out", "out", "--quiet"), _outputs),
        Subject("sweep", ("sweep", str(draw), "--seeds", "0:3", "--out", "out"), _cells),
        Subject("training", ("run", str(train), *small, "--out", "out", "--quiet"), _trained_result),
        Subject("export", ("export", str(decode), "-o", "bundle"), _bundle),
    ]


def _outputs(place: Path) -> dict[str, Any]:
    return {
        path.name: path.read_bytes() for path in (place / "out").iterdir() if path.suffix in (".png", ".safetensors")
    }


def _cells(place: Path) -> dict[str, Any]:
    from PIL import Image

    pictures: dict[str, Any] = {}
    for path in (place / "out").rglob("image-*.png"):
        with Image.open(path) as picture:
            pictures[str(path.relative_to(place))] = picture.tobytes()
    return pictures


def _trained_result(place: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    loss = load_file(place / "out" / "loss.safetensors")
    weights = load_file(place / "model" / "classifier.safetensors")
    return {name: array.tobytes() for name, array in {**loss, **weights}.items()}


def _bundle(place: Path) -> dict[str, Any]:
    manifest = json.loads((place / "bundle" / "bundle.json").read_text())
    return {"plan": manifest["plan"], "parts": sorted(manifest["parts"]), "inputs": manifest["inputs"]}
