"""Exported graphs in the engine: a denoiser computed by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.guidance.hooks import OpaqueDenoiser
from guidegraph.nodes.models.onnx.fields import ConstantInput, InputField, OutputField
from guidegraph.nodes.sampler_types import KINDS
from guidegraph.nodes.sampling.denoiser_edm import EdmNetwork, SigmaData, check_raw_kind, precondition
from guidegraph.nodes.types import PredictionKind, Schedule
from guidegraph_runtime.bundle.manifest_types import CALL, MASKS
from guidegraph_runtime.bundle.manifest_types import FIELDS as FIXED_FIELDS
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.graph_file import is_bundle, open_graph_file
from guidegraph_runtime.sessions.sessions import SessionSettings

PORTS = ("x", "t")
FIELDS = ("vector", "tokens", "mask", "spatial")
OUTPUTS = ("value", "variance")


@node("onnx.denoiser", host=True)
def onnx_denoiser(
    schedule: Schedule | None = None,
    *,
    path: Path,
    inputs: dict[InputField, str] | None = None,
    outputs: dict[OutputField, str] | None = None,
    constants: dict[str, ConstantInput] | None = None,
    kind: PredictionKind | None = None,
    edm: EdmNetwork | None = None,
    sigma_data: SigmaData = 0.5,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
    threads: Annotated[int, Ge(0), Le(1024)] = 0,
) -> OpaqueDenoiser:
    """A denoiser computed by onnxruntime, from a bundle or from any ONNX file.

    path: the folder of a bundle written by `guidegraph export … --only denoiser`, which needs no other settings; or an
    .onnx file, or the folder with it and its weights. provider: onnxruntime's execution provider; auto is the device of
    the run. threads: per operator; 0 is one for each core. Both are verified as guidegraph-run verifies a bundle. No
    gradient can be taken through the graph.

    For an ONNX file nothing is guessed. inputs: the graph's names for x, for t and for the fields of the condition that
    it takes; x and spatial may share an input, and are then concatenated along the channels. t and vector are converted
    to the dtype and axes that the graph declares. constants: a number, or a row of numbers, for other inputs.
    outputs: the graph's name for the prediction, value, if it has several outputs, and for a learned variance; if both
    have the same name, they are its halves. kind: of the prediction.
    edm, sigma_data: `network` and `sigma_data` of denoiser.edm, for an EDM model; needs `schedule`. A raw network's
    output is F if kind is left out.
    Raises an error for a bundle without a denoiser alone, for settings that do not fit the graph, with its
    declarations, and for a provider that this machine lacks.
    """
    file_settings = {"inputs": inputs, "outputs": outputs, "constants": constants, "kind": kind, "edm": edm}
    device = current_device()
    provider_name = ("cpu" if device.type == "cpu" else "cuda") if provider == "auto" else provider
    try:
        settings = SessionSettings.on(provider_name, device.index or 0, intra_threads=threads)
        if is_bundle(path):
            if extra := [name for name, value in file_settings.items() if value is not None]:
                raise ValueError(f"'{path}' is a bundle, which says this by itself: leave out {' and '.join(extra)}")
            return _of_bundle(path, settings)
        if edm is not None and schedule is None:
            raise ValueError("an EDM model needs a schedule, which says what σ a t stands for: wire schedule.edm to it")
        if edm == "raw":
            kind = kind or "eps"
            check_raw_kind(kind)
        denoiser = _of_file(path, settings, inputs or {}, outputs or {}, constants or {}, kind)
    except BundleError as error:
        raise ValueError(str(error)) from error
    if edm is None or schedule is None:
        return denoiser
    return precondition(denoiser, schedule, network=edm, sigma_data=sigma_data)


def _of_bundle(path: Path, settings: SessionSettings) -> OpaqueDenoiser:
    from guidegraph.nodes.models.onnx.denoiser import OnnxDenoiser
    from guidegraph.nodes.models.onnx.ports import make_bundle_ports

    bundle = Bundle(path, settings)
    plan = bundle.manifest.plan
    call = plan[0].settings.get(CALL) if len(plan) == 1 and plan[0].op == "part" else None
    if call != "denoiser.predict":
        contents = f"a bundle of {call}" if call else "the bundle of a workflow"
        command = "guidegraph export WORKFLOW -o DIR --only denoiser"
        raise ValueError(f"'{bundle.where}' is {contents}: write that of a denoiser with {command}")
    part = bundle.manifest.parts[plan[0].node]
    names, results = {port.name for port in part.inputs}, {port.name for port in part.outputs}
    fixed = plan[0].settings.get(FIXED_FIELDS)
    kind: Any = fixed.get("kind") if isinstance(fixed, dict) else None
    fits = {*PORTS} <= names <= {*PORTS, *FIELDS} and {"value"} <= results <= {*OUTPUTS}
    if not fits or kind not in KINDS:
        raise ValueError(f"'{bundle.where}' is not a bundle of a denoiser that is whole: export it again")
    size = sum(bundle.manifest.files[name].size for name in (part.file, *part.externals))
    honours_mask = plan[0].settings.get(MASKS) is True
    return OnnxDenoiser(bundle.session(plan[0].node), make_bundle_ports(part, kind), honours_mask, size)


def _of_file(
    path: Path,
    settings: SessionSettings,
    inputs: dict[InputField, str],
    outputs: dict[OutputField, str],
    constants: dict[str, ConstantInput],
    kind: PredictionKind | None,
) -> OpaqueDenoiser:
    from guidegraph.nodes.models.onnx.denoiser import OnnxDenoiser
    from guidegraph.nodes.models.onnx.ports import make_file_ports

    file = open_graph_file(path, settings)
    ports = make_file_ports(str(file.path), file.session.part, inputs, outputs, constants, kind)
    return OnnxDenoiser(file.session, ports, "mask" in inputs, file.nbytes)
