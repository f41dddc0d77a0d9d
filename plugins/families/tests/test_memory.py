"""Weights are memory-mapped, and cast as they load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

BENCHMARK = ROOT / "benchmarks" / "checkpoint_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="RssAnon is read from /proc")
def test_loading_takes_no_more_anonymous_memory_than_the_weights_in_their_dtype(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--megabytes", "150", "--json", str(tmp_path / "peaks.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    peaks = json.loads((tmp_path / "peaks.json").read_text())
    assert {(peak["format"], peak["dtype"]) for peak in peaks} == {
        (name, dtype) for name in ("safetensors", "torch.save") for dtype in ("float32", "bfloat16")
    }
    for peak in peaks:
        assert peak["file"] > 1e8
        cast = peak["dtype"] == "bfloat16"
        assert (0.9 if cast else 0) <= peak["ratio"] <= (1.2 if cast else 0.1)  # mapped weights are no anonymous memory
