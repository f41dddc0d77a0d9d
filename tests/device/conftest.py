"""The device of these tests is compiled before the first of them."""

from __future__ import annotations

import warnings

import pytest
import torch

from guidegraph_testing import simulated_cuda


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """Skip where the device cannot be simulated."""
    if torch.cuda.is_available():
        pytest.skip("torch has CUDA here: the tests marked gpu run on it")
    if reason := simulated_cuda.find_reason():
        warnings.warn(f"no CUDA device is simulated: {reason}", stacklevel=1)
        pytest.skip(reason)
    simulated_cuda.build()
