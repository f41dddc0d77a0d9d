"""Measure the engine beside a bare PyTorch loop over the same network, for every shipped model.

    python benchmarks/bare_loop.py [--only NAME …] [--rounds 7] [--batches 1 8] [--threads 1]

Sampling: the loop of a shipped workflow, and the same sampler written by hand around the network's own `forward`, with
plain numbers for its coefficients and without checks, hooks, events, or noise that DDIM does not read. Other models: a
loop that calls the model's node for each of several batches, and a list comprehension; both stack the results, as
`collect` does. The sides take turns in one process. Their results are compared first. CPU time is measured, and that
inside the networks apart: it is the same work on both sides, and most of what varies on a busy machine. Prints for a
step, or for a call: the median time in the networks of all runs; the median time outside of them on each side; the
ratio of the sums, (network + engine) : (network + bare); and the median of the ratios of whole loops, round by round,
with its range. Machine and versions come last.
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
Side = Callable[[int], tuple[float, float, Any]]
"""Runs once, in a turn: the CPU seconds of its loop, those in the networks, and its result."""
Values = dict[str, Any]


class NetworkClock:
    """CPU seconds in methods of networks, since the last call of `read`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.watched: set[tuple[type, str]] = set()

    def watch(self, model: object, method: str = "forward") -> None:
        """Count the time in a method of the model's class."""
        kind = type(model)
        if (kind, method) in self.watched:
            return
        self.watched.add((kind, method))
        inner = getattr(kind, method)

        def timed(*arguments: Any, **by_name: Any) -> Any:
            began = time.process_time()
            result = inner(*arguments, **by_name)
            self.seconds += time.process_time() - began
            return result

        setattr(kind, method, timed)

    def read(self) -> float:
        """The seconds, which start over."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


CLOCK = NetworkClock()


@dataclass(frozen=True)
class Drawing:
    """A shipped workflow with its loop `sample`. extra: further values, as links, that the bare loop reads."""

    workflow: str
    extra: dict[str, str] = field(default_factory=dict)
    steps: int = 20


CFG = {"denoiser": "model.denoiser", "positive": "positive", "negative": "negative"}
SCENES = {"denoiser": "scenes.denoiser", "positive": "positive", "negative": "negative"}
SPATIAL = {"denoiser": "model.denoiser", "positive": "condition"}
CLASSIFIER = {"denoiser": "model.denoiser", "classifier": "guide.classifier", "schedule": "model.schedule"}
PLANNED = {"denoiser": "model.denoiser", "positive": "planned.positive", "negative": "planned.negative"}
DRAWINGS = {
    "scenes_128": Drawing("text_to_image_128.yaml", PLANNED),
    "variation_128": Drawing("image_to_image_128.yaml", CFG),
    "scenes": Drawing("text_to_image.yaml", CFG),
    "scenes_vq": Drawing("text_to_image_vq.yaml", CFG),
    "scenes_minilm": Drawing("text_to_image_minilm.yaml", SCENES),
    "scenes_sky": Drawing("text_and_classifier.yaml", CFG | CLASSIFIER | {"label": "sky"}),
    "semantic": Drawing("semantic_to_image.yaml", CFG),
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

    call: the part's call without the node. method: the part's method that it reaches.
    """

    folder: str
    part: str
    node: str
    ports: tuple[str, str]
    items: Callable[[int], Sequence[Any]]
    call: Callable[[Any, Any], Any] = lambda model, item: model(item)
    method: str = "forward"
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
        more_ports=", t: params.t",
    ),
    "scenes, encoder": Single(
        "scenes",
        "autoencoder",
        "autoencoder.encode",
        ("autoencoder", "image"),
        pictures(3, 64),
        lambda model, item: model.encode(item),
        "encode",
    ),
    "scenes, decoder": Single(
        "scenes",
        "autoencoder",
        "autoencoder.decode",
        ("autoencoder", "latent"),
        pictures(4, 16),
        lambda model, item: model.decode(item).clamp(-1, 1),
        "decode",
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
            CLOCK.read()  # without networks that ran before the loop
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
    params: Values = {"steps": drawing.steps, "batch": batch}
    values = {name.removeprefix("bare_"): value for name, value in workflow.run(**params).items()}
    values["settings"] = {
        name: workflow.graph.params[name].default
        for name in ("scale", "sky_scale", "low")
        if name in workflow.graph.params
    }
    CLOCK.watch(values["denoiser"].network)
    if "classifier" in values:
        CLOCK.watch(values["classifier"])
    seed = int(workflow.graph.params["seed"].default)

    def engine(turn: int) -> tuple[float, float, Any]:  # in turn 0 with the bare loop's noise; no run is in a cache
        CLOCK.read()
        run = workflow.run_with({**params, "seed": seed + turn * batch}, only=["latent"])
        return seconds[-1], CLOCK.read(), run.outputs["latent"]

    def bare(turn: int) -> tuple[float, float, Any]:
        CLOCK.read()
        began = time.process_time()
        latent = sample(values)
        return time.process_time() - began, CLOCK.read(), latent

    return {"engine": engine, "bare": bare}


@torch.no_grad()
def sample(values: Values) -> Tensor:
    """The sampler by hand: DDIM with classifier-free or classifier guidance, or without."""
    scheduler, denoiser = values["scheduler"], values["denoiser"]
    x: Tensor = values["start"]
    rows = list(zip(*(column.tolist() for column in (scheduler.t, scheduler.alpha, scheduler.sigma)), strict=True))
    predict = guided(values, x.shape[0])
    for (t, alpha, sigma), matrix in zip(rows, scheduler.matrix[:, 0].tolist(), strict=True):
        times = torch.full((1,), t)
        value = predict(x, times, t)
        if denoiser.kind == "eps":
            eps, x0 = value, (x - sigma * value) / alpha
        elif denoiser.kind == "flow":
            x0, eps = x - sigma * value, x + alpha * value
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


def guided(values: Values, batch: int) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The network's prediction at x and t, with both conditions in one call if there are two of equal sizes.

    Where the workflow has a last timestep with guidance, `low`, there is one call below it.
    """
    network, scale = values["denoiser"].network, values["settings"].get("scale", 1.0)
    conditions = [
        {name: None if value is None else value.expand(batch, *value.shape[1:]) for name, value in vars(each).items()}
        for each in (values[name] for name in ("positive", "negative") if name in values)
    ] or [{}]
    sizes = [[None if value is None else value.shape for value in each.values()] for each in conditions]
    if len(conditions) == 1:
        return lambda x, times, t: network(x, times.expand(batch), **conditions[0])
    positive, negative = conditions
    low = values["settings"].get("low", 0.0)
    if sizes[0] != sizes[1]:

        def predict_apart(x: Tensor, times: Tensor, t: float) -> Tensor:
            if t < low:
                return network(x, times.expand(batch), **positive)  # type: ignore[no-any-return]
            cond, uncond = (network(x, times.expand(batch), **condition) for condition in conditions)
            return combine(cond, uncond, scale)

        return predict_apart
    joined = {name: None if value is None else torch.cat([value, negative[name]]) for name, value in positive.items()}

    def predict(x: Tensor, times: Tensor, t: float) -> Tensor:
        if t < low:
            return network(x, times.expand(batch), **positive)  # type: ignore[no-any-return]
        cond, uncond = network(torch.cat([x, x]), times.expand(2 * batch), **joined).chunk(2)
        return combine(cond, uncond, scale)

    return predict


def combine(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6)."""
    return uncond + scale * (cond - uncond)


def score(values: Values, x: Tensor, t: Tensor) -> Tensor:
    """The gradient of the classifier's log-probability of the label at x, times its scale."""
    scale = values["settings"].get("sky_scale", values["settings"]["scale"])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = torch.log_softmax(values["classifier"](x, t.expand(x.shape[0])), dim=-1)
        chosen = log_p.gather(1, values["label"].expand(x.shape[0])[:, None]).sum()
        weighted: Tensor = scale * torch.autograd.grad(chosen, x)[0]
    return weighted


def single_sides(single: Single, batch: int) -> dict[str, Side]:
    """The engine and the bare loop of a part that is called once for each item."""
    model = load_part(MODELS / single.folder, single.part, device=torch.device("cpu"), dtype=torch.float32)
    CLOCK.watch(model, single.method)
    items = single.items(batch)
    ports = f"{single.ports[0]}: params.model, {single.ports[1]}: loop.item{single.more_ports}"
    text = f"""guidegraph: 1
params: {{model: {{type: Any}}, items: {{type: Any}}, t: {{type: Any}}}}
nodes:
  calls:
    loop: {{over: params.items, as: item}}
    body: {{out: {{use: {single.node}, in: {{{ports}}}}}}}
    collect: {{out: out}}
outputs: {{out: calls.out}}
"""
    workflow, seconds = timed_workflow(WORKFLOWS / "single.yaml", text, "calls")

    def engine(turn: int) -> tuple[float, float, Any]:
        CLOCK.read()
        out = workflow.run(model=model, items=items, t=torch.zeros(1))["out"]
        return seconds[-1], CLOCK.read(), out

    @torch.no_grad()
    def bare(turn: int) -> tuple[float, float, Any]:
        CLOCK.read()
        began = time.process_time()
        out = stack([single.call(model, item) for item in items])
        return time.process_time() - began, CLOCK.read(), out

    return {"engine": engine, "bare": bare}


def stack(outs: list[Any]) -> Any:
    """The results of all calls as one, as a loop of the engine collects them; a list if their sizes differ."""
    if isinstance(outs[0], Tensor):
        return torch.stack(outs) if all(out.shape == outs[0].shape for out in outs) else outs
    columns = {name: [vars(out)[name] for out in outs] for name in vars(outs[0])}
    return type(outs[0])(**{name: None if None in column else stack(column) for name, column in columns.items()})


def first_values(result: Any) -> Tensor:
    """The first tensor of a result, to compare the sides by."""
    if isinstance(result, list):
        return torch.stack([first_values(entry) for entry in result])
    if isinstance(result, Tensor):
        return result
    return next(value for value in vars(result).values() if isinstance(value, Tensor))


def compare(name: str, steps: int, batch: int, sides: dict[str, Side], rounds: int) -> None:
    """Print a row of the table."""
    engine, bare = (first_values(sides[side](0)[2]) for side in ("engine", "bare"))
    difference = float((engine - bare).abs().max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the results differ by {difference:.2g}, so the times cannot be compared")
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(1, rounds + 1):
        for side in sides if turn % 2 else reversed(sides):
            runs[side].append(sides[side](turn)[:2])
    network = statistics.median(inside for times in runs.values() for _, inside in times)
    outside = {side: statistics.median(whole - inside for whole, inside in times) for side, times in runs.items()}
    ratio = (network + outside["engine"]) / (network + outside["bare"])
    ratios = [ours / theirs for (ours, _), (theirs, _) in zip(runs["engine"], runs["bare"], strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    times = " | ".join(f"{1e6 * outside[side] / steps:.0f}" for side in ("engine", "bare"))
    row = f"{1000 * network / steps:.2f} | {times} | {ratio:.3f} | {spread} | {difference:.0e}"
    print(f"| {name} | {batch} | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*DRAWINGS, *SINGLES), default=[*DRAWINGS, *SINGLES])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| model | batch | network, ms | engine, µs | bare, µs | engine : bare | whole loops | differs by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.only:
        drawing = DRAWINGS.get(name)
        for batch in options.batches:
            sides = single_sides(SINGLES[name], batch) if drawing is None else drawing_sides(drawing, batch)
            compare(name, 8 if drawing is None else drawing.steps, batch, sides, options.rounds)
    print(f"\n{machine(options.threads)}")


if __name__ == "__main__":
    main()
