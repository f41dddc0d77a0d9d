"""Rewrite a LoRA file of lora.save with a smaller rank: `python tools/reduce_lora.py FILE --rank 6`.

The change of each layer, α/r · BA, is replaced by the nearest one of that rank, by its singular values (Eckart & Young
1936). Prints how much of the squared norm of all changes is kept. For files in kohya's layout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph.nodes.models.store import write_atomic

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def reduce_pair(down: Tensor, up: Tensor, alpha: float, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The factors of the nearest change of a smaller rank with α = rank, and the squared norms before and after."""
    scale = alpha / down.shape[0]
    left, values, right = torch.linalg.svd(
        scale * up.double().flatten(1) @ down.double().flatten(1), full_matrices=False
    )
    root = values[:rank].sqrt()
    new_down = (root[:, None] * right[:rank]).reshape(-1, *down.shape[1:])
    new_up = (left[:, :rank] * root).reshape(up.shape[0], -1, *up.shape[2:])
    square = values.square()
    return (
        new_down.to(down.dtype).contiguous(),
        new_up.to(up.dtype).contiguous(),
        *(float(part.sum()) for part in (square, square[:rank])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rank", type=int, default=6)
    options = parser.parse_args()
    tensors = load_file(options.file)
    layers = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    expected = {layer + part for layer in layers for part in (DOWN, UP, ALPHA)}
    if not layers or expected != {*tensors}:
        parser.error(f"expected a LoRA in kohya's layout, as lora.save writes it by default; found '{options.file}'")
    reduced, before, after = {}, 0.0, 0.0
    for layer in layers:
        rank = min(options.rank, tensors[layer + DOWN].shape[0])
        down, up, whole, kept = reduce_pair(
            tensors[layer + DOWN], tensors[layer + UP], float(tensors[layer + ALPHA]), rank
        )
        reduced |= {layer + DOWN: down, layer + UP: up, layer + ALPHA: torch.tensor(float(rank))}
        before, after = before + whole, after + kept
    write_atomic(options.file, lambda file: save_file(reduced, file, metadata={"format": "pt"}))
    share = 100 * after / before if before else 100.0
    print(f"{options.file}: {len(layers)} layers, {share:.1f} % of the squared norm kept")


if __name__ == "__main__":
    main()
