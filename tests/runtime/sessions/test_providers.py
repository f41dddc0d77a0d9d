"""A session gets the requested provider or an error with the reason; only "auto" may fall back to the CPU."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import onnxruntime
import pytest

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions import providers
from guidegraph_runtime.sessions.providers import Provider, choose_providers, missing, nvidia_gpus, verify_providers

CUDA_LIBRARIES = {"libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9"}
ON_GPU = {"device_id": "0"}


class Driver:
    """libcuda as ctypes has it."""

    def __init__(self, gpus: int, status: int = 0):
        self.gpus, self.status = gpus, status

    def cuInit(self, _: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Linux machine with so many GPUs, these libraries, and an onnxruntime for CUDA 13 that has these providers."""

    def make(gpus: int, libraries: set[str], built: tuple[str, ...] = ("Tensorrt", "CUDA", "CPU")) -> None:
        def load(name: str) -> Any:
            if name == "libcuda.so.1" and gpus >= 0:
                return Driver(gpus)
            if name not in libraries:
                raise OSError(name)
            return object()

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(providers.sys, "platform", "linux")  # type: ignore[attr-defined]
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: [f"{name}ExecutionProvider" for name in built]
        )
        monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
        monkeypatch.setattr(providers, "_preload", lambda: None)

    return make


def refusal(*requested: Any) -> str:
    with pytest.raises(BundleError) as caught:
        choose_providers(*requested)
    assert caught.value.code == "no-provider"
    return str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "libraries", "expected"),
    [
        (-1, set(), ["cpu"]),
        (0, CUDA_LIBRARIES, ["cpu"]),
        (1, set(), ["cpu"]),
        (1, CUDA_LIBRARIES - {"libcudnn.so.9"}, ["cpu"]),
        (1, CUDA_LIBRARIES, ["cuda", "cpu"]),
        (1, CUDA_LIBRARIES | {"libnvinfer.so.10"}, ["tensorrt", "cuda", "cpu"]),
        (1, {"libnvinfer.so.10"}, ["cpu"]),
    ],
)
def test_auto_chooses_available_providers(machine: Any, gpus: int, libraries: set[str], expected: list[str]) -> None:
    machine(gpus, libraries)
    assert [provider.name for provider in choose_providers("auto")] == expected


def test_openvino_computes_on_the_cpu_in_float32_if_it_is_asked_for(machine: Any) -> None:
    machine(-1, set(), ("OpenVINO", "CPU"))
    first, last = choose_providers("openvino")
    assert (first.ort_name, first.device, first.options["precision"]) == ("OpenVINOExecutionProvider", "cpu", "FP32")
    assert last == Provider("cpu")
    assert choose_providers("auto") == (Provider("cpu"),)
    machine(-1, set(), ("CPU",))
    assert "is built without it" in refusal("openvino")


def test_auto_is_silent_on_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    assert choose_providers("auto")[-1] == Provider("cpu")
    assert capfd.readouterr() == ("", "")


def test_the_cpu_comes_last_and_ends_the_list(machine: Any) -> None:
    machine(2, CUDA_LIBRARIES)
    assert choose_providers("cpu") == (Provider("cpu"),)
    assert choose_providers(["cpu", "cuda"]) == (Provider("cpu"),)
    assert choose_providers("cuda") == (Provider("cuda", 0, ON_GPU), Provider("cpu"))
    assert choose_providers(["cuda", "cpu", "cuda"], 1) == (Provider("cuda", 1, {"device_id": "1"}), Provider("cpu"))


@pytest.mark.parametrize(
    ("gpus", "libraries", "built", "requested", "message"),
    [
        (-1, set(), ("CUDA", "CPU"), "cuda", "there is no NVIDIA GPU here, or no driver for it"),
        (-1, set(), ("CUDA", "CPU"), ["cuda", "cpu"], "there is no NVIDIA GPU here, or no driver for it"),
        (1, CUDA_LIBRARIES, ("CPU",), "cuda", "is built without it"),
        (1, set(), ("CUDA", "CPU"), "cuda", "libcudart.so.13 is not installed"),
        (1, CUDA_LIBRARIES, ("Tensorrt", "CUDA", "CPU"), "tensorrt", "libnvinfer.so.10 is not installed"),
    ],
)
def test_a_requested_provider_that_is_missing_is_refused(
    machine: Any, gpus: int, libraries: set[str], built: tuple[str, ...], requested: Any, message: str
) -> None:
    machine(gpus, libraries, built)
    text = refusal(requested)
    assert message in text
    assert "choose one of those available: auto, " in text
    assert text.endswith("cpu")


def test_a_missing_device_is_refused(machine: Any) -> None:
    machine(2, CUDA_LIBRARIES)
    assert "there are 2 NVIDIA GPUs here" in refusal("cuda", 2)
    assert [provider.name for provider in choose_providers("auto", 2)] == ["cpu"]
    assert "the first device is 0" in refusal("cuda", -1)


@pytest.mark.parametrize("requested", ["cudo", "CUDA", "CUDAExecutionProvider", "", ["cpu", "rocm"], [], "coreml"])
def test_unknown_providers(requested: Any) -> None:
    text = refusal(requested)
    assert "there is: auto, tensorrt, cuda, openvino, cpu" in text
    assert ("did you mean 'cuda'?" in text) == (requested == "cudo")


def test_no_driver_or_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_load", lambda name: None)
    assert nvidia_gpus() == 0
    monkeypatch.setattr(providers, "_load", lambda name: Driver(4, status=999))
    assert nvidia_gpus() == 0
    monkeypatch.setattr(providers, "_load", lambda name: Driver(4))
    assert nvidia_gpus() == 4


def test_names_of_libraries_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.sys, "platform", "win32")  # type: ignore[attr-defined]
    assert providers._libraries("cuda", "13") == ("cudart64_13.dll", "cublasLt64_13.dll", "cudnn64_9.dll")
    assert providers._libraries("cpu", "") == ()


def test_cuda_libraries_are_loaded_once_and_not_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def preload() -> None:
        sys.stdout.write("Failed to load libcublas.so.13\n")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    providers._preload.cache_clear()
    providers._preload()
    providers._preload()
    assert capsys.readouterr() == ("", "Failed to load libcublas.so.13\n")
    providers._preload.cache_clear()


def test_session_without_its_provider() -> None:
    requested = (Provider("cuda"), Provider("cpu"))
    verify_providers("a.onnx", ["CUDAExecutionProvider", "CPUExecutionProvider"], requested)
    with pytest.raises(
        BundleError, match=r"a\.onnx: no-provider: expected a session on cuda, found CPUExecutionProvider"
    ):
        verify_providers("a.onnx", ["CPUExecutionProvider"], requested)


def test_the_cpu_lacks_nothing() -> None:
    assert missing("cpu") is None
