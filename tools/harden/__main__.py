"""``python -m tools.harden``: damaged bundles, random graphs, kills and a soak, with the figures of each."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

PARTS = ("mutants", "graphs", "kills", "soak")
GOOD = ("whole", "the same picture", "exit code 0", "exit code 1", "exit code 2", "ran")
PACKAGES = ("torch", "numpy", "pydantic")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.harden", description=__doc__)
    parser.add_argument("--mutants", type=int, default=3000, help="damaged bundles that are described and run")
    parser.add_argument("--graphs", type=int, default=1000, help="random graphs that are validated and run")
    parser.add_argument("--kills", type=int, default=50, help="of a run, a sweep, a training and an export each")
    parser.add_argument("--soak", type=int, default=300, help="runs, and runs of a bundle, on four threads")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave out the others")
    arguments = parser.parse_args()
    import onnxruntime

    versions = " ".join(f"{name} {version(name)}" for name in PACKAGES) + f" onnxruntime {onnxruntime.__version__}"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(versions, flush=True)
    failed = False
    for part in arguments.only or PARTS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="guidegraph-harden-") as folder:
            ends = _attempt(part, getattr(arguments, part), Path(folder))
        print(f"{part}: {sum(ends.values())} in {time.monotonic() - started:.0f} s", flush=True)
        for end, count in sorted(ends.items()):
            print(f"  {count:5} {end}", flush=True)
            failed |= not end.endswith(
                ("whole", "the same picture", "exit code 0", "exit code 1", "exit code 2", "ran")
            )
    sys.exit(1 if failed else 0)


def _attempt(part: str, count: int, folder: Path) -> Counter[str]:
    if part == "mutants":
        from tools.harden.mutants import try_mutants

        return try_mutants(count, folder, _say)
    if part == "graphs":
        from tools.harden.graphs import try_graphs

        return try_graphs(count, folder, _say)
    if part == "kills":
        _import_before_forks()
        from tools.harden.kills import try_kills

        return try_kills(count, folder, _say)
    from tools.harden.soak import soak

    return soak(count, folder, _say)


def _import_before_forks() -> None:
    """What every child would import again."""
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    import guidegraph.graph.execution.run  # noqa: F401


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
