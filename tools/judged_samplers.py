"""Run every sampler in every shipped sampling workflow, and rate the pictures with the shipped judges.

    python tools/judged_samplers.py [--only text_to_image …] [--samplers heun …] [--steps 10 30] [--pictures 8]

A cell changes one line of the workflow, the sampler's, and nothing else. Its pictures, eight by default, are judged:
scenes by the detector (all named objects found, and the right sky where the classifier guides it), clothes by their own
judge, maps and filled holes by the segmenter's mIoU. A cell fails where DDIM succeeds, with a figure of at least a
half, and its own figure is below half of DDIM's. Cells are kept in `--out` and not drawn again; `table.md` there is the
table of all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.nodes.images.image import resize_image
from guidegraph.nodes.models.store import load_part
from guidegraph_lab.metrics.metrics import mean_iou
from guidegraph_runtime.pictures.semantic_maps import OBJECTS, SKIES
from guidegraph_runtime.samplers.sampler import SAMPLERS
from guidegraph_scenes.datasets import scene
from guidegraph_scenes.detector import finds
from guidegraph_scenes.scenes import SKY_PHRASES

WORKFLOWS = Path(__file__).parents[1] / "workflows"
CPU = torch.device("cpu")
Judge = Callable[[dict[str, Any]], float]
Cells = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A workflow under one guidance: the parameters that say which, and who judges its pictures."""

    workflow: str
    guidance: str
    params: dict[str, Any]
    judge: Judge

    def __str__(self) -> str:
        return f"{self.workflow}, {self.guidance}"


def part(model: str, name: str) -> Any:
    return load_part(WORKFLOWS / "models" / model, name, device=CPU, dtype=torch.float32)


def columns(count: int = 8) -> list[Column]:
    """Every workflow under each guidance that it has, with so many pictures a cell."""
    data = scene(seed=20000, batch=count, split="held_out")
    skies = [i % 3 for i in range(count)]
    labels = [i % 10 for i in range(count)]
    example = scene(seed=2026, batch=18)
    label, semantic = example.label[17:], example.semantic[17:]
    detector, segmenter = part("detector", "detector"), part("segmenter", "segmenter")
    clothes = part("fashion_judge", "classifier")

    def named(label: Tensor) -> Judge:
        return lambda out: finds(detector(out["image"]), label.expand(count, -1)).objects.float().mean().item()

    def sky(out: dict[str, Any]) -> float:
        logits = detector(out["image"])
        matches = finds(logits, data.label).objects
        predictions = logits[:, len(OBJECTS) : len(OBJECTS) + len(SKIES)]
        right = predictions.argmax(1) == torch.tensor(skies)
        return (matches & right).float().mean().item()

    def garment(out: dict[str, Any]) -> float:
        predictions = clothes(grey(out["image"]), torch.zeros(count)).argmax(1)
        return (predictions == torch.tensor(labels)).float().mean().item()

    def any_garment(out: dict[str, Any]) -> float:
        sure = clothes(grey(out["image"]), torch.zeros(count)).softmax(1).amax(1)
        return (sure > 0.9).float().mean().item()

    def like_map(out: dict[str, Any]) -> float:
        return mean_iou(segmenter(out["image"]), semantic.expand(count, -1, -1, -1)).value

    prompts = {"prompt": list(data.caption), "batch": count}
    skyless = {"prompt": [remove_sky(caption) for caption in data.caption], "batch": count, "sky": skies}
    one_prompt = {"prompt": data.caption[0], "batch": count}
    clothes_of = {"label": labels, "batch": count}
    workflow_name = "text_and_classifier"
    return [
        Column("text_to_image", "none", prompts | {"scale": 1.0}, named(data.label)),
        Column("text_to_image", "CFG", prompts | {"scale": 4.0}, named(data.label)),
        Column(workflow_name, "none", skyless | {"scale": 1.0, "sky_scale": 0.0}, named(data.label)),
        Column(workflow_name, "CFG", skyless | {"scale": 4.0, "sky_scale": 0.0}, named(data.label)),
        Column(workflow_name, "classifier", skyless | {"scale": 1.0, "sky_scale": 4.0}, sky),
        Column(workflow_name, "both", skyless | {"scale": 4.0, "sky_scale": 4.0}, sky),
        Column("text_to_image_vq", "none", prompts | {"scale": 1.0}, named(data.label)),
        Column("text_to_image_vq", "CFG", prompts | {"scale": 4.0}, named(data.label)),
        Column("text_to_image_minilm", "none", one_prompt | {"scale": 1.0}, named(data.label[:1])),
        Column("text_to_image_minilm", "CFG", one_prompt | {"scale": 4.0}, named(data.label[:1])),
        Column("class_cfg", "none", clothes_of | {"scale": 1.0}, garment),
        Column("class_cfg", "CFG", clothes_of | {"scale": 2.0}, garment),
        Column("class_classifier_guidance_ddim", "none", clothes_of | {"scale": 0.0}, any_garment),
        Column("class_classifier_guidance_ddim", "classifier", clothes_of | {"scale": 3.0}, garment),
        Column("class_classifier_guidance_ddpm", "classifier", clothes_of | {"scale": 3.0}, garment),
        Column("semantic_to_image", "none", {"batch": count, "scale": 1.0}, like_map),
        Column("semantic_to_image", "CFG", {"batch": count, "scale": 1.5}, like_map),
        Column("inpaint", "none", {"batch": count}, like_map),
        Column("image_to_image", "none", {"batch": count, "scale": 1.0}, named(label)),
        Column("image_to_image", "CFG", {"batch": count, "scale": 3.0}, named(label)),
    ]


def remove_sky(prompt: str) -> str:
    """A prompt without the sky that it names, for a classifier that asks for another one."""
    for phrase in chain.from_iterable(SKY_PHRASES.values()):
        prompt = prompt.replace(phrase, "")
    return prompt.strip(" ,")


def grey(image: Tensor) -> Tensor:
    """Pictures of clothes (B, 3, H, W) as the judge sees them, (B, 1, 32, 32)."""
    small = image if image.shape[-1] == 32 else resize_image(image, size=32)
    return small.mean(1, keepdim=True)


def draw(column: Column, sampler: str, steps: int, folder: Path) -> dict[str, Any]:
    """One cell: the judge's figure, the number of warnings, or the message of a refusal."""
    text = (WORKFLOWS / f"{column.workflow}.yaml").read_text(encoding="utf-8")
    changed, count = re.subn(r"use: scheduler\.(ddim|ddpm),", f"use: scheduler.{sampler},", text)
    if count != 1:
        raise ValueError(f"{column.workflow}.yaml has {count} lines with its sampler")
    path = folder / f"{column.workflow}-{sampler}.yaml"
    path.write_text(changed, encoding="utf-8")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out = load_workflow(path).run(**column.params, steps=steps, seed=0)
    except (NodeError, WorkflowError, ValueError) as error:
        return {"refused": str(error)}
    return {"value": round(column.judge(out), 3), "warned": any("x̂0" in str(warning.message) for warning in caught)}


def table(cells: Cells, names: Iterable[str], samplers: Iterable[str], counts: Iterable[int]) -> str:
    """A markdown table a workflow: a row for each sampler, columns of guidance and steps; failures in bold."""
    lines: list[str] = []
    by_workflow: dict[str, list[str]] = {}
    for name in names:
        by_workflow.setdefault(name.split(",")[0], []).append(name)
    for workflow, group in by_workflow.items():
        heads = [f"{name.split(', ')[1]}, {steps}" for name in group for steps in counts]
        lines += [
            f"### `{workflow}`",
            "",
            "| sampler | " + " | ".join(heads) + " |",
            "| --- |" + " ---: |" * len(heads),
        ]
        for sampler in samplers:
            row = [_cell(cells, name, sampler, steps) for name in group for steps in counts]
            lines.append(f"| `{sampler}` | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(cells: Cells, name: str, sampler: str, steps: int) -> str:
    cell = cells.get(f"{name}, {sampler}, {steps}")
    if cell is None:
        return ""
    if "refused" in cell:
        return "refused"
    shown = f"{cell['value']:.1f}" if cell["value"] > 1 else f"{cell['value']:.2f}"
    shown += "!" if cell["warned"] else ""
    return f"**{shown}**" if fails(cells, name, sampler, steps) else shown


def fails(cells: Cells, name: str, sampler: str, steps: int) -> bool:
    """Whether a cell is below half of DDIM's figure although DDIM succeeds; a refusal is not a failure."""
    cell, best = cells[f"{name}, {sampler}, {steps}"], cells.get(f"{name}, ddim, {steps}", {})
    succeeds = best.get("value", 0) >= 0.5
    return "value" in cell and succeeds and cell["value"] < best["value"] / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORKFLOW")
    sampler_names = sorted(SAMPLERS.keys() - {"ddim"})
    parser.add_argument("--samplers", nargs="+", default=["ddim", *sampler_names])
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 30])
    parser.add_argument("--pictures", type=int, default=8, help="of a cell; take another --out for another number")
    parser.add_argument("--out", type=Path, default=Path("runs/judged"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "cells.json"
    cells: Cells = json.loads(store.read_text()) if store.is_file() else {}
    chosen = [
        column for column in columns(arguments.pictures) if not arguments.only or column.workflow in arguments.only
    ]
    for column in chosen:
        for steps in arguments.steps:
            for sampler in arguments.samplers:
                key = f"{column}, {sampler}, {steps}"
                if key not in cells:
                    cells[key] = draw(column, sampler, steps, arguments.out)
                    store.write_text(json.dumps(cells, indent=1, ensure_ascii=False))
                    print(key, cells[key], flush=True)
    names = [str(column) for column in chosen]
    text = table(cells, names, arguments.samplers, arguments.steps)
    (arguments.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    failed = [key for key in cells if fails(cells, *_split(key))]
    print(f"{len(cells)} cells, {len(failed)} fail: {failed}")


def _split(key: str) -> tuple[str, str, int]:
    workflow, guidance, sampler, steps = key.split(", ")
    return f"{workflow}, {guidance}", sampler, int(steps)


if __name__ == "__main__":
    main()
