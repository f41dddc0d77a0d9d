"""Measure steps per second and peak memory of transformers in a workflow and in diffusers' pipelines, on equal weights.

    python benchmarks/transformer_speed.py [--families sd3 pixart flux z_image dit] [--models tiny large]
        [--latents 16 32] [--rounds 5] [--steps 20 2] [--no-peaks] [--cpu]

Each family has a tiny network and a large one, both with random weights. The large one has the released shape of
PixArt-Σ (611 M parameters) and of DiT-XL/2 (675 M); or some of the blocks of the released width, as many as make 500 M
or more: twelve of Stable Diffusion 3, one and two of Flux.1, four of Z-Image. It is in bf16 where the CPU has it.
Weights are written to a scratch folder, from which both sides load. Both get the same embeddings and noise and draw
with classifier-free guidance, Flux with the scale that it is told: PixArt and DiT with DDIM, the others with Euler's
steps on their flow. Their results are compared first. They take turns in one process with equal threads. Peak memory is
that of the resident set of a process that loads and samples on one side and imports nothing of the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _transformers import GUIDANCE, LABEL, SHAPES, Inputs, Model, diffusers_side, dtype_of, make_inputs, write
from _two_sides import Draw, print_peaks, print_setting, print_speed, status


def our_side(folder: Path, family: str, model: Model, inputs: Inputs) -> Draw:
    """Draws with a workflow, which loads the folder in its first run and keeps the model."""
    from guidegraph.nodes.types import Condition
    from guidegraph.workflow import load_workflow

    settings: dict[str, Any] = {"folder": folder, "noise": inputs.noise}
    if inputs.tokens is None:
        settings["label"] = LABEL
    else:
        positive, negative = (
            Condition(
                tokens=inputs.tokens[i : i + 1], vector=None if inputs.pooled is None else inputs.pooled[i : i + 1]
            )
            for i in range(2)
        )
        settings |= {"positive": positive}
        settings |= {"guidance": GUIDANCE} if family == "flux" else {"negative": negative}
    dtype = str(dtype_of(model)).removeprefix("torch.")
    workflow = load_workflow(Path(__file__).with_name(f"transformer_speed_{family}.yaml"), dtype=dtype)

    def draw(steps: int) -> torch.Tensor:
        latents: torch.Tensor = workflow.run(**settings, steps=steps)["latent"]
        return latents

    return draw


SIDES: Mapping[str, Callable[[Path, str, Model, Inputs], Draw]] = {"guidegraph": our_side, "diffusers": diffusers_side}


def peak(side: str, folder: Path, family: str, model: Model, options: argparse.Namespace) -> int:
    """The peak of the resident set in bytes while one side loads and samples, in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, "--folder", str(folder), "--families", family]
    command += ["--models", model, "--latents", str(options.latents[-1]), "--threads", str(options.threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def measure_peak(side: str, options: argparse.Namespace) -> None:
    """Load and sample on one side, and print the peak of the resident set of this process."""
    family, model = options.families[0], options.models[0]
    inputs = make_inputs(options.folder, family, model, options.latents[0])
    SIDES[side](options.folder, family, model, inputs)(2)
    print(status("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--models", nargs="+", choices=("tiny", "large"), default=["tiny", "large"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs=2, default=(20, 2), help="of tiny and of large")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latents", type=int, nargs="+", default=[16, 32], help="sides of the latent")
    parser.add_argument("--no-peaks", dest="peaks", action="store_false", help="leave out the peaks of memory")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, for a machine with other work")
    parser.add_argument("--memory", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory is not None:
        measure_peak(options.memory, options)
        return
    print_setting(options.threads)
    for family in options.families:
        for model in options.models:
            for latent in options.latents:
                with tempfile.TemporaryDirectory() as scratch:
                    folder = write(family, model, latent, Path(scratch))
                    inputs = make_inputs(folder, family, model, latent)
                    draws = {name: make(folder, family, model, inputs) for name, make in SIDES.items()}
                    steps = options.steps[model == "large"]
                    print_speed(f"{family:<7} {model} {latent}×{latent}", draws, steps, options.rounds, options.cpu)
                    del draws
                    if options.peaks and latent == options.latents[-1]:
                        print_peaks(*(peak(name, folder, family, model, options) for name in SIDES))


if __name__ == "__main__":
    main()
