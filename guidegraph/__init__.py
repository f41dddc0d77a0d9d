"""guidegraph: a typed node-graph engine for conditional diffusion.

The public names are importable from here. They are resolved on first use (PEP 562), so `import guidegraph` loads
neither torch nor pydantic, and `guidegraph --help` is instant.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegraph.graph.device_context import current_device, current_dtype
    from guidegraph.graph.errors import Cancelled, NodeError, WorkflowError
    from guidegraph.graph.events import (
        Event,
        LoopProgress,
        ModelMoved,
        NodeFailed,
        NodeFinished,
        NodeStarted,
        NodeTotals,
        OutputReady,
        PreviewReady,
        RunFinished,
        RunStarted,
        TrainingStarted,
    )
    from guidegraph.graph.execution.loop_context import Previewed
    from guidegraph.graph.export.errors import ExportError
    from guidegraph.graph.export.onnx.decompositions import register_decomposition
    from guidegraph.graph.export_recipe import ExportRecipe, Split
    from guidegraph.graph.node import node
    from guidegraph.graph.trust.limits import LimitExceeded, Limits
    from guidegraph.graph.trust.policy import Grants, Policy
    from guidegraph.graph.types import Beside, RunsCode, Tensor, Written, structured
    from guidegraph.nodes.guidance.hooks import (
        AttentionCall,
        AttentionRule,
        FeatureRule,
        HookedDenoiser,
        OpaqueDenoiser,
        Rule,
        Site,
        SkipRule,
        select_sites,
    )
    from guidegraph.nodes.guidance.step_context import StepContext
    from guidegraph.nodes.sampling.denoiser import predict
    from guidegraph.nodes.sampling.levels import levels_at_sigmas, levels_at_timesteps
    from guidegraph.nodes.shape_checks import has_values
    from guidegraph.nodes.types import (
        Autoencoder,
        Classifier,
        Condition,
        Denoiser,
        FeatureExtractor,
        Image,
        ImageEmbedder,
        Label,
        LabelEmbedder,
        Latent,
        Levels,
        Mask,
        Noise,
        Prediction,
        PredictionKind,
        Sample,
        Scale,
        Schedule,
        Scheduler,
        SchedulerState,
        Score,
        Segmenter,
        SemanticMap,
        Table,
        TextEmbedder,
        Timesteps,
        per_sample,
    )
    from guidegraph.plugins.hookspecs import RunInfo, hookimpl
    from guidegraph.workflow import Workflow, load_workflow

__version__ = "0.1.0"

__all__ = [
    "AttentionCall",
    "AttentionRule",
    "Autoencoder",
    "Beside",
    "Cancelled",
    "Classifier",
    "Condition",
    "Denoiser",
    "Event",
    "ExportError",
    "ExportRecipe",
    "FeatureExtractor",
    "FeatureRule",
    "Grants",
    "HookedDenoiser",
    "Image",
    "ImageEmbedder",
    "Label",
    "LabelEmbedder",
    "Latent",
    "Levels",
    "LimitExceeded",
    "Limits",
    "LoopProgress",
    "Mask",
    "ModelMoved",
    "NodeError",
    "NodeFailed",
    "NodeFinished",
    "NodeStarted",
    "NodeTotals",
    "Noise",
    "OpaqueDenoiser",
    "OutputReady",
    "Policy",
    "Prediction",
    "PredictionKind",
    "PreviewReady",
    "Previewed",
    "Rule",
    "RunFinished",
    "RunInfo",
    "RunStarted",
    "RunsCode",
    "Sample",
    "Scale",
    "Schedule",
    "Scheduler",
    "SchedulerState",
    "Score",
    "Segmenter",
    "SemanticMap",
    "Site",
    "SkipRule",
    "Split",
    "StepContext",
    "Table",
    "Tensor",
    "TextEmbedder",
    "Timesteps",
    "TrainingStarted",
    "Workflow",
    "WorkflowError",
    "Written",
    "__version__",
    "current_device",
    "current_dtype",
    "has_values",
    "hookimpl",
    "levels_at_sigmas",
    "levels_at_timesteps",
    "load_workflow",
    "node",
    "per_sample",
    "predict",
    "register_decomposition",
    "select_sites",
    "structured",
]

_HOMES = {
    "guidegraph.workflow": ("Workflow", "load_workflow"),
    "guidegraph.graph.device_context": ("current_device", "current_dtype"),
    "guidegraph.graph.events": (
        "Event",
        "LoopProgress",
        "ModelMoved",
        "NodeFailed",
        "NodeFinished",
        "NodeStarted",
        "NodeTotals",
        "OutputReady",
        "PreviewReady",
        "RunFinished",
        "RunStarted",
        "TrainingStarted",
    ),
    "guidegraph.graph.errors": ("Cancelled", "NodeError", "WorkflowError"),
    "guidegraph.graph.export.onnx.decompositions": ("register_decomposition",),
    "guidegraph.graph.export.errors": ("ExportError",),
    "guidegraph.graph.node": ("node",),
    "guidegraph.graph.execution.loop_context": ("Previewed",),
    "guidegraph.graph.export_recipe": ("ExportRecipe", "Split"),
    "guidegraph.graph.trust.policy": ("Grants", "Policy"),
    "guidegraph.graph.types": ("Beside", "RunsCode", "Tensor", "Written", "structured"),
    "guidegraph.graph.trust.limits": ("LimitExceeded", "Limits"),
    "guidegraph.nodes.sampling.denoiser": ("predict",),
    "guidegraph.nodes.guidance.hooks": (
        "AttentionCall",
        "AttentionRule",
        "FeatureRule",
        "HookedDenoiser",
        "OpaqueDenoiser",
        "Rule",
        "Site",
        "SkipRule",
        "select_sites",
    ),
    "guidegraph.nodes.sampling.levels": ("levels_at_sigmas", "levels_at_timesteps"),
    "guidegraph.nodes.shape_checks": ("has_values",),
    "guidegraph.nodes.guidance.step_context": ("StepContext",),
    "guidegraph.nodes.types": (
        "Autoencoder",
        "Classifier",
        "Condition",
        "Denoiser",
        "FeatureExtractor",
        "Image",
        "ImageEmbedder",
        "Label",
        "LabelEmbedder",
        "Latent",
        "Levels",
        "Mask",
        "Noise",
        "Prediction",
        "PredictionKind",
        "Sample",
        "Scale",
        "Schedule",
        "Scheduler",
        "SchedulerState",
        "Score",
        "Segmenter",
        "SemanticMap",
        "Table",
        "TextEmbedder",
        "Timesteps",
        "per_sample",
    ),
    "guidegraph.plugins.hookspecs": ("RunInfo", "hookimpl"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

# In a source checkout graph/, nodes/, plugins/ and workflows/ are siblings of this folder. Extend the package path so
# that `guidegraph.graph` resolves there without an install; at the end, so that this folder's own modules win.
_folder = Path(__file__).parent
if not (_folder / "graph").is_dir():
    __path__.append(str(_folder.parent))


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
