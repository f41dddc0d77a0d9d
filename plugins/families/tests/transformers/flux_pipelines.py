"""Tiny pipelines of Flux.1 of diffusers with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from plugins.families.tests import tiny
from plugins.families.tests.transformers import flux_writer

LATENT = (4, 16, 12)
"""Of the latents of one picture."""


def vae() -> Any:
    """The first stage of flows, with Flux's scale and shift."""
    return tiny.flow_vae(LATENT[0], 0.3611, 0.1159)


def scheduler(family: str) -> Any:
    """The scheduler of dev shifts by the size of the picture, that of schnell does not."""
    import diffusers

    dynamic = family != "schnell"
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0 if dynamic else 1.0, use_dynamic_shifting=dynamic)


def pipeline(family: str, folder: Path) -> Any:
    """A pipeline of diffusers; its tokenizers are written under `folder`."""
    import diffusers
    import transformers

    tiny.write_tokenizer(folder / "clip")
    tiny.write_t5_tokenizer(folder / "t5")
    pipe = diffusers.FluxPipeline(
        scheduler=scheduler(family),
        vae=vae(),
        text_encoder=tiny.clip(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(folder / "clip")),
        text_encoder_2=tiny.t5(),
        tokenizer_2=transformers.T5TokenizerFast.from_pretrained(str(folder / "t5")),
        transformer=flux_writer.network(
            family, num_attention_heads=1, joint_attention_dim=48, pooled_projection_dim=64
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompts: list[str], noise: Tensor, steps: int, guidance: float) -> tuple[Tensor, Tensor]:
    """The latents and the pictures of diffusers' pipeline, as `autoencoder.decode` gives them."""
    batch, channels, height, width = noise.shape
    packed = pipe(
        prompt=prompts,
        height=2 * height,
        width=2 * width,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=pipe._pack_latents(noise, batch, channels, height, width),
        max_sequence_length=512 if pipe.transformer.config.guidance_embeds else 256,
        output_type="latent",
    ).images
    latents = pipe._unpack_latents(packed, 2 * height, 2 * width, 2)
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    return latents, decoded
