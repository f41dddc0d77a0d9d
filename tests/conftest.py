"""One thread for every test, and a reason for each test that this machine cannot run."""

from __future__ import annotations

import os
import sys

import pytest

# For torch, NumPy and onnxruntime here and in every process that a test starts: two threads lose on a busy machine.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if need_gpu and not _has_gpu():
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


def pytest_runtest_setup() -> None:
    # Not an import: tests that need no torch stay without it.
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
