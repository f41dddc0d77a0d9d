"""One thread for every test, a description of the machine, and a reason for each test that this machine cannot run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.must_end import stop_waiting

# For torch, NumPy and onnxruntime here and in every process that a test starts: two threads lose on a busy machine.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["GUIDEGRAPH_LISTINGS"] = "off"  # what a test sees must not come from an earlier one


LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that keep oneDNN and torch to an older instruction set."""
INSTRUCTION_SETS = ("sse4_2", "avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
PACKAGES = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu", "diffusers", "transformers")


@pytest.fixture(autouse=True, scope="session")
def _short_measurements() -> Iterator[None]:
    """Exports measure the costs of parts at their own size and at half of it: larger sizes take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guidegraph_runtime.running.measure_costs.LONG", 0.0)
        yield


def pytest_report_header() -> list[str]:
    """What a float result depends on beside the code: the processor, limits of its instruction sets, and versions."""
    cpu = _cpuinfo()
    model, flags = cpu.get("model name", "unknown processor"), cpu.get("flags", cpu.get("Features", "")).split()
    sets = " ".join(name for name in INSTRUCTION_SETS if name in flags)
    limits = " ".join(f"{name}={os.environ.get(name, 'none')}" for name in LIMITS)
    return [
        f"processor: {model}, {os.cpu_count()} cores; {sets}",
        f"limits: {limits} OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}",
        f"versions: {', '.join(_versions())}",
    ]


def pytest_report_collectionfinish() -> list[str]:
    """The instruction set that torch chose, where a test needs torch."""
    if (torch := sys.modules.get("torch")) is None:
        return []
    return [f"torch computes with {torch.backends.cpu.get_cpu_capability()}"]


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty without that file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").partition("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if need_gpu and not _has_gpu():
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


def pytest_runtest_setup() -> None:
    # Not an import: tests that need no torch stay without it.
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None:
        stop_waiting()


def _has_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
