"""guidegraph: a typed node-graph engine for conditional diffusion.

The public names are importable from here. They are resolved on first use (PEP 562), so `import guidegraph` loads
neither torch nor pydantic, and `guidegraph --help` is instant.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers; a test compares it with _HOMES
    from guidegraph.edit import WorkflowEditor as WorkflowEditor
    from guidegraph.graph.cancellation import CancelToken as CancelToken
    from guidegraph.graph.device_context import current_device as current_device
    from guidegraph.graph.device_context import current_dtype as current_dtype
    from guidegraph.graph.errors import Cancelled as Cancelled
    from guidegraph.graph.errors import GuidegraphError as GuidegraphError
    from guidegraph.graph.errors import NodeError as NodeError
    from guidegraph.graph.errors import WorkflowError as WorkflowError
    from guidegraph.graph.events import Event as Event
    from guidegraph.graph.events import LoopProgress as LoopProgress
    from guidegraph.graph.events import ModelMoved as ModelMoved
    from guidegraph.graph.events import NodeFailed as NodeFailed
    from guidegraph.graph.events import NodeFinished as NodeFinished
    from guidegraph.graph.events import NodeStarted as NodeStarted
    from guidegraph.graph.events import NodeTotals as NodeTotals
    from guidegraph.graph.events import Observer as Observer
    from guidegraph.graph.events import OutputReady as OutputReady
    from guidegraph.graph.events import PartAccelerated as PartAccelerated
    from guidegraph.graph.events import PreviewReady as PreviewReady
    from guidegraph.graph.events import RunFinished as RunFinished
    from guidegraph.graph.events import RunStarted as RunStarted
    from guidegraph.graph.events import TrainingStarted as TrainingStarted
    from guidegraph.graph.execution.loop_context import Previewed as Previewed
    from guidegraph.graph.execution.run_record import RunResult as RunResult
    from guidegraph.graph.export.errors import ExportError as ExportError
    from guidegraph.graph.export.onnx.decompositions import register_decomposition as register_decomposition
    from guidegraph.graph.frozen_models import ExportRecipe as ExportRecipe
    from guidegraph.graph.ir import Graph as Graph
    from guidegraph.graph.node import Registry as Registry
    from guidegraph.graph.node import node as node
    from guidegraph.graph.output_format import OutputFormat as OutputFormat
    from guidegraph.graph.planning.plan import Plan as Plan
    from guidegraph.graph.shared_runs.many_runs import ManyRuns as ManyRuns
    from guidegraph.graph.stopping.loop_state import LoopStopped as LoopStopped
    from guidegraph.graph.trust.limits import LimitExceeded as LimitExceeded
    from guidegraph.graph.trust.limits import Limits as Limits
    from guidegraph.graph.trust.policy import Grants as Grants
    from guidegraph.graph.trust.policy import Policy as Policy
    from guidegraph.graph.types import Beside as Beside
    from guidegraph.graph.types import PortType as PortType
    from guidegraph.graph.types import RunsCode as RunsCode
    from guidegraph.graph.types import Tensor as Tensor
    from guidegraph.graph.types import Written as Written
    from guidegraph.graph.types import structured as structured
    from guidegraph.nodes.checkpoints.family import Family as Family
    from guidegraph.nodes.guidance.hooks import AttentionCall as AttentionCall
    from guidegraph.nodes.guidance.hooks import AttentionRule as AttentionRule
    from guidegraph.nodes.guidance.hooks import DeepRule as DeepRule
    from guidegraph.nodes.guidance.hooks import FeatureRule as FeatureRule
    from guidegraph.nodes.guidance.hooks import HookedDenoiser as HookedDenoiser
    from guidegraph.nodes.guidance.hooks import MemoryDenoiser as MemoryDenoiser
    from guidegraph.nodes.guidance.hooks import OpaqueDenoiser as OpaqueDenoiser
    from guidegraph.nodes.guidance.hooks import Rule as Rule
    from guidegraph.nodes.guidance.hooks import Site as Site
    from guidegraph.nodes.guidance.hooks import SkipRule as SkipRule
    from guidegraph.nodes.guidance.hooks import select_sites as select_sites
    from guidegraph.nodes.guidance.step_context import RuleMemory as RuleMemory
    from guidegraph.nodes.guidance.step_context import RuleWithMemory as RuleWithMemory
    from guidegraph.nodes.guidance.step_context import StepContext as StepContext
    from guidegraph.nodes.port_shapes import step_shape as step_shape
    from guidegraph.nodes.sampling.denoiser import predict as predict
    from guidegraph.nodes.sampling.levels import levels_at_sigmas as levels_at_sigmas
    from guidegraph.nodes.sampling.levels import levels_at_timesteps as levels_at_timesteps
    from guidegraph.nodes.shape_checks import has_values as has_values
    from guidegraph.nodes.types import Autoencoder as Autoencoder
    from guidegraph.nodes.types import Classifier as Classifier
    from guidegraph.nodes.types import Condition as Condition
    from guidegraph.nodes.types import ConditionField as ConditionField
    from guidegraph.nodes.types import Denoiser as Denoiser
    from guidegraph.nodes.types import FeatureExtractor as FeatureExtractor
    from guidegraph.nodes.types import Image as Image
    from guidegraph.nodes.types import ImageEmbedder as ImageEmbedder
    from guidegraph.nodes.types import Label as Label
    from guidegraph.nodes.types import LabelEmbedder as LabelEmbedder
    from guidegraph.nodes.types import Latent as Latent
    from guidegraph.nodes.types import Levels as Levels
    from guidegraph.nodes.types import Mask as Mask
    from guidegraph.nodes.types import Noise as Noise
    from guidegraph.nodes.types import Prediction as Prediction
    from guidegraph.nodes.types import PredictionKind as PredictionKind
    from guidegraph.nodes.types import Sample as Sample
    from guidegraph.nodes.types import Scale as Scale
    from guidegraph.nodes.types import Schedule as Schedule
    from guidegraph.nodes.types import Scheduler as Scheduler
    from guidegraph.nodes.types import SchedulerState as SchedulerState
    from guidegraph.nodes.types import Score as Score
    from guidegraph.nodes.types import Segmenter as Segmenter
    from guidegraph.nodes.types import SemanticMap as SemanticMap
    from guidegraph.nodes.types import Table as Table
    from guidegraph.nodes.types import TextEmbedder as TextEmbedder
    from guidegraph.nodes.types import Timesteps as Timesteps
    from guidegraph.nodes.types import per_sample as per_sample
    from guidegraph.plugins.hookspecs import RunInfo as RunInfo
    from guidegraph.plugins.hookspecs import hookimpl as hookimpl
    from guidegraph.runs.stopped_run import StoppedRun as StoppedRun
    from guidegraph.workflow import CacheChoice as CacheChoice
    from guidegraph.workflow import ParameterInfo as ParameterInfo
    from guidegraph.workflow import Workflow as Workflow
    from guidegraph.workflow import load_workflow as load_workflow

__version__ = "0.1.0"

# Before anything imports onnxruntime: see guidegraph_runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "guidegraph.edit": ("WorkflowEditor",),
    "guidegraph.graph.cancellation": ("CancelToken",),
    "guidegraph.graph.device_context": (
        "current_device",
        "current_dtype",
    ),
    "guidegraph.graph.errors": (
        "Cancelled",
        "GuidegraphError",
        "NodeError",
        "WorkflowError",
    ),
    "guidegraph.graph.events": (
        "Event",
        "LoopProgress",
        "ModelMoved",
        "NodeFailed",
        "NodeFinished",
        "NodeStarted",
        "NodeTotals",
        "Observer",
        "OutputReady",
        "PartAccelerated",
        "PreviewReady",
        "RunFinished",
        "RunStarted",
        "TrainingStarted",
    ),
    "guidegraph.graph.execution.loop_context": ("Previewed",),
    "guidegraph.graph.execution.run_record": ("RunResult",),
    "guidegraph.graph.export.errors": ("ExportError",),
    "guidegraph.graph.export.onnx.decompositions": ("register_decomposition",),
    "guidegraph.graph.frozen_models": ("ExportRecipe",),
    "guidegraph.graph.ir": ("Graph",),
    "guidegraph.graph.planning.plan": ("Plan",),
    "guidegraph.graph.node": ("Registry", "node"),
    "guidegraph.graph.output_format": ("OutputFormat",),
    "guidegraph.graph.shared_runs.many_runs": ("ManyRuns",),
    "guidegraph.graph.stopping.loop_state": ("LoopStopped",),
    "guidegraph.graph.trust.limits": (
        "LimitExceeded",
        "Limits",
    ),
    "guidegraph.graph.trust.policy": (
        "Grants",
        "Policy",
    ),
    "guidegraph.graph.types": (
        "Beside",
        "PortType",
        "RunsCode",
        "Tensor",
        "Written",
        "structured",
    ),
    "guidegraph.nodes.checkpoints.family": ("Family",),
    "guidegraph.nodes.guidance.hooks": (
        "AttentionCall",
        "AttentionRule",
        "DeepRule",
        "FeatureRule",
        "HookedDenoiser",
        "MemoryDenoiser",
        "OpaqueDenoiser",
        "Rule",
        "Site",
        "SkipRule",
        "select_sites",
    ),
    "guidegraph.nodes.guidance.step_context": (
        "RuleMemory",
        "RuleWithMemory",
        "StepContext",
    ),
    "guidegraph.nodes.port_shapes": ("step_shape",),
    "guidegraph.nodes.sampling.denoiser": ("predict",),
    "guidegraph.nodes.sampling.levels": (
        "levels_at_sigmas",
        "levels_at_timesteps",
    ),
    "guidegraph.nodes.shape_checks": ("has_values",),
    "guidegraph.nodes.types": (
        "Autoencoder",
        "Classifier",
        "Condition",
        "ConditionField",
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
    "guidegraph.plugins.hookspecs": (
        "RunInfo",
        "hookimpl",
    ),
    "guidegraph.runs.stopped_run": ("StoppedRun",),
    "guidegraph.workflow": (
        "CacheChoice",
        "ParameterInfo",
        "Workflow",
        "load_workflow",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "__version__"]

# In a source checkout graph/, nodes/, plugins/ and workflows/ are siblings of this folder. Extend the package path so
# that `guidegraph.graph` resolves there without an install; at the end, so that this folder's own modules win.
_folder = Path(__file__).parent
if not (_folder / "graph").is_dir():
    __path__.append(str(_folder.parent))


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from guidegraph.graph.memory.pause_collector import pause_collector

    with pause_collector():
        value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
