"""The built-in nodes and port types: they come in through the hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.graph.types import Tensor
from guidegraph.plugins.hookspecs import hookimpl

MODULES = (
    "adversarial",
    "autoencoder",
    "checkpoint",
    "classifier",
    "clock",
    "coding",
    "condition",
    "datasets",
    "denoiser",
    "detector",
    "edm",
    "extractors",
    "features",
    "fidelity",
    "folder",
    "frechet",
    "guidance",
    "image",
    "label",
    "latents",
    "levels",
    "lora",
    "losses",
    "mask",
    "metrics",
    "model",
    "named_scheduler",
    "noise",
    "onnx",
    "plot",
    "pretrained",
    "prompt",
    "sampling",
    "schedule",
    "scheduler",
    "scheduler_distilled",
    "scheduler_exponential",
    "semantic",
    "similarity",
    "step",
    "step_context",
    "table",
    "tensor",
    "text",
    "tiling",
    "vq",
)

TYPES = (
    "Autoencoder",
    "Classifier",
    "Condition",
    "ConditionAdapter",
    "Denoiser",
    "Discriminator",
    "FeatureExtractor",
    "HookedDenoiser",
    "Image",
    "ImageEmbedder",
    "Label",
    "LabelEmbedder",
    "Latent",
    "Levels",
    "Mask",
    "Moments",
    "Noise",
    "OpaqueDenoiser",
    "Prediction",
    "Sample",
    "Schedule",
    "Scheduler",
    "SchedulerState",
    "Score",
    "Segmenter",
    "SemanticEmbedder",
    "SemanticMap",
    "StepContext",
    "Table",
    "TextEmbedder",
    "Timesteps",
)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    functions: list[Callable[..., Any]] = []
    for name in MODULES:
        full = f"guidegraph.nodes.{name}"
        module = import_module(full)
        functions += [f for f in vars(module).values() if hasattr(f, SPEC_ATTRIBUTE) and f.__module__ == full]
    return functions


@hookimpl
def guidegraph_types() -> list[type]:
    modules = (import_module(f"guidegraph.nodes.{name}") for name in ("types", "frechet", "hooks", "step_context"))
    classes = {name: value for module in modules for name, value in vars(module).items()}
    return [Tensor, *(classes[name] for name in TYPES)]
