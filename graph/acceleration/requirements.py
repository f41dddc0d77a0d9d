"""The requirements of an accelerated run: packages, the device, and settings that fit."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.run_config import RunConfig
from guidegraph_runtime.sessions.providers import missing as find_missing

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "compile": ()}
DTYPES = {"cpu": ("float32",), "cuda": ("float32", "float16")}
"""The dtypes that onnxruntime computes in, by the kind of device."""


def acceleration_problem(config: RunConfig) -> str:
    """The reason why a run cannot be accelerated; empty if it can, or if it should not be."""
    if not config.accelerate:
        return ""
    if config.memory_budget is not None:
        return "a memory budget counts torch's weights, and an accelerated part has weights of its own: leave one out"
    if missing := [name for name in PACKAGES[config.accelerate] if find_spec(name) is None]:
        return f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}"
    if config.accelerate == "compile":
        compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
        if config.on_cpu and not any(map(shutil.which, compilers)):
            return "torch.compile needs a C++ compiler for the CPU, and there is none (CXX, g++ or clang++)"
        return ""
    kind, _, index = config.device.partition(":")
    dtypes = DTYPES.get(kind, ())
    if config.dtype not in dtypes:
        return (
            f"onnxruntime computes in {' or '.join(dtypes)} on '{config.device}', and the run is in {config.dtype}: "
            "leave --dtype or --accelerate out"
        )
    if kind == "cpu":
        return ""
    reason = find_missing("cuda", int(index or 0))
    return "" if reason is None else f"onnxruntime cannot use '{config.device}': {reason}"


def check_acceleration(config: RunConfig) -> None:
    """Raise ``GuidegraphError`` if a run cannot be accelerated as its settings ask."""
    if reason := acceleration_problem(config):
        raise GuidegraphError(reason)
