"""Folders as ``guidegraph run`` and ``guidegraph sweep`` write them, without running anything."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from guidegraph_runtime.pictures.png import write_png

HOSTILE = "<script>alert(1)</script>"
WORKFLOW = """# a < b & <script>alert(1)</script>
guidegraph: 1
params: {seed: 0, batch: 2, scale: {default: 1.0, help: guidance scale}, kind: plain}
nodes:
  image: {use: toy.picture, in: {seed: params.seed, batch: params.batch}}
  start: {use: toy.number, in: {value: params.scale}}
  count: {use: toy.tensor, with: {values: [1, 2, 3]}}
  sample:
    loop: {over: count, as: t}
    carry: {x: start}
    body:
      step: {use: toy.add, in: {a: carry.x, b: start}}
    next: {x: step}
outputs: {image: image, end: sample.x}
"""
TIMINGS = {"nodes.image": 0.04, "nodes.start": 0.0002, "nodes.count": 0.0004, "nodes.sample": 0.91}


def record(folder: Path, parameters: dict[str, Any], outputs: dict[str, list[str]], **more: Any) -> dict[str, Any]:
    """The record of a run of ``WORKFLOW``."""
    file = str(folder / "draw.yaml")
    return {
        "format": 1,
        "status": "done",
        "error": None,
        "workflow": {"file": file, "name": "draw", "text": WORKFLOW, "sources": {file: WORKFLOW}},
        "parameters": parameters,
        "seeds": {"nodes.image": parameters.get("seed", 0)},
        "device": "cpu",
        "dtype": "float32",
        "outputs": {name: {"type": "Any", "files": files} for name, files in outputs.items()},
        "started": "2026-01-31T12:00:00+00:00",
        "seconds": 1.2,
        "nodes": {path: "loop" if path.endswith("sample") else "toy.some" for path in TIMINGS},
        "timings": TIMINGS,
        "loop_timings": {"nodes.sample.step": {"node": "toy.add", "calls": 3, "seconds": 0.88}},
        "origins": dict.fromkeys(TIMINGS, "computed"),
        "moves": [],
        "versions": {"guidegraph": "0.1.0", "torch": "2.9.0", "python": "3.12.1", "platform": "Linux"},
        **more,
    }


def picture(path: Path, seed: int, side: int = 32) -> None:
    """A picture of coloured waves."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * math.pi * (x * (seed % 3 + 1) + y * (k + 1) + seed / 7)) for k in range(3)]
    write_png(path, ((np.stack(waves, -1) + 1) * 127).astype(np.uint8), {"guidegraph": HOSTILE})


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def run_folder(folder: Path, **more: Any) -> Path:
    """A run with pictures, a table that has curves, numbers and a text."""
    folder.mkdir(parents=True)
    for i in range(2):
        picture(folder / f"image-000{i}.png", i, 96)
    curve = {
        "scale": [1.0, 2.0, 4.0, 8.0],
        "accuracy": [0.61, 0.78, 0.9, 0.93],
        "low": [0.5, 0.7, 0.86, 0.9],
        "high": [0.7, 0.85, 0.94, 0.96],
        "note": [HOSTILE, "b", "c", None],
    }
    write(folder / "curve.json", curve)
    write(folder / "fid.json", {"value": 12.345678, "low": 11.9, "high": 12.8})
    write(folder / "words.json", f"a text with {HOSTILE}")
    outputs = {
        "image": ["image-0000.png", "image-0001.png"],
        "curve": ["curve.json", "curve.md"],
        "fid": ["fid.json"],
        "words": ["words.json"],
        "latent": ["latent.safetensors"],
    }
    parameters = {"seed": 0, "batch": 2, "scale": 2.0, "prompt": f"{HOSTILE} a tiger on grass under a night sky"}
    write(folder / "run.json", {**record(folder, parameters, outputs), **more})
    return folder


def sweep_folder(folder: Path, seeds: int = 3, scales: tuple[float, ...] = (1.0, 1.5, 2.0, 4.0, 8.0)) -> Path:
    """A sweep over scale, kind and seed; one cell failed."""
    rows: list[dict[str, Any]] = []
    points = itertools.product(scales, ("plain", "apg"), range(seeds))
    for i, (scale, kind, seed) in enumerate(points):
        key, failed = f"{i:032x}", i == 4
        swept = {"scale": scale, "kind": kind, "seed": seed}
        shift = 0.4 * (kind == "apg") + 0.15 * ((seed * 7 + i) % 3 - 1)
        fid = None if failed else round(8 / scale + 0.6 * scale + shift, 4)
        accuracy = None if failed else round(1 - 0.5 / scale + shift / 20, 4)
        status = ("failed", f"nodes.sample.step (toy.add): {HOSTILE} is not a number") if failed else ("done", "")
        rows.append(
            {"cell": key, **swept, "status": status[0], "message": status[1], "seconds": 1.2}
            | {"fid": fid, "accuracy": accuracy, "image": None if failed else f"cells/{key}/image.png"}
        )
        cell = folder / "cells" / key
        if failed:
            write(cell / "failed.json", {"status": "failed", "error": status[1]})
            continue
        cell.mkdir(parents=True)
        picture(cell / "image.png", i)
        cell_record = record(cell, {**swept, "batch": 1}, {"image": ["image.png"], "end": ["end.json"]})
        write(cell / "end.json", fid)
        write(cell / "run.json", cell_record)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "tables").mkdir()
    (folder / "tables" / "by_class.csv").write_text("scale,class,accuracy\n1.0,coat,0.5\n1.0,boot,0.75\n")
    workflow = {"file": "draw.yaml", "text": WORKFLOW}
    write(folder / "sweep.json", {"workflow": workflow, "grid": {"scale": list(scales)}, "machine": {"cores": 2}})
    return folder
