"""Run every experiment of docs/understand/experiments.md, one after the other, and say how long each took.

    python tools/experiments.py [--full] [--workers 2] [--device cpu] [--only ldm] [-n]

The small setting is for two cores (docs/understand/experiments.md has its times), --full for a GPU. Results, a report
of each sweep and seconds.json go to runs/experiments or runs/experiments/full. Finished cells are not run again. More
than one worker needs `pip install -e "./plugins/lab[ray]"`. -n prints the commands and runs none.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from guidegraph_runtime.files.atomic_write import write_text

HERE = Path("workflows/experiments")
SAMPLERS = {False: "ddim,dpmpp_2m", True: "ddim,dpmpp_2m,heun,euler_ancestral"}


def commands(full: bool, workers: int, device: str) -> dict[str, list[str]]:
    """The arguments of `guidegraph` for each experiment, in an order in which each finds the models that it needs."""
    out = Path("runs/experiments/full" if full else "runs/experiments")
    tables = HERE / "full" if full else HERE
    place = [] if device == "cpu" else ["--device", device]
    ray = ["--ray", "local", "--workers", str(workers)] if workers > 1 else []

    def run(name: str, *more: str) -> list[str]:
        return ["run", str(HERE / f"{name}.yaml"), *more, "--out", str(out / name), *place]

    def sweep(name: str, *more: str) -> list[str]:
        table = str(tables / f"{name}.csv")
        return ["sweep", str(HERE / f"{name}.yaml"), "--from", table, *more, "--out", str(out / name), *place, *ray]

    drawn = ["--grid", f"sampler={SAMPLERS[full]}"]
    drawn += ["--grid", "steps=5,10,25,50,100,200"] if full else ["--set", "references=500"]
    samples, references, levels = (1000, 1000, 1000) if full else (200, 1500, 100)
    return {
        "pixels": run("pixels", "--set", f"path={out / 'kl-f1'}"),
        "first_stage_kl": sweep("first_stage_kl"),
        "ldm": sweep("ldm"),
        "first_stage_vq": sweep("first_stage_vq"),
        "sampling": sweep("sampling", *drawn),
        "class_guidance": run("class_guidance", "--set", f"count={samples}", "--set", f"references={references}"),
        "rate_distortion": run("rate_distortion", "--set", f"steps={levels}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the setting for a GPU")
    parser.add_argument("--workers", type=int, help="cells at once: 2 without a GPU, 1 with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; may be given again")
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    workers = arguments.workers or (min(2, os.cpu_count() or 1) if arguments.device == "cpu" else 1)
    chosen = commands(arguments.full, workers, arguments.device)
    if arguments.only:
        if unknown := set(arguments.only) - set(chosen):
            parser.error(f"no experiment {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in chosen if name in arguments.only}

    seconds: dict[str, float] = {}
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if arguments.device == "cpu" else {}
    for name, words in chosen.items():
        print(f"{name}: guidegraph {shlex.join(words)}", flush=True)
        if arguments.dry_run:
            continue
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "guidegraph", *words], env={**environment, **os.environ})
        if done.returncode:
            raise SystemExit(
                f"{name} ended with {done.returncode}; a sweep goes on with what is missing: --only {name}"
            )
        seconds[name] = round(time.perf_counter() - began, 1)
        out = Path(words[words.index("--out") + 1])
        subprocess.run([sys.executable, "-m", "guidegraph", "report", str(out)], env=os.environ, check=True)
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    if seconds:
        seconds_file = out.parent / "seconds.json"
        earlier = json.loads(seconds_file.read_text(encoding="utf-8")) if seconds_file.exists() else {}
        write_text(seconds_file, json.dumps({**earlier, **seconds}, indent=2) + "\n")
        print(f"{sum(seconds.values()) / 60:.0f} minutes in all; wrote {seconds_file}")


if __name__ == "__main__":
    main()
