"""Measure steps per second and peak memory of transformers in a workflow and in diffusers' pipelines, on equal weights.

    python benchmarks/transformer_speed.py [--families sd3 pixart] [--models tiny large] [--latents 16 32]
        [--rounds 5] [--steps 20 2] [--no-peaks]

Each family has a tiny network and a large one, which has the released shape of PixArt-Σ (611 M parameters) or twelve of
the blocks of Stable Diffusion 3 (569 M); both have random weights. The large one is in bf16 where the CPU has it.
Weights are written to a scratch folder, from which both sides load. Both get the same embeddings and noise and draw
with classifier-free guidance: SD3 with Euler's steps on its flow, PixArt with DDIM. Their results are compared first.
They take turns in one process with equal threads. Peak memory is that of the resident set of a process that loads and
samples on one side and imports nothing of the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from _two_sides import SCALE, Draw, fill_randomly, large_dtype, print_peaks, print_setting, print_speed, status

Model: TypeAlias = Literal["tiny", "large"]
TOKENS, SHIFT = 77, 3.0
TINY_SD3 = {"num_layers": 4, "num_attention_heads": 4, "caption_projection_dim": 256, "joint_attention_dim": 64}
SHAPES: dict[str, dict[Model, dict[str, Any]]] = {
    "sd3": {
        "tiny": {**TINY_SD3, "pooled_projection_dim": 64, "qk_norm": "rms_norm", "pos_embed_max_size": 96},
        "large": {"num_layers": 12, "caption_projection_dim": 1152, "qk_norm": "rms_norm", "pos_embed_max_size": 96},
    },
    "pixart": {
        "tiny": {
            "num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 64, "cross_attention_dim": 256,
            "caption_channels": 64,
        },
        "large": {"caption_channels": 4096},
    },
}  # fmt: skip
"""Beside diffusers' defaults."""


@dataclass(frozen=True)
class Inputs:
    """Noise (1, C, s, s), and texts (2, L, D) and pooled texts (2, D) of a prompt and of a negative one."""

    noise: torch.Tensor
    tokens: torch.Tensor
    pooled: torch.Tensor | None


def build(family: str, model: Model) -> Any:
    """A transformer of diffusers with random weights."""
    import diffusers

    settings = SHAPES[family][model]
    with torch.device("meta"):
        if family == "sd3":
            network: Any = diffusers.SD3Transformer2DModel(**settings)
        else:
            extra = {"use_additional_conditions": False, "sample_size": 64, "interpolation_scale": 1}
            network = diffusers.PixArtTransformer2DModel(**settings, **extra)
    fill_randomly(network, dtype_of(model))
    shallow = type(network).from_config({**network.config, "num_layers": 1})
    network.pos_embed.pos_embed = shallow.pos_embed.pos_embed  # sines and cosines, no weights
    return network.eval()


def dtype_of(model: Model) -> torch.dtype:
    return large_dtype() if model == "large" else torch.float32


def write(family: str, model: Model, folder: Path) -> Path:
    """Write a transformer's folder and return it."""
    network = build(family, model)
    print(f"{family} {model}: {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M parameters", flush=True)
    network.save_pretrained(folder / f"{family}-{model}")
    return folder / f"{family}-{model}"


def make_inputs(folder: Path, family: str, model: Model, latent: int) -> Inputs:
    """Random inputs for the transformer of a folder."""
    config = json.loads((folder / "config.json").read_text())
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, config["in_channels"], latent, latent, generator=generator)
    width = config["joint_attention_dim" if family == "sd3" else "caption_channels"]
    tokens = torch.randn(2, TOKENS, width, generator=generator).to(dtype_of(model))
    if family == "pixart":
        return Inputs(noise, tokens, None)
    pooled = torch.randn(2, config["pooled_projection_dim"], generator=generator)
    return Inputs(noise, tokens, pooled.to(tokens.dtype))


def our_side(folder: Path, family: str, inputs: Inputs) -> Draw:
    """Draws with a workflow, which loads the folder in its first run and keeps the model."""
    from guidegraph.nodes.types import Condition
    from guidegraph.workflow import load_workflow

    conditions = {
        name: Condition(
            tokens=inputs.tokens[i : i + 1], vector=None if inputs.pooled is None else inputs.pooled[i : i + 1]
        )
        for i, name in enumerate(("positive", "negative"))
    }
    dtype = str(inputs.tokens.dtype).removeprefix("torch.")
    workflow = load_workflow(Path(__file__).with_name(f"transformer_speed_{family}.yaml"), dtype=dtype)

    def draw(steps: int) -> torch.Tensor:
        outputs = workflow.run(folder=folder, noise=inputs.noise, steps=steps, **conditions)
        latents: torch.Tensor = outputs["latent"]
        return latents

    return draw


def diffusers_side(folder: Path, family: str, inputs: Inputs) -> Draw:
    """Draws with diffusers' pipeline: latents after some steps."""
    import diffusers

    dtype = inputs.tokens.dtype
    positive, negative = inputs.tokens[:1], inputs.tokens[1:]
    embeddings: dict[str, Any] = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    if family == "sd3":
        assert inputs.pooled is not None
        network: Any = diffusers.SD3Transformer2DModel.from_pretrained(folder, torch_dtype=dtype)
        pipe: Any = diffusers.StableDiffusion3Pipeline(
            transformer=network,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
            **dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "text_encoder_3")),
            **dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3")),
        )
        embeddings |= {
            "pooled_prompt_embeds": inputs.pooled[:1],
            "negative_pooled_prompt_embeds": inputs.pooled[1:],
        }
    else:
        network = diffusers.PixArtTransformer2DModel.from_pretrained(folder, torch_dtype=dtype)
        pipe = diffusers.PixArtSigmaPipeline(
            transformer=network,
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                set_alpha_to_one=False, steps_offset=1,
            ),
            **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
        )  # fmt: skip
        mask = torch.ones(1, TOKENS, dtype=torch.int64)
        embeddings |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None}
        embeddings |= {"use_resolution_binning": False}
    pipe.set_progress_bar_config(disable=True)
    side = inputs.noise.shape[-1] * pipe.vae_scale_factor

    def draw(steps: int) -> torch.Tensor:
        latents: torch.Tensor = pipe(
            height=side,
            width=side,
            num_inference_steps=steps,
            guidance_scale=SCALE,
            latents=inputs.noise.to(dtype).clone(),
            output_type="latent",
            **embeddings,
        ).images
        return latents

    return draw


SIDES: Mapping[str, Callable[[Path, str, Inputs], Draw]] = {"guidegraph": our_side, "diffusers": diffusers_side}


def peak(side: str, folder: Path, family: str, model: Model, options: argparse.Namespace) -> int:
    """The peak of the resident set in bytes while one side loads and samples, in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, "--folder", str(folder), "--families", family]
    command += ["--models", model, "--latents", str(options.latents[-1]), "--threads", str(options.threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def measure_peak(side: str, options: argparse.Namespace) -> None:
    """Load and sample on one side, and print the peak of the resident set of this process."""
    inputs = make_inputs(options.folder, options.families[0], options.models[0], options.latents[0])
    SIDES[side](options.folder, options.families[0], inputs)(2)
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
            with tempfile.TemporaryDirectory() as scratch:
                folder = write(family, model, Path(scratch))
                for latent in options.latents:
                    inputs = make_inputs(folder, family, model, latent)
                    draws = {name: make(folder, family, inputs) for name, make in SIDES.items()}
                    steps = options.steps[model == "large"]
                    print_speed(f"{family:<6} {model} {latent}×{latent}", draws, steps, options.rounds)
                if options.peaks:
                    print_peaks(*(peak(name, folder, family, model, options) for name in SIDES))


if __name__ == "__main__":
    main()
