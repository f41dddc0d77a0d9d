"""The built-in nodes and port types: they come in through the hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.graph.types import Tensor
from guidegraph.plugins.hookspecs import hookimpl

MODULES = (
    "checkpoints.checkpoint",
    "checkpoints.sampling",
    "conditioning.condition",
    "conditioning.label",
    "conditioning.mask",
    "conditioning.semantic",
    "conditioning.text",
    "conditioning.text_pretrained",
    "conditioning.text_prompt",
    "data.datasets",
    "data.folders.folder",
    "data.latents",
    "guidance.classifier_predict",
    "guidance.guidance",
    "guidance.step_context",
    "images.autoencoder",
    "images.image",
    "images.tiling",
    "images.vq",
    "metrics.coding_rate_distortion",
    "metrics.detector",
    "metrics.features",
    "metrics.fidelity",
    "metrics.frechet",
    "metrics.kid",
    "metrics.metrics",
    "metrics.plot",
    "metrics.similarity",
    "metrics.table",
    "metrics.throughput",
    "models.model_nodes",
    "models.onnx.onnx",
    "sampling.denoiser",
    "sampling.denoiser_edm",
    "sampling.levels",
    "sampling.noise",
    "sampling.schedule",
    "sampling.scheduler",
    "sampling.scheduler_by_name",
    "sampling.scheduler_distilled",
    "sampling.scheduler_exponential",
    "sampling.scheduler_step",
    "tensor",
    "training.adversarial",
    "training.lora",
    "training.losses",
    "training.timesteps",
)

TYPE_MODULES = ("types", "metrics.frechet", "guidance.hooks", "guidance.step_context")

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
    modules = (import_module(f"guidegraph.nodes.{name}") for name in TYPE_MODULES)
    classes = {name: value for module in modules for name, value in vars(module).items()}
    return [Tensor, *(classes[name] for name in TYPES)]
