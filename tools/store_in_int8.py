"""Rewrite model folders with their matrices in int8, which halves the files: `python tools/store_in_int8.py FOLDER …`.

Prints for each part the size of its file before and after, and the signal-to-noise ratio of its weights in decibels.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph.nodes.models.model_json import read_index
from guidegraph.nodes.models.store import KINDS, load_part, save_parts

CPU = torch.device("cpu")


def rewrite(folder: Path) -> None:
    """Rewrite the parts of a model folder that are networks."""
    names = [name for name, part in read_index(folder).items() if part.get("kind") in KINDS]
    modules = {name: load_part(folder, name, device=CPU, dtype=torch.float32) for name in names}
    sizes = {name: measure_size(folder, name) for name in names}
    save_parts(folder, modules, dtype=torch.int8)
    for name, before in modules.items():
        after = load_part(folder, name, device=CPU, dtype=torch.float32)
        ratio = measure_noise(before, after)
        print(f"{folder} {name}: {sizes[name] / 1e6:.2f} -> {measure_size(folder, name) / 1e6:.2f} MB, {ratio:.1f} dB")


def measure_size(folder: Path, name: str) -> int:
    """The bytes of a part's file."""
    return (folder / f"{name}.safetensors").stat().st_size


def measure_noise(before: nn.Module, after: nn.Module) -> float:
    """The signal-to-noise ratio of weights in decibels."""
    signal = noise = 0.0
    for weight, stored in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
        if weight.is_floating_point():
            signal += float(weight.double().square().sum())
            noise += float((weight.double() - stored.double()).square().sum())
    return 10 * math.log10(signal / noise) if noise else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="folders that model.save wrote")
    for folder in parser.parse_args().folder:
        rewrite(folder)


if __name__ == "__main__":
    main()
