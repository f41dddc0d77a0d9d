"""Measure the gallery's text-to-image workflows beside classifier-free guidance at the same cost.

    python tools/gallery_table.py plugins/gallery/table.json         # measures the missing rows
    python tools/gallery_table.py plugins/gallery/table.json --show  # the table, as Markdown
    python tools/gallery_table.py FILE.json --flow FOLDER  # with an MMDiT that predicts a flow, of model.load

Each workflow draws held-out captions, picture i from the noise of seed i. A detector that was trained on real scenes,
and never saw a generator, says in how many pictures all named objects are found, and sky and ground; the kernel
distance (KID) to other real scenes is that of EfficientNet-lite0's features. The cost is what torch's counter of
floating-point operations counts in one picture, gradients included; classifier-free guidance is given the steps that
cost the same. A measurement that was stopped goes on where it was. With --flow, all workflows take the denoiser and the
schedule of that folder, and Euler's steps from σ = 1.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from guidegraph import load_workflow
from guidegraph.graph.paths import resolve_path
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.workflow import Workflow
from guidegraph_lab.metrics.features import efficientnet, extract_features
from guidegraph_lab.metrics.kid import kernel_distance
from guidegraph_lab.metrics.metrics import share
from guidegraph_runtime.files.atomic_write import atomic_path
from guidegraph_scenes.datasets import scene
from guidegraph_scenes.detector import detect, finds

ROOT = Path(__file__).parents[1]
STEPS, CHUNK = 30, 50
PLAIN = "CFG, s = 4"
"""The row with whose cost the dearer methods are compared."""
CAPTIONS, REFERENCES = 20_000, 30_000  # the seeds of the two sets of scenes


@dataclass(frozen=True)
class Method:
    """A row of the table: a workflow of a plugin (None: text_to_image.yaml of this repository) with its parameters."""

    name: str
    plugin: str | None
    params: dict[str, Any] = field(default_factory=dict)
    flow: Path | None = None

    @property
    def workflow(self) -> Workflow:
        path = ROOT / "workflows" / "text_to_image.yaml"
        plugins: tuple[str, ...] = ()
        if self.plugin is not None:
            module = f"guidegraph_{self.plugin}"
            path = ROOT / "plugins" / "gallery" / self.plugin / module / "text_to_image.yaml"
            plugins = (module,)
        sources = None if self.flow is None else {str(path): use_flow(path.read_text(encoding="utf-8"), self.flow)}
        return load_workflow(path, plugins=plugins, cache="off", sources=sources)


def use_flow(text: str, folder: Path) -> str:
    """A workflow of the gallery with the denoiser and the schedule of a model that predicts a flow."""
    changes = {
        "model.text": "scenes.text",
        "model.autoencoder": "scenes.autoencoder",
        "nodes:\n": """nodes:
  scenes: {use: model.load, with: {path: "pkg:scenes"}}
  levels: {use: levels.flow, in: {schedule: model.schedule, steps: params.steps}}
""",
        "{use: scheduler.ddim, in: {schedule: model.schedule, steps: params.steps}}": (
            "{use: scheduler.euler, in: {schedule: model.schedule, levels: levels}}"
        ),
        '"pkg:scenes", type: Path': f'"{folder.resolve()}", type: Path',
    }
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"this workflow has no '{old}' to replace for a flow")
        text = text.replace(old, new)
    return text


METHODS = (
    Method("no guidance", None, {"scale": 1.0}),
    Method("CFG, s = 2", None, {"scale": 2.0}),
    Method("CFG, s = 4", None, {"scale": 4.0}),
    Method("CFG, s = 8", None, {"scale": 8.0}),
    Method("APG, s = 4", "apg", {"scale": 4.0}),
    Method("APG, s = 8", "apg", {"scale": 8.0}),
    Method("CFG-Zero*, s = 4", "cfg_zero_star", {"scale": 4.0}),
    Method("CFG++, λ = 0.6", "cfgpp", {"scale": 0.6}),
    Method("dynamic thresholding, s = 8, mimics 4", "dynamic_thresholding", {"scale": 8.0}),
    Method("PAG alone, w = 2", "pag", {"scale": 1.0, "pag": 2.0}),
    Method("PAG, w = 2, with CFG, s = 2", "pag", {"scale": 2.0, "pag": 2.0}),
    Method("SEG alone, σ = 1, γ = 1", "seg", {"scale": 1.0, "seg": 1.0, "sigma": 1.0}),
    Method("SEG alone, σ = ∞, γ = 2", "seg", {"scale": 1.0, "seg": 2.0, "sigma": math.inf}),
    Method("SEG, σ = 1, γ = 1, with CFG, s = 2", "seg", {"scale": 2.0, "seg": 1.0, "sigma": 1.0}),
    Method("TPG alone, γ = 2", "tpg", {"scale": 1.0, "tpg": 2.0}),
    Method("TPG, γ = 2, with CFG, s = 2", "tpg", {"scale": 2.0, "tpg": 2.0}),
    Method("FreeU with CFG, s = 4", "freeu", {"scale": 4.0}),
    Method("autoguidance alone, w = 2", "autoguidance", {"weight": 2.0, "scale": 1.0}),
    Method("autoguidance, w = 2, with CFG, s = 2", "autoguidance", {"weight": 2.0, "scale": 2.0}),
    Method("universal, colour, s = 20, with CFG, s = 4", "universal", {"strength": 20.0, "scale": 4.0}),
)


FLOW_METHODS = (
    Method("no guidance", None, {"scale": 1.0}),
    Method("CFG, s = 2", None, {"scale": 2.0}),
    Method("CFG, s = 4", None, {"scale": 4.0}),
    Method("CFG, s = 8", None, {"scale": 8.0}),
    Method("APG, s = 4", "apg", {"scale": 4.0}),
    Method("CFG-Zero*, s = 4", "cfg_zero_star", {"scale": 4.0}),
    Method("CFG++, λ = 0.6", "cfgpp", {"scale": 0.6}),
    Method("SLG, w = 2.8, with CFG, s = 2", "slg", {"scale": 2.0, "sites": "skip.block.2"}),
    Method("NAG, φ = 5", "nag", {"scale": 1.0, "nag": 5.0}),
    Method("TPG alone, γ = 2", "tpg", {"scale": 1.0, "sites": "input.block.2"}),
    Method("TPG, γ = 2, with CFG, s = 2", "tpg", {"scale": 2.0, "sites": "input.block.2"}),
)
"""Those of an MMDiT; PAG and SEG need attention among the pixels alone, and FreeU skips, which it has not."""


class Operations(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas, those of gradients too.

    FlopCounterMode hooks into modules as well, which gradients taken inside of a node do not bear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def measure_cost(workflow: Workflow, params: Mapping[str, Any]) -> float:
    """Billions of floating-point operations for one picture, to two places."""
    counter = Operations()
    with counter:
        workflow.run(**params)
    return round(counter.total / 1e9, 2)


def describe_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them, which has no infinity."""
    return {name: str(value) if value in (math.inf, -math.inf) else value for name, value in params.items()}


def measure(method: Method, count: int, reference: torch.Tensor) -> dict[str, Any]:
    """Draw `count` captions and judge them."""
    data, judge = scene(seed=CAPTIONS, batch=count), load_model(path=resolve_path("pkg:detector", ROOT))
    workflow, pictures, started = method.workflow, [], time.perf_counter()
    for start in range(0, count, CHUNK):
        prompt = list(data.caption[start : start + CHUNK])
        params = {"steps": STEPS, **method.params, "prompt": prompt, "batch": len(prompt), "seed": start}
        pictures.append(workflow.run(**params)["image"])
    seconds = time.perf_counter() - started
    image = torch.cat(pictures)
    matches = finds(detect(judge.detector, image), data.label)
    objects, background = share(matches.objects), share(matches.background)
    kid = kernel_distance(extract_features(efficientnet(), image), reference)
    return {
        "method": method.name,
        "params": describe_params(method.params),
        "count": count,
        "gigaflops": measure_cost(method.workflow, {"steps": STEPS, **method.params}),
        "objects": [objects.value, objects.low, objects.high],
        "background": background.value,
        "kid": [kid.value, kid.error],
        "seconds": round(seconds / count, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--count", type=int, default=200, help="captions for each row")
    parser.add_argument("--only", help="measure the rows whose name contains this, again")
    parser.add_argument("--flow", type=Path, help="the folder of an MMDiT that predicts a flow")
    parser.add_argument("--show", action="store_true", help="print the table and measure nothing")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if arguments.table.exists():
        rows = {row["method"]: row for row in json.loads(arguments.table.read_text())}
    if not arguments.show:
        torch.set_num_threads(1)
        rows = measure_missing(rows, arguments)
    print(markdown([rows[name] for name in sort_rows(rows)]))


def measure_missing(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure the missing rows and add them; the file is written after each."""
    reference_scenes = scene(seed=REFERENCES, batch=1000)
    reference = extract_features(efficientnet(), reference_scenes.image)
    methods = METHODS if arguments.flow is None else [replace(m, flow=arguments.flow) for m in FLOW_METHODS]
    for method in methods:
        is_selected = arguments.only is not None and arguments.only in method.name
        if not is_selected and (arguments.only is not None or method.name in rows):
            continue
        rows[method.name] = measure(method, arguments.count, reference)
        print(json.dumps(rows[method.name]), flush=True)
        save(rows, arguments.table)
    for same in list_equal_costs(rows):
        if same.name not in rows:
            rows[same.name] = measure(replace(same, flow=arguments.flow), arguments.count, reference)
            print(json.dumps(rows[same.name]), flush=True)
            save(rows, arguments.table)
    return rows


def list_equal_costs(rows: Mapping[str, Mapping[str, Any]], steps: int = STEPS) -> Iterator[Method]:
    """Plain guidance in the steps that cost as much as each dearer method, which takes `steps`."""
    plain = rows.get(PLAIN)
    for row in list(rows.values()):
        if plain is None or row["gigaflops"] < 1.2 * plain["gigaflops"] or row["method"].startswith("CFG"):
            continue
        more = round(steps * row["gigaflops"] / plain["gigaflops"])
        yield Method(f"{PLAIN}, {more} steps", None, {"scale": 4.0, "steps": more})


def save(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the rows to a file of JSON. Either all of it is there, or the file as it was."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")


def sort_rows(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Plain rows and those of equal cost first, then the methods as they are listed here."""
    method_names = list(dict.fromkeys(method.name for method in (*METHODS, *FLOW_METHODS)))
    equal = sorted((name for name in rows if name not in method_names), key=lambda name: rows[name]["gigaflops"])
    return [n for n in method_names[:4] if n in rows] + equal + [n for n in method_names[4:] if n in rows]


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| method | GFLOP a picture | captions | all named objects found | sky and ground | KID · 1,000 |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        value, low, high = (100 * fraction for fraction in row["objects"])
        kid, error = row["kid"]
        lines.append(
            f"| {row['method']} | {row['gigaflops']:.1f} | {row['count']} | {value:.1f} % [{low:.1f}, {high:.1f}] | "
            f"{100 * row['background']:.1f} % | {kid:.2f} ± {error:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
