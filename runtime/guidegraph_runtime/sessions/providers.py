"""Choose onnxruntime's execution provider (TensorRT, CUDA, OpenVINO or CPU), without silent fallbacks.

`onnxruntime.get_available_providers()` lists the providers of the build, even on a machine without a GPU, and a session
that cannot use its provider falls back to the CPU. So the device is checked first, and each session afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from guidegraph_runtime.errors import BundleError, format_value, suggest_name

AUTO = "auto"
PREFERENCE = ("tensorrt", "cuda", "cpu")
"""The providers that "auto" takes."""

NAMES = ("tensorrt", "cuda", "openvino", "cpu")
_ORT_NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_DEVICES = {"tensorrt": "cuda", "cuda": "cuda", "openvino": "cpu", "cpu": "cpu"}
_OPENVINO_OPTIONS = {"device_type": "CPU", "precision": "FP32"}  # by default it rounds to bfloat16 where that is faster
_INSTALL = {
    "cuda": "install onnxruntime-gpu[cuda,cudnn] with the libraries of its CUDA version",
    "cpu": "install onnxruntime-openvino again",
}


@dataclass(frozen=True)
class Provider:
    """`name` is ours, `ort_name` onnxruntime's; `device` ("cuda" or "cpu") and `device_id` locate its tensors."""

    name: str
    device_id: int = 0
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def ort_name(self) -> str:
        return _ORT_NAMES[self.name]

    @property
    def device(self) -> str:
        return _DEVICES[self.name]


def choose_providers(requested: str | Sequence[str] = AUTO, device_id: int = 0) -> tuple[Provider, ...]:
    """The providers that a session tries for each operator, in order; the CPU is always last.

    "auto" takes TensorRT, CUDA and CPU, as far as this machine has them. Any other name or list of names is required.
    OpenVINO computes on the CPU, and is never chosen by "auto": it compiles a graph again for other sizes.
    Raises ``BundleError`` for a provider that is unknown or not available.
    """
    if device_id < 0:
        _fail(f"expected the number of a device, found {device_id}; the first device is 0")
    if requested == AUTO:
        names = [name for name in PREFERENCE if missing(name, device_id) is None]
    else:
        names = [requested] if isinstance(requested, str) else list(requested)
        for name in names:
            if name not in NAMES:
                _fail(f"expected a provider, found {format_value(name)}; {suggest_name(name, (AUTO, *NAMES))}")
            if (requirement := missing(name, device_id)) is not None:
                available = ", ".join(provider for provider in NAMES if missing(provider, device_id) is None)
                _fail(f"expected {name}, but {requirement}; choose one of those available: {AUTO}, {available}")
        if not names:
            _fail(f"expected a provider, found none; {suggest_name('', (AUTO, *NAMES))}")
    if "cpu" in names:
        names = names[: names.index("cpu")]
    providers = [
        Provider(name, options=_OPENVINO_OPTIONS)
        if _DEVICES[name] == "cpu"
        else Provider(name, device_id, {"device_id": str(device_id)})
        for name in dict.fromkeys(names)
    ]
    return (*providers, Provider("cpu"))


def missing(name: str, device_id: int = 0) -> str | None:
    """The requirement of a provider that this machine lacks, or None."""
    import onnxruntime

    if _ORT_NAMES[name] not in onnxruntime.get_available_providers():
        return f"this onnxruntime ({onnxruntime.__version__}) is built without it"
    if _DEVICES[name] == "cuda" and (count := nvidia_gpus()) <= device_id:
        return f"there are {count} NVIDIA GPUs here" if count else "there is no NVIDIA GPU here, or no driver for it"
    if _DEVICES[name] == "cuda":
        _preload()
    for library in _libraries(name, onnxruntime.cuda_version.split(".")[0] if _DEVICES[name] == "cuda" else ""):
        if _load(library) is None:
            return f"{library} is not installed (pip install 'onnxruntime-gpu[cuda,cudnn]' brings those of CUDA)"
    return None


def _libraries(name: str, cuda: str) -> tuple[str, ...]:
    """The file names of the libraries that a provider's onnxruntime library is linked with."""
    if sys.platform == "win32":
        of_cuda, of_tensorrt = (f"cudart64_{cuda}.dll", f"cublasLt64_{cuda}.dll", "cudnn64_9.dll"), "nvinfer_10.dll"
    else:
        of_cuda, of_tensorrt = (f"libcudart.so.{cuda}", f"libcublasLt.so.{cuda}", "libcudnn.so.9"), "libnvinfer.so.10"
    return {"tensorrt": (*of_cuda, of_tensorrt), "cuda": of_cuda}.get(name, ())


def nvidia_gpus() -> int:
    """The number of GPUs that the NVIDIA driver reports; 0 without a driver."""
    driver = _load("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def verify_providers(location: str, names: Sequence[str], requested: Sequence[Provider]) -> None:
    """Raise ``BundleError`` if a session lacks one of the requested providers."""
    for provider in requested:
        if provider.ort_name not in names:
            raise BundleError(
                location,
                "no-provider",
                f"expected a session on {provider.name}, found {', '.join(names)} only: onnxruntime could not load it; "
                f"{_INSTALL[provider.device]}, or ask for cpu",
            )


@cache
def _preload() -> None:
    """Load the CUDA libraries of Python packages; onnxruntime alone searches only the system's folders."""
    import onnxruntime

    with contextlib.redirect_stdout(sys.stderr):  # it prints what it could not load
        onnxruntime.preload_dlls()


def _load(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _fail(message: str) -> None:
    raise BundleError("onnxruntime", "no-provider", message)
