"""Measure steps per second of Stable Diffusion's U-Net in a workflow and in diffusers' pipeline, with the same weights.

    python benchmarks/checkpoint_speed.py [--models tiny large] [--latents 8 16 32] [--rounds 5] [--steps 20 2]
        [--no-peaks] [--cpu]

Both sides get the same prompt embeddings and the same noise, and draw with DDIM and classifier-free guidance; their
results are compared first. They take turns in one process with equal threads. `large` has the shape of Stable Diffusion
1.5's U-Net (860 M parameters) with random weights, in bf16 where the CPU has it, shared by both sides. Peak memory is
that of the resident set during sampling, weights and all, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _two_sides import SCALE, Draw, fill_randomly, large_dtype, print_peaks, print_setting, print_speed, status

from guidegraph.nodes.checkpoints.filling import fill
from guidegraph.nodes.sampling.schedule import scaled_linear
from guidegraph.nodes.types import Condition
from guidegraph.workflow import Workflow, load_workflow
from guidegraph_families.diffusers.unet import read_unet_shape, unet_tensors
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from guidegraph_families.networks.unet import ReleasedUNet

TOKENS = 77
WORKFLOW = Path(__file__).parent / "checkpoint_speed.yaml"


def tiny_unet() -> Any:
    """A `UNet2DConditionModel` with the topology of Stable Diffusion's, of 64 and 128 channels."""
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
    )


def large_unet() -> Any:
    """The shape of Stable Diffusion 1.5's U-Net; small random weights, so that nothing grows."""
    import diffusers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768)
    fill_randomly(unet, large_dtype())
    return unet


def diffusers_side(unet: Any, noise: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline: latents after some steps."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).to(unet.dtype)
    pipe: Any = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    side = noise.shape[-1] * pipe.vae_scale_factor

    def draw(steps: int) -> torch.Tensor:
        latents: torch.Tensor = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            height=side,
            width=side,
            num_inference_steps=steps,
            guidance_scale=SCALE,
            latents=noise.to(unet.dtype).clone(),
            output_type="latent",
        ).images
        return latents

    return draw


def our_side(unet: Any, noise: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> Draw:
    """Draws with a workflow; the denoiser's weights are those of `unet`, shared."""
    shape = read_unet_shape(dict(unet.config) | {"_class_name": type(unet).__name__}, Path("config.json"), "eps")
    with torch.device("meta"):
        network = ReleasedUNet(shape)
    fill(network, unet_tensors(unet.state_dict(), shape), "the U-Net")
    denoiser = ReleasedDenoiser(network).eval()
    conditions = {"positive": Condition(tokens=positive), "negative": Condition(tokens=negative)}
    workflow: Workflow = load_workflow(WORKFLOW)

    def draw(steps: int) -> torch.Tensor:
        outputs = workflow.run(denoiser=denoiser, schedule=scaled_linear(), noise=noise, steps=steps, **conditions)
        latents: torch.Tensor = outputs["latent"]
        return latents

    return draw


SIDES = {"guidegraph": our_side, "diffusers": diffusers_side}


def sides(model: str, latent: int) -> dict[str, Callable[[], Draw]]:
    """How to make each side, on one U-Net."""
    unet = (tiny_unet() if model == "tiny" else large_unet()).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 4, latent, latent, generator=generator)
    width = unet.config.cross_attention_dim
    texts = [torch.randn(1, TOKENS, width, generator=generator).to(unet.dtype) for _ in range(2)]
    return {name: lambda make=make: make(unet, noise, *texts) for name, make in SIDES.items()}  # type: ignore[misc]


def memory_of(side: str, model: str, latent: int, options: argparse.Namespace) -> int:
    """The peak of the resident set in bytes while one side samples, weights and all, in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, "--models", model, "--latents", str(latent)]
    done = subprocess.run(
        [*command, "--threads", str(options.threads)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    return int(done.stdout)


def compare(model: str, latent: int, steps: int, options: argparse.Namespace) -> None:
    """Print one model's figures at one size."""
    draws = {name: make() for name, make in sides(model, latent).items()}
    print_speed(f"{model:<6} {latent:>2}×{latent:<2}", draws, steps, options.rounds, options.cpu)
    if options.peaks:
        print_peaks(*(memory_of(name, model, latent, options) for name in SIDES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("tiny", "large"), default=["tiny", "large"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs=2, default=(20, 2), help="of tiny and of large")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latents", type=int, nargs="+", default=[8, 16, 32], help="sides of the latent")
    parser.add_argument("--no-peaks", dest="peaks", action="store_false", help="leave out the peaks of memory")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, for a machine with other work")
    parser.add_argument("--memory", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory is not None:
        draw = sides(options.models[0], options.latents[0])[options.memory]()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of making the model, is forgotten
        draw(2)
        print(status("VmHWM"))
        return
    print_setting(options.threads)
    for model in options.models:
        for latent in options.latents:
            compare(model, latent, options.steps[model == "large"], options)


if __name__ == "__main__":
    main()
