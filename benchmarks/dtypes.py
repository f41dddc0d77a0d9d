"""Measure a call of the embedded denoiser in each dtype of a run, beside float32.

    python benchmarks/dtypes.py [--latents 16 32]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/dtypes.py

The least CPU time of five calls at batch 1, after one that is not counted. Prints milliseconds, multiples of float32,
whether the policy (`graph/hardware/policy.py`) says that the dtype is emulated, the machine and the versions.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from bundle_speed import machine

from guidegraph.graph.device_context import DTYPES, use_device
from guidegraph.graph.hardware.policy import CPU_POLICY
from guidegraph.graph.paths import resolve_path
from guidegraph.nodes.models.model_nodes import load_model

MODEL, CHANNELS, CALLS = "pkg:scenes", 4, 5


@torch.no_grad()
def least_seconds(dtype: str, side: int) -> float:
    """The least CPU time of a call in a dtype, at latents of side × side."""
    with use_device("cpu", dtype):
        model = load_model(path=resolve_path(MODEL, Path.cwd()))
        condition = model.text(["a tiger on grass under a night sky"])
    x, t = torch.zeros(1, CHANNELS, side, side, dtype=getattr(torch, dtype)), torch.full((1,), 500)
    times: list[float] = []
    for _ in range(CALLS + 1):
        began = time.process_time()
        model.denoiser(x, t, condition)
        times.append(time.process_time() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| dtype | emulated | latent | ms | times float32 |\n| --- | --- | --- | --- | --- |")
    for side in options.latents:
        alone = least_seconds("float32", side)
        for dtype in DTYPES:
            seconds = alone if dtype == "float32" else least_seconds(dtype, side)
            emulated = "yes" if CPU_POLICY.emulates(dtype) else "no"
            row = f"{emulated} | {side} × {side} | {1000 * seconds:.0f} | {seconds / alone:.1f}"
            print(f"| {dtype} | {row} |", flush=True)
    limits = {name: os.environ.get(name, "not set") for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")}
    print(f"\n{', '.join(f'{name}: {value}' for name, value in limits.items())}; {machine(options.threads)}")


if __name__ == "__main__":
    main()
