"""Pack a part of Fashion-MNIST into workflows/data/fashion.npz: 10,000 training pictures and 2,000 test pictures.

    python tools/pack_fashion.py /usr/share/datasets/fashion-mnist [--out workflows/data]

The argument is the folder of the four idx files, such as Debian's package dataset-fashion-mnist installs (MIT). The
first pictures of each file are taken: both are in random order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from guidegraph_scenes.fashion import read_idx

PARTS = {"train": ("train", 10_000), "test": ("t10k", 2_000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("workflows/data"))
    arguments = parser.parse_args()
    arrays = {}
    for split, (stem, count) in PARTS.items():
        arrays[f"{split}_images"] = read_idx(arguments.folder / f"{stem}-images-idx3-ubyte.gz")[:count]
        arrays[f"{split}_labels"] = read_idx(arguments.folder / f"{stem}-labels-idx1-ubyte.gz")[:count]
    np.savez_compressed(arguments.out / "fashion.npz", **arrays)


if __name__ == "__main__":
    main()
