"""Measure a process that opens a bundle and makes all of its sessions: size of files, resident memory, CPU time.

    python benchmarks/bundle_memory.py BUNDLE… [--rounds 3]

Each measurement is a process of its own, with one thread; the medians of the rounds are printed. Linux only, for
/proc/self/status. To measure weights inside of the graphs, export with a guidegraph from before they were beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

OPEN = """
import gc, json, sys, time
from guidegraph_runtime import Bundle, SessionSettings

started = time.process_time()
bundle = Bundle(sys.argv[1], SessionSettings.on("cpu", intra_threads=1))
for part in bundle.manifest.parts:
    bundle.session(part)
seconds = time.process_time() - started
gc.collect()
lines = open("/proc/self/status").read().splitlines()
kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
print(json.dumps({"seconds": seconds, **kilobytes}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| bundle | files, MB | resident, MB | at most, MB | CPU time to open, s |\n| --- | --- | --- | --- | --- |")
    for bundle in arguments.bundles:
        command = [sys.executable, "-c", OPEN, str(bundle)]
        outputs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(arguments.rounds)]
        measured = [json.loads(output.stdout) for output in outputs]
        resident, most, seconds = (
            statistics.median(one[name] for one in measured) for name in ("VmRSS", "VmHWM", "seconds")
        )
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        print(f"| {bundle.name} | {size / 1e6:.1f} | {resident / 1024:.0f} | {most / 1024:.0f} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
