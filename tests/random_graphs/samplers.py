"""Random sampling loops of built-in nodes with tiny networks, which `guidegraph export` supports."""

from __future__ import annotations

import random
from typing import Any

import yaml

from tests.random_graphs.generate import RandomGraph, registry

SOLVERS = ("ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "unipc", "lms")
SCHEDULES = ("linear", "scaled_linear", "cosine")
CHANNELS, SIDE, CLASSES = 3, 8, 4


def sampler_graph(seed: int) -> RandomGraph:
    """A workflow that samples from a network of random weights; sampler, schedule, guidance and outputs are random."""
    rng = random.Random(seed)
    guided = rng.random() < 0.7
    network = {
        "in_channels": CHANNELS, "channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "patch": 1,
        "seed": rng.randint(0, 9), "context_dim": None, "vector_dim": 8, "kind": rng.choice(("eps", "v")),
    }  # fmt: skip
    nodes: dict[str, Any] = {
        "denoiser": {"use": "model.unet", "with": network},
        "embedder": {"use": "model.label_embedder", "with": {"classes": CLASSES, "width": 8}},
        "label": {"use": "label.constant", "with": {"label": rng.randrange(CLASSES), "batch": 1}},
        "positive": {"use": "label.embed", "in": {"embedder": "embedder", "label": "label"}},
        "negative": {"use": "condition.null", "in": {"like": "positive"}},
        "schedule": {"use": f"schedule.{rng.choice(SCHEDULES)}", "with": {"train_steps": 50}},
        "scheduler": {
            "use": f"scheduler.{rng.choice(SOLVERS)}",
            "in": {"schedule": "schedule", "steps": "params.steps"},
        },
        "noise": {
            "use": "noise.gaussian",
            "in": {"seed": "params.seed"},
            "with": {"shape": [CHANNELS, SIDE, SIDE], "batch": 1},
        },
        "sample": _loop(rng, guided),
        "image": {"use": "image.from_sample", "in": {"sample": "sample.x"}},
    }
    params: dict[str, Any] = {"steps": rng.randint(3, 5), "seed": {"default": seed, "type": "int"}}
    params |= {"scale": float(rng.choice((2, 3.5)))} if guided else {}
    outputs = {"image": "image", **({"sample": "sample.x"} if rng.random() < 0.5 else {})}
    tree = {"guidegraph": 1, "params": params, "nodes": nodes, "outputs": outputs}
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
    return RandomGraph(seed, text, {}, {}, registry(), exportable=True)


def _loop(rng: random.Random, guided: bool) -> dict[str, Any]:
    inputs = {"denoiser": "denoiser", "x": "carry.x", "t": "loop.t"}
    body: dict[str, Any] = {"cond": {"use": "denoiser.predict", "in": {**inputs, "condition": "positive"}}}
    last = "cond"
    if guided:
        body["uncond"] = {"use": "denoiser.predict", "in": {**inputs, "condition": "negative"}}
        body["guided"] = {"use": "guidance.cfg", "in": {"cond": "cond", "uncond": "uncond", "scale": "params.scale"}}
        last = "guided"
        if rng.random() < 0.5:
            body["rescaled"] = {"use": "guidance.rescale", "in": {"guided": last, "cond": "cond"}, "with": {"phi": 0.5}}
            last = "rescaled"
    body["fresh"] = {"use": "noise.gaussian", "in": {"like": "carry.x", "index": "loop.index", "seed": "params.seed"}}
    step_inputs = {"scheduler": "scheduler.scheduler", "x": "carry.x", "prediction": last, "noise": "fresh"}
    body["step"] = {"use": "scheduler.step", "in": {**step_inputs, "state": "carry.state", "t": "loop.t"}}
    return {
        "loop": {"over": "scheduler.steps", "as": "t"},
        "carry": {"x": "noise", "state": "scheduler.state"},
        "body": body,
        "next": {"x": "step.x", "state": "step.state"},
    }
