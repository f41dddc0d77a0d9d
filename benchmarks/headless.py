"""Measure the savings of a server without torch: environment size, and time from process start to picture.

    python benchmarks/headless.py --keep FOLDER [--rounds 5] [--models embedded tiny]

Makes virtual environments with `pip install ./runtime` alone, with onnxruntime's CPU wheel in the place of the one for
GPUs, with the engine, and with diffusers, and exports bundles; all of these are kept in FOLDER. Then processes draw a
picture in turn, one thread each: `guidegraph-run`, `guidegraph run`, and for a tiny pipeline of Stable Diffusion's
shape, on the same weights, diffusers. Sizes are the bytes of site-packages, without pip. Times: `load` checks and loads
the models, `steps` is the sampling loop, `other` the text, the noise and decoding; `import` is what is left: the
process, its imports, reading the workflow, writing the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _pipelines import pipeline_folder
from bundle_speed import machine

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime"
TEXT_TO_IMAGE = ROOT / "workflows" / "text_to_image.yaml"
CHECKPOINT = ROOT / "workflows" / "checkpoints" / "text_to_image.yaml"
STEPS, LATENT = 30, 16
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
Parts = dict[str, float]


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the bytes of its packages."""

    python: Path
    packages: Path

    def command(self, name: str) -> str:
        return str(self.python.parent / name)

    def bytes(self, *names: str) -> int:
        roots = [self.packages / name for name in names] or [self.packages]
        return sum(path.lstat().st_size for root in roots for path in root.rglob("*") if not path.is_dir())


def environment(folder: Path, *installs: list[str]) -> Environment:
    """The environment in ``folder``; each of ``installs`` are arguments of one `pip install`."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder.name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    # Again where it is there, since the source may have changed.
    for arguments in installs:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *arguments]
        subprocess.run(pip, check=True, env=_environ())
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return Environment(python, Path(result.stdout.strip()))


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def environments(folder: Path) -> dict[str, Environment]:
    needs = tomllib.loads((RUNTIME / "pyproject.toml").read_text())["project"]["dependencies"]
    other_packages = [need for need in needs if not need.startswith("onnxruntime")]
    runtime, engine = str(RUNTIME), str(ROOT)
    again = ["--no-deps", "--force-reinstall"]
    return {
        "runtime": environment(folder / "env-runtime", [runtime], [*again, runtime]),
        "runtime-cpu": environment(folder / "env-runtime-cpu", [*other_packages, "onnxruntime"], [*again, runtime]),
        "engine": environment(folder / "env-engine", [runtime, engine], [*again, runtime, engine]),
        # Its text encoder and tokenizer are those of transformers.
        "engine-clip": environment(folder / "env-engine-clip", [runtime, f"{engine}[clip]"], [*again, runtime, engine]),
        "diffusers": environment(folder / "env-diffusers", ["torch", "diffusers", "transformers", "pillow"]),
    }


def check_no_torch(environment: Environment) -> None:
    done = subprocess.run([str(environment.python), "-c", "import torch"], capture_output=True, text=True)
    if "ModuleNotFoundError" not in done.stderr:
        raise SystemExit(f"'import torch' does not fail in {environment.python.parent}")


def bundle(folder: Path, name: str, workflow: Path, params: dict[str, Any]) -> Path:
    path = folder / f"{name}-bundle"
    if not path.exists():
        print(f"exporting {path.name} …", flush=True)
        command = [sys.executable, "-m", "guidegraph", "export", str(workflow), "-o", str(path), *_set(params)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def _set(params: dict[str, Any]) -> list[str]:
    return [option for key, value in params.items() for option in ("--set", f"{key}={value}")]


def run_bundle(environment: Environment, path: Path, out: Path) -> tuple[float, Parts]:
    """A picture from a bundle: seconds in all, and apart."""
    arguments = [str(path), "--set", f"steps={STEPS}", "--out", str(out), "--threads", "1", "--quiet"]
    took = _measure_time([environment.command("guidegraph-run"), *arguments])[0]
    record = json.loads((out / "run.json").read_text())
    timings = record["timings"]
    load, steps = timings["verify"] + timings["load"], timings["parts"]["sample.step"]["seconds"]
    # Sessions are made in the operations that first need them.
    other = sum(timings["operations"].values()) - timings["load"] - steps
    return took, _split_time(took, load, steps, other)


def run_engine(environment: Environment, workflow: Path, params: dict[str, Any], out: Path) -> tuple[float, Parts]:
    """A picture from the engine."""
    arguments = [str(workflow), *_set({**params, "steps": STEPS}), "--out", str(out), "--quiet"]
    took = _measure_time([environment.command("guidegraph"), "run", *arguments])[0]
    record = json.loads((out / "run.json").read_text())
    timings = record["timings"]
    load, steps = sum(timings.get(f"nodes.{name}", 0) for name in ("model", "sampling")), timings["nodes.sample"]
    return took, _split_time(took, load, steps, sum(timings.values()) - load - steps)


def run_diffusers(environment: Environment, folder: Path, out: Path) -> tuple[float, Parts]:
    """A picture from diffusers' pipeline."""
    script = Path(__file__).with_name("_diffusers_process.py")
    out.mkdir()
    arguments = [str(script), str(folder), str(out / "image.png"), str(STEPS), str(8 * LATENT)]
    took, output = _measure_time([str(environment.python), *arguments])
    result = json.loads(output.splitlines()[-1])
    return took, _split_time(took, result["load"], result["steps"], result["drawing"] - result["steps"])


def _measure_time(command: list[str]) -> tuple[float, str]:
    environ = _environ() | ONE_THREAD | OFFLINE
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return took, done.stdout


def _split_time(took: float, load: float, steps: float, other: float) -> Parts:
    return {"import": took - load - steps - other, "load": load, "steps": steps, "other": other}


def sizes(built: dict[str, Environment]) -> None:
    """Print the sizes. The CPU wheel saves the engine as much as the runtime, since both have the same onnxruntime."""
    total = {name: environment.bytes() for name, environment in built.items()}
    gpu = built["runtime"].bytes("onnxruntime")
    print(f"runtime      {total['runtime'] / 1e6:7.0f} MB, of which onnxruntime-gpu {gpu / total['runtime']:.0%}")
    print(f"runtime, CPU {total['runtime-cpu'] / 1e6:7.0f} MB")
    saved = total["runtime"] - total["runtime-cpu"]
    for kind, runtime, less in (("", total["runtime"], 0), (", CPU", total["runtime-cpu"], saved)):
        for other, size in (("engine", total["engine"] - less), ("diffusers", total["diffusers"])):
            print(f"{other:<12} {size / 1e6:7.0f} MB; runtime{kind} : {other} = {runtime / size:.3f}")


def compare(name: str, sides: dict[str, Callable[[Path], tuple[float, Parts]]], rounds: int) -> None:
    """Print the times of sides that take turns; the first round warms the system's caches and is not counted."""
    took: dict[str, list[float]] = {side: [] for side in sides}
    parts: dict[str, list[Parts]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side in list(sides) if turn % 2 else list(reversed(sides)):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                seconds, result = sides[side](out)
                if not list(out.glob("image*.png")):
                    raise SystemExit(f"{side} wrote no picture")
            if turn:
                took[side].append(seconds)
                parts[side].append(result)
    for side, times in took.items():
        medians = {key: statistics.median(part[key] for part in parts[side]) for key in parts[side][0]}
        split_times = "  ".join(f"{key} {seconds:.3f}" for key, seconds in medians.items())
        spread = f"({min(times):.3f} … {max(times):.3f})"
        print(f"{name:<9} {side:<12} {statistics.median(times):6.3f} s {spread}  {split_times}", flush=True)
    bundles = [side for side in took if side.startswith("bundle")]
    for mine in bundles:
        for other in [side for side in took if side not in bundles]:
            ratios = [ours / theirs for ours, theirs in zip(took[mine], took[other], strict=True)]
            spread = f"({min(ratios):.3f} … {max(ratios):.3f})"
            print(f"{name:<9} {mine} : {other} = {statistics.median(ratios):.3f} {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("embedded", "tiny"), default=["embedded", "tiny"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="the folder of environments and bundles; 4 GB")
    options = parser.parse_args()
    folder = (options.keep or Path(tempfile.mkdtemp())).absolute()
    try:
        print(machine(1))
        built = environments(folder)
        for name in ("runtime", "runtime-cpu"):
            check_no_torch(built[name])
        sizes(built)
        for name in options.models:
            compare(name, _sides(name, folder, built), options.rounds)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def _sides(name: str, folder: Path, built: dict[str, Environment]) -> dict[str, Callable[[Path], tuple[float, Parts]]]:
    workflow: Path = TEXT_TO_IMAGE
    params: dict[str, Any] = {}
    if name == "tiny":
        pipeline = pipeline_folder("tiny", folder)
        workflow, params = CHECKPOINT, {"checkpoint": pipeline, "shape": [4, LATENT, LATENT], "prompt": "a b c"}
    path = bundle(folder, name, workflow, params)
    sides: dict[str, Callable[[Path], tuple[float, Parts]]] = {
        "bundle": lambda out: run_bundle(built["runtime"], path, out),
        "bundle, CPU": lambda out: run_bundle(built["runtime-cpu"], path, out),
        "engine": lambda out: run_engine(built["engine-clip" if name == "tiny" else "engine"], workflow, params, out),
    }
    if name == "tiny":
        sides["diffusers"] = lambda out: run_diffusers(built["diffusers"], pipeline, out)
    return sides


if __name__ == "__main__":
    main()
