"""Exported graphs in the engine: a denoiser that onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from guidegraph.graph.node import node
from guidegraph.nodes.hooks import OpaqueDenoiser

if TYPE_CHECKING:
    from guidegraph_runtime.bundle import Bundle

PORTS = ("x", "t")
FIELDS = ("vector", "tokens", "mask", "spatial")
OUTPUTS = ("value", "variance")


@node("onnx.denoiser", host=True)
def onnx_denoiser(
    *,
    path: Path,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
    threads: Annotated[int, Ge(0), Le(1024)] = 0,
) -> OpaqueDenoiser:
    """A denoiser that onnxruntime computes, of a bundle that `guidegraph export … --only denoiser` wrote.

    path: the bundle's folder. provider: where it computes; auto is the device of the run. threads: of one operator; 0
    is one for each core. The bundle is verified as guidegraph-run does it. No gradient can be taken through the graph.
    Raises an error for a bundle of anything else, and for a provider that this machine has not.
    """
    from guidegraph.graph.context import current_device
    from guidegraph.nodes.models.onnx_denoiser import OnnxDenoiser
    from guidegraph_runtime.bundle import Bundle
    from guidegraph_runtime.errors import BundleError
    from guidegraph_runtime.sessions import SessionSettings

    device = current_device()
    wanted = ("cpu" if device.type == "cpu" else "cuda") if provider == "auto" else provider
    try:
        settings = SessionSettings.on(wanted, device.index or 0, intra_threads=threads)
        bundle = Bundle(path, settings)
        part, kind, honours_mask = _described(bundle)
        described = bundle.manifest.parts[part]
        size = sum(bundle.manifest.files[name].size for name in (described.file, *described.externals))
        return OnnxDenoiser(bundle.session(part), kind, honours_mask, size)
    except BundleError as error:
        raise ValueError(str(error)) from error


def _described(bundle: Bundle) -> tuple[str, str, bool]:
    """The part of a bundle that holds a denoiser alone, the kind of its prediction, and whether it heeds masks."""
    from guidegraph_runtime.names import CALL, MASKS
    from guidegraph_runtime.names import FIELDS as FIXED

    plan = bundle.manifest.plan
    found = plan[0].settings.get(CALL) if len(plan) == 1 and plan[0].op == "part" else None
    if found != "denoiser.predict":
        what = f"a bundle of {found}" if found else "the bundle of a workflow"
        command = "guidegraph export WORKFLOW -o DIR --only denoiser"
        raise ValueError(f"'{bundle.where}' is {what}: write that of a denoiser with {command}")
    part = bundle.manifest.parts[plan[0].node]
    names, results = {one.name for one in part.inputs}, {one.name for one in part.outputs}
    fixed = plan[0].settings.get(FIXED)
    kind = fixed.get("kind") if isinstance(fixed, dict) else None
    fits = {*PORTS} <= names <= {*PORTS, *FIELDS} and {"value"} <= results <= {*OUTPUTS}
    if not fits or kind not in ("eps", "x0", "v"):
        raise ValueError(f"'{bundle.where}' is no bundle of a denoiser that is whole: export it again")
    return plan[0].node, str(kind), plan[0].settings.get(MASKS) is True
