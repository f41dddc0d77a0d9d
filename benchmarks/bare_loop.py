"""Measure the engine beside a bare PyTorch loop over the same network, for every shipped model.

    python benchmarks/bare_loop.py [--only NAME …] [--rounds 7] [--batches 1 8] [--threads 1]

Sampling: the loop of a shipped workflow, and the same sampler written by hand around the network's own `forward`, with
plain numbers for its coefficients and without checks, hooks, events, or noise that DDIM does not read. Other models: a
loop that calls the model's node for each of several batches, and a list comprehension. The sides take turns in one
process. Their results are compared first. Prints the least CPU time of a step of each side, and the median of the
rounds' ratios, engine : bare, with its range: above 1 the engine is slower. The last line has the machine and versions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bundle_speed import machine
from torch import Tensor

from guidegraph.graph.events import NodeFinished, NodeStarted
from guidegraph.nodes.models.store import load_part
from guidegraph.workflow import Workflow, load_workflow

WORKFLOWS = Path(__file__).parents[1] / "workflows"
MODELS = WORKFLOWS / "models"
TOLERANCE = 2e-3
Side = Callable[[int], tuple[float, Any]]
"""Runs once, in a turn: the CPU seconds of its loop, and its result."""
Values = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A shipped workflow with its loop `sample`. extra: further values, as links, that the bare loop reads."""

    workflow: str
    extra: dict[str, str] = field(default_factory=dict)
    steps: int = 8
    has_batch: bool = True


CFG = {"denoiser": "model.denoiser", "positive": "positive", "negative": "negative"}
SCENES = {"denoiser": "scenes.denoiser", "positive": "positive", "negative": "negative"}
SPATIAL = {"denoiser": "model.denoiser", "positive": "condition"}
CLASSIFIER = {"denoiser": "model.denoiser", "classifier": "guide.classifier", "schedule": "model.schedule"}
DRAWINGS = {
    "scenes": Drawing("text_to_image.yaml", CFG),
    "scenes_vq": Drawing("text_to_image_vq.yaml", CFG),
    "scenes_minilm": Drawing("text_to_image_minilm.yaml", SCENES),
    "scenes_sky": Drawing("text_and_classifier.yaml", CFG | CLASSIFIER | {"label": "sky"}),
    "semantic": Drawing("semantic_to_image.yaml", CFG),
    "super_resolution": Drawing("super_resolution.yaml", SPATIAL, has_batch=False),
    "inpaint": Drawing("inpaint.yaml", SPATIAL),
    "variation": Drawing("image_to_image.yaml", SCENES),
    "fashion_class": Drawing("class_cfg.yaml", CFG),
    "fashion_unconditional, fashion_classifier": Drawing(
        "class_classifier_guidance_ddim.yaml", CLASSIFIER | {"label": "label"}
    ),
}


@dataclass(frozen=True)
class Single:
    """A part of a model folder that is called once for each item, by a node. ports: of the part and of the item.

    call: the part's call without the node, if it is not just the item.
    """

    folder: str
    part: str
    node: str
    ports: tuple[str, str]
    items: Callable[[int], Sequence[Any]]
    call: Callable[[Any, Any], Any] = lambda model, item: model(item)
    more_ports: str = ""


def pictures(channels: int, side: int) -> Callable[[int], Sequence[Tensor]]:
    """How to make 8 batches of pictures in [-1, 1]."""
    return lambda batch: torch.rand(8, batch, channels, side, side, generator=torch.manual_seed(0)) * 2 - 1


def prompts(batch: int) -> list[list[str]]:
    """8 batches of prompts."""
    return [[f"a tiger on grass under a night sky {number}"] * batch for number in range(8)]


def labels(batch: int) -> Tensor:
    """8 batches of labels."""
    return torch.arange(8 * batch).reshape(8, batch) % 10


SINGLES = {
    "detector": Single("detector", "detector", "detector.predict", ("detector", "image"), pictures(3, 64)),
    "segmenter": Single("segmenter", "segmenter", "segmenter.predict", ("segmenter", "image"), pictures(3, 64)),
    "fashion_judge": Single(
        "fashion_judge",
        "classifier",
        "classifier.predict",
        ("classifier", "x"),
        pictures(1, 32),
        lambda model, item: model(item, torch.zeros(1).expand(item.shape[0])),
        ", t: params.t",
    ),
    "scenes, encoder": Single(
        "scenes",
        "autoencoder",
        "autoencoder.encode",
        ("autoencoder", "image"),
        pictures(3, 64),
        lambda model, item: model.encode(item),
    ),
    "scenes, decoder": Single(
        "scenes",
        "autoencoder",
        "autoencoder.decode",
        ("autoencoder", "latent"),
        pictures(4, 16),
        lambda model, item: model.decode(item).clamp(-1, 1),
    ),
    "scenes, text": Single("scenes", "text", "text.encode", ("embedder", "prompt"), prompts),
    "variation, embedder": Single("variation", "image", "image.embed", ("embedder", "image"), pictures(3, 64)),
    "fashion_class, label": Single("fashion_class", "label", "label.embed", ("embedder", "label"), labels),
}


def timed_workflow(path: Path, text: str, loop: str) -> tuple[Workflow, list[float]]:
    """A workflow from its text, and the CPU seconds of its loop, which each run appends."""
    started: list[float] = []
    seconds: list[float] = []

    def observe(event: object) -> None:
        if isinstance(event, NodeStarted) and event.path == f"nodes.{loop}":
            started.append(time.process_time())
        elif isinstance(event, NodeFinished) and event.path == f"nodes.{loop}" and event.origin == "computed":
            seconds.append(time.process_time() - started[-1])

    return load_workflow(path, sources={str(path): text}, observers=[observe]), seconds


def drawing_sides(drawing: Drawing, batch: int) -> dict[str, Side]:
    """The engine and the bare loop of a workflow that draws."""
    path = WORKFLOWS / drawing.workflow
    read = {"scheduler": "scheduler.scheduler", "start": "start" if "start:" in path.read_text() else "noise"}
    links = {f"bare_{name}": link for name, link in (drawing.extra | read).items()} | {"latent": "sample.x"}
    head, _ = path.read_text().rsplit("outputs:", 1)
    text = f"{head}outputs: {{{', '.join(f'{name}: {link}' for name, link in links.items())}}}\n"
    workflow, seconds = timed_workflow(path, text, "sample")
    params: Values = {"steps": drawing.steps} | ({"batch": batch} if drawing.has_batch else {})
    values = {name.removeprefix("bare_"): value for name, value in workflow.run(**params).items()}
    values["scales"] = {
        name: workflow.graph.params[name].default for name in ("scale", "sky_scale") if name in workflow.graph.params
    }
    seed = int(workflow.graph.params["seed"].default)

    def engine(turn: int) -> tuple[float, Any]:  # the first run's noise is that of the bare loop; no run is in a cache
        run = workflow.run_with({**params, "seed": seed + turn * batch}, only=["latent"])
        return seconds[-1], run.outputs["latent"]

    def bare(turn: int) -> tuple[float, Any]:
        began = time.process_time()
        latent = sample(values)
        return time.process_time() - began, latent

    return {"engine": engine, "bare": bare}


@torch.no_grad()
def sample(values: Values) -> Tensor:
    """The sampler by hand: DDIM with classifier-free or classifier guidance, or without."""
    scheduler, denoiser, x = values["scheduler"], values["denoiser"], values["start"]
    rows = list(zip(*(column.tolist() for column in (scheduler.t, scheduler.alpha, scheduler.sigma)), strict=True))
    predict = guided(values, x.shape[0])
    for (t, alpha, sigma), matrix in zip(rows, scheduler.matrix[:, 0].tolist(), strict=True):
        times = torch.full((1,), t)
        value = predict(x, times)
        if denoiser.kind == "eps":
            eps, x0 = value, (x - sigma * value) / alpha
        else:
            x0, eps = alpha * x - sigma * value, sigma * x + alpha * value
        if "classifier" in values:
            eps = eps - sigma * score(values, x, times)
            x0 = (x - sigma * eps) / alpha
        if scheduler.clip is not None:
            x0 = x0.clamp(-scheduler.clip, scheduler.clip)
            eps = (x - alpha * x0) / sigma
        x = matrix[1] * x0 + matrix[2] * eps
    return x


def guided(values: Values, batch: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The network's prediction at x and t, with both conditions in one call if there are two."""
    network = values["denoiser"].network
    conditions = [values[name] for name in ("positive", "negative") if name in values]
    names = ("vector", "tokens", "mask", "spatial")

    def join(name: str) -> Tensor | None:
        fields = [getattr(condition, name) for condition in conditions]
        present = [value.expand(batch, *value.shape[1:]) for value in fields if value is not None]
        return torch.cat(present) if present else None

    joined = {name: join(name) for name in names}
    scale = values["scales"].get("scale", 1.0)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if len(conditions) < 2:
            alone: Tensor = network(x, t.expand(batch), **joined)
            return alone
        cond, uncond = network(torch.cat([x, x]), t.expand(2 * batch), **joined).chunk(2)
        combined: Tensor = uncond + scale * (cond - uncond)
        return combined

    return predict


def score(values: Values, x: Tensor, t: Tensor) -> Tensor:
    """The gradient of the classifier's log-probability of the label at x, times its scale."""
    scale = values["scales"].get("sky_scale", values["scales"]["scale"])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = torch.log_softmax(values["classifier"](x, t.expand(x.shape[0])), dim=-1)
        chosen = log_p.gather(1, values["label"].expand(x.shape[0])[:, None]).sum()
        return scale * torch.autograd.grad(chosen, x)[0]


def single_sides(single: Single, batch: int) -> dict[str, Side]:
    """The engine and the bare loop of a part that is called once for each item."""
    model = load_part(MODELS / single.folder, single.part, device=torch.device("cpu"), dtype=torch.float32)
    items = single.items(batch)
    ports = f"{single.ports[0]}: params.model, {single.ports[1]}: loop.item{single.more_ports}"
    text = f"""guidegraph: 1
params: {{model: {{type: Any}}, items: {{type: Any}}, t: {{type: Any, default: null}}}}
nodes:
  calls:
    loop: {{over: params.items, as: item}}
    body: {{out: {{use: {single.node}, in: {{{ports}}}}}}}
    collect: {{out: out}}
outputs: {{out: calls.out}}
"""
    workflow, seconds = timed_workflow(WORKFLOWS / "single.yaml", text, "calls")

    def engine(turn: int) -> tuple[float, Any]:
        out = workflow.run(model=model, items=items, t=torch.zeros(1))["out"]
        return seconds[-1], out

    @torch.no_grad()
    def bare(turn: int) -> tuple[float, Any]:
        began = time.process_time()
        outs = [single.call(model, item) for item in items]
        return time.process_time() - began, outs

    return {"engine": engine, "bare": bare}


def first_values(result: Any) -> Tensor:
    """The first tensor of a result, to compare the sides by."""
    if isinstance(result, list):
        return torch.stack([first_values(entry) for entry in result])
    if isinstance(result, Tensor):
        return result
    return next(value for value in vars(result).values() if isinstance(value, Tensor))


def compare(name: str, steps: int, batch: int, sides: dict[str, Side], rounds: int) -> None:
    """Print a row of the table."""
    engine, bare = (first_values(sides[side](0)[1]) for side in ("engine", "bare"))
    difference = float((engine - bare).abs().max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the results differ by {difference:.2g}, so the times cannot be compared")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(1, rounds + 1):
        for side in sides if turn % 2 else reversed(sides):
            seconds[side].append(sides[side](turn)[0])
    ratios = [ours / theirs for ours, theirs in zip(seconds["engine"], seconds["bare"], strict=True)]
    least = {side: 1000 * min(times) / steps for side, times in seconds.items()}
    added = f"{1000 * (least['engine'] - least['bare']):.0f}"
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
    least_ratio = least["engine"] / least["bare"]
    row = f"{least['engine']:.2f} | {least['bare']:.2f} | {added} | {least_ratio:.3f} | {spread} | {difference:.0e}"
    print(f"| {name} | {batch} | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*DRAWINGS, *SINGLES), default=[*DRAWINGS, *SINGLES])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| model | batch | engine, ms | bare, ms | added, µs | of the least | of each round | differs by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.only:
        drawing = DRAWINGS.get(name)
        for batch in options.batches if drawing is None or drawing.has_batch else [1]:
            sides = single_sides(SINGLES[name], batch) if drawing is None else drawing_sides(drawing, batch)
            compare(name, 8 if drawing is None else drawing.steps, batch, sides, options.rounds)
    print(f"\n{machine(options.threads)}")


if __name__ == "__main__":
    main()
