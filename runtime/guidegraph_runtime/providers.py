"""Which of onnxruntime's execution providers runs a graph: TensorRT, CUDA or the CPU, and never another in silence.

`onnxruntime.get_available_providers()` tells what a build could do, on a machine without a GPU too, and a session that
cannot have a provider falls back to the CPU; so the device is looked for first, and each session is asked afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from guidegraph_runtime.errors import BundleError, one_of, shown

AUTO = "auto"
PREFERENCE = ("tensorrt", "cuda", "cpu")
_ORT_NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_DEVICES = {"tensorrt": "cuda", "cuda": "cuda", "cpu": "cpu"}


@dataclass(frozen=True)
class Provider:
    """`name` is ours, `ort_name` onnxruntime's; `device` ("cuda" or "cpu") and `device_id` tell where tensors are."""

    name: str
    device_id: int = 0
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def ort_name(self) -> str:
        return _ORT_NAMES[self.name]

    @property
    def device(self) -> str:
        return _DEVICES[self.name]


def choose_providers(wanted: str | Sequence[str] = AUTO, device_id: int = 0) -> tuple[Provider, ...]:
    """The providers that a session tries for each operator, in their order; the CPU is always the last.

    "auto" takes the first of TensorRT, CUDA and the CPU that this machine has, and those after it. Any other name, or
    list of names, is what must be there. Raises ``BundleError`` where it is not, or is unknown.
    """
    if device_id < 0:
        _fail(f"expected the number of a device, found {device_id}; the first device is 0")
    if wanted == AUTO:
        names = [name for name in PREFERENCE if missing(name, device_id) is None]
    else:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            _check(name, device_id)
        if not names:
            _fail(f"expected a provider, found none; {one_of('', (AUTO, *PREFERENCE))}")
    if "cpu" in names:
        names = names[: names.index("cpu")]
    on_device = [Provider(name, device_id, {"device_id": str(device_id)}) for name in dict.fromkeys(names)]
    return (*on_device, Provider("cpu"))


def missing(name: str, device_id: int = 0) -> str | None:
    """What a known provider lacks on this machine, or None."""
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
    """What onnxruntime's library for a provider is linked with, as its file names say on this system."""
    if sys.platform == "win32":
        of_cuda, of_tensorrt = (f"cudart64_{cuda}.dll", f"cublasLt64_{cuda}.dll", "cudnn64_9.dll"), "nvinfer_10.dll"
    else:
        of_cuda, of_tensorrt = (f"libcudart.so.{cuda}", f"libcublasLt.so.{cuda}", "libcudnn.so.9"), "libnvinfer.so.10"
    return {"tensorrt": (*of_cuda, of_tensorrt), "cuda": of_cuda, "cpu": ()}[name]


def nvidia_gpus() -> int:
    """How many GPUs the NVIDIA driver sees; 0 without one."""
    driver = _load("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def verify_providers(where: str, got: Sequence[str], wanted: Sequence[Provider]) -> None:
    """Raise ``BundleError`` where a session, asked for its providers, lacks one that it was to have."""
    for provider in wanted:
        if provider.ort_name not in got:
            raise BundleError(
                where,
                "no-provider",
                f"expected a session on {provider.name}, found {', '.join(got)} only: onnxruntime could not load it; "
                "install onnxruntime-gpu[cuda,cudnn] with the libraries of its CUDA version, or ask for cpu",
            )


def _check(name: str, device_id: int) -> None:
    if name not in PREFERENCE:
        _fail(f"expected a provider, found {shown(name)}; {one_of(name, (AUTO, *PREFERENCE))}")
    if (lack := missing(name, device_id)) is not None:
        here = ", ".join(one for one in PREFERENCE if missing(one, device_id) is None)
        _fail(f"expected {name}, but {lack}; ask for one of what is there: {AUTO}, {here}")


@cache
def _preload() -> None:
    """Load the CUDA libraries that came as packages: onnxruntime would look for them in the system's folders only."""
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
