"""Measure the anonymous memory of loading a checkpoint, relative to its weights in the requested dtype.

    python benchmarks/checkpoint_memory.py [--megabytes 400] [--dtypes float32 bfloat16] [--json FILE]

A checkpoint in guided-diffusion's layout is written in float32, as safetensors and as torch.save writes it, and loaded
by `checkpoint.load` in a process of its own. Its RssAnon is read from /proc every millisecond, from outside, from after
the imports until the load is done. Memory-mapped weights that need no cast stay in the file and count as none.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.unet import ReleasedUNet

LIMIT = 1.2
MB = 1e6


class Peak(NamedTuple):
    """Of one load: bytes of the file and of the weights as loaded, the greatest growth of RssAnon, and the seconds."""

    format: str
    dtype: str
    file: int
    weights: int
    anonymous: int
    seconds: float

    @property
    def ratio(self) -> float:
        return self.anonymous / self.weights

    def __str__(self) -> str:
        sizes = " ".join(f"{size / MB:9.1f}" for size in (self.file, self.weights, self.anonymous))
        return f"{self.format:<12} {self.dtype:<9} {sizes} {self.ratio:7.3f} {self.seconds:8.2f}"


def shape_of(target_bytes: float) -> UNetShape:
    """The U-Net of guided-diffusion's kind whose float32 weights are nearest to so many bytes."""

    def shape(channels: int) -> UNetShape:
        return UNetShape(
            3, 6, channels, (channels, 2 * channels, 4 * channels), 2, (0, 1, 1), (4,) * 3, scale_shift=True
        )

    def size(channels: int) -> int:
        with torch.device("meta"):
            return 4 * sum(parameter.numel() for parameter in ReleasedUNet(shape(channels)).parameters())

    return shape(min(range(32, 321, 32), key=lambda channels: abs(size(channels) - target_bytes)))


def write(folder: Path, megabytes: float) -> dict[str, Path]:
    """The checkpoint in both formats."""
    torch.manual_seed(0)
    network: nn.Module = ReleasedUNet(shape_of(megabytes * MB))
    tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}
    paths = {"safetensors": folder / "model.safetensors", "torch.save": folder / "model.pt"}
    save_file(tensors, paths["safetensors"])
    torch.save(tensors, paths["torch.save"])
    return paths


def child(path: Path, dtype: str) -> None:
    """Load on request; print the bytes of the weights and the seconds."""
    from guidegraph.graph import device_context
    from guidegraph.nodes.checkpoints import loading  # noqa: F401 - imports are no part of what is measured

    with device_context.use_device("cpu", dtype):
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        loaded = load_checkpoint(path=path, attention="legacy", heads=4, noise_schedule="linear")
        seconds = time.perf_counter() - start
    network: Any = loaded.denoiser
    assert {parameter.dtype for parameter in network.parameters()} == {getattr(torch, dtype)}
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    print(json.dumps({"weights": size, "seconds": seconds}), flush=True)
    sys.stdin.readline()


def anonymous(pid: int) -> int:
    """RssAnon of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def measure(name: str, path: Path, dtype: str) -> Peak:
    """Load in a process of its own and watch it."""
    command = [sys.executable, __file__, "--child", str(path), "--dtypes", dtype]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the process that loads did not start")
        before = peak = anonymous(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0.001)[0]:
            peak = max(peak, anonymous(process.pid))
        output_line = process.stdout.readline()
        if not output_line:
            raise RuntimeError("the process that loads failed")
        peak = max(peak, anonymous(process.pid))
        process.stdin.write("end\n")
    report = json.loads(output_line)
    return Peak(name, dtype, path.stat().st_size, report["weights"], peak - before, report["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child, arguments.dtypes[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), arguments.megabytes)
        print(f"{'format':<12} {'dtype':<9} {'file MB':>9} {'weights':>9} {'anonymous':>9} {'ratio':>7} {'seconds':>8}")
        peaks = []
        for name, path in paths.items():
            for dtype in arguments.dtypes:
                peaks.append(measure(name, path, dtype))
                print(peaks[-1], flush=True)
    worst = max(peak.ratio for peak in peaks)
    print(f"peak anonymous memory at most {worst:.3f} of the weights; the limit is {LIMIT}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([{**peak._asdict(), "ratio": peak.ratio} for peak in peaks], indent=2))
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
