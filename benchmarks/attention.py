"""Measure torch's attention on narrow heads as they are, and padded with zeros as the CPU's policy does.

    python benchmarks/attention.py [--widths 4 8 12 24] [--rounds 7] [--threads 1]

Float32, batch 2, 8 heads, as many queries and keys as pixels. The ways take turns in one process. Prints the least CPU
milliseconds of a call each way, and their ratio; where the policy pads nothing, what padding to 16 or the next multiple
of it would do. Machine and versions come last.
"""

from __future__ import annotations

import argparse
import time

import torch
from bundle_speed import machine
from torch import Tensor
from torch.nn import functional as F

from guidegraph.graph.hardware.policy import CPU_POLICY, PADDED_HEAD

PIXELS = (64, 256, 1024)


def attend_padded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention (B, heads, N, D) with heads padded to a multiple of `PADDED_HEAD`."""
    width = query.shape[-1]
    wide = (F.pad(tensor, (0, -width % PADDED_HEAD)) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*wide, scale=width**-0.5)[..., :width]


def compare(pixels: int, width: int, rounds: int) -> str:
    """A row of the table."""
    query, key, value = (torch.randn(2, pixels, 8, width).transpose(1, 2) for _ in range(3))
    ways = {"plain": F.scaled_dot_product_attention, "padded": attend_padded}
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, attend in ways.items():
            began = time.process_time()
            attend(query, key, value)
            least[name] = min(least[name], 1000 * (time.process_time() - began))
    pads = "yes" if CPU_POLICY.spare_width(query.dtype, width, pixels, pixels) else "no"
    ratio = least["plain"] / least["padded"]
    return f"| {pixels} | {width} | {least['plain']:.2f} | {least['padded']:.2f} | {ratio:.2f} | {pads} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 12, 24])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| pixels | width | plain, ms | padded, ms | plain : padded | the policy pads |")
    print("| --- | --- | --- | --- | --- | --- |")
    for pixels in PIXELS:
        for width in options.widths:
            print(compare(pixels, width, options.rounds), flush=True)
    print(f"\n{machine(options.threads)}")


if __name__ == "__main__":
    main()
