"""What the comparisons of a workflow with diffusers' pipeline share; imports neither side."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

SCALE = 7.5
"""The guidance scale."""
Draw = Callable[[int], torch.Tensor]
"""Draws latents in so many steps."""


def fill_randomly(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a network on the meta device small random weights, so that nothing grows; scales are 1, biases 0."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            flat = parameter.ndim == 1
            if flat and name == "weight":
                made = torch.ones(parameter.shape)
            else:
                made = torch.randn(parameter.shape, generator=generator) * (0 if flat else parameter[0].numel() ** -0.5)
            setattr(module, name, torch.nn.Parameter(made.to(dtype), requires_grad=False))


def large_dtype() -> torch.dtype:
    """bf16 where the CPU multiplies in it, float32 otherwise."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def seconds(call: Callable[[], object], cpu: bool = False) -> float:
    """Seconds that a call takes; cpu: those of the processor, for a machine with other work."""
    clock = time.process_time if cpu else time.perf_counter
    started = clock()
    call()
    return clock() - started


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status, such as VmHWM, the peak of the resident set."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def print_speed(label: str, draws: Mapping[str, Draw], steps: int, rounds: int, cpu: bool = False) -> None:
    """Let both sides draw in turn, and print steps a second, their ratio, and how far their latents are apart.

    cpu: by the seconds of the processor.
    """
    first = {name: draw(steps).float() for name, draw in draws.items()}
    distance = float(torch.dist(first["guidegraph"], first["diffusers"]) / first["diffusers"].norm())
    times: dict[str, list[float]] = {name: [] for name in draws}
    for turn in range(rounds):
        for name in list(draws) if turn % 2 else list(reversed(draws)):
            times[name].append(seconds(lambda name=name: draws[name](steps), cpu))  # type: ignore[misc]
    ratios = [theirs / mine for mine, theirs in zip(times["guidegraph"], times["diffusers"], strict=True)]
    speed = {name: steps / statistics.median(values) for name, values in times.items()}
    print(
        f"{label} {steps:>3} steps  guidegraph {speed['guidegraph']:8.3f} steps/s  "
        f"diffusers {speed['diffusers']:8.3f} steps/s  ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} … {max(ratios):.3f})  latents differ by {distance:.1e}",
        flush=True,
    )


def print_peaks(ours: int, theirs: int) -> None:
    """Print the peaks of both sides in bytes and their ratio."""
    print(f"peak memory {ours / 1e6:.0f} / {theirs / 1e6:.0f} MB = {ours / theirs:.2f}", flush=True)


def print_setting(threads: int) -> None:
    """Print the machine, the versions and the threads."""
    names = ("guidegraph", "torch", "diffusers")
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}", end="")
    print("".join(f", {name} {importlib.metadata.version(name)}" for name in names), end="")
    print(f"; threads: {threads}, large in {large_dtype()}")
