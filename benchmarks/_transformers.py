"""Transformers of diffusers with random weights, tiny and large, and the pipelines that draw with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import torch
from _two_sides import SCALE, Draw, fill_randomly, large_dtype

Model: TypeAlias = Literal["tiny", "large"]
TOKENS, SHIFT, LABEL, NULL_LABEL = 77, 3.0, 207, 1000
GUIDANCE = 3.5
"""The scale that Flux is told."""

CLASSES = {
    "sd3": "SD3Transformer2DModel",
    "pixart": "PixArtTransformer2DModel",
    "flux": "FluxTransformer2DModel",
    "z_image": "ZImageTransformer2DModel",
    "dit": "DiTTransformer2DModel",
}
TINY_SD3 = {"num_layers": 4, "num_attention_heads": 4, "caption_projection_dim": 256, "joint_attention_dim": 64}
PIXART = {"use_additional_conditions": False, "sample_size": 64, "interpolation_scale": 1}
SHAPES: dict[str, dict[Model, dict[str, Any]]] = {
    "sd3": {
        "tiny": {**TINY_SD3, "pooled_projection_dim": 64, "qk_norm": "rms_norm", "pos_embed_max_size": 96},
        "large": {"num_layers": 12, "caption_projection_dim": 1152, "qk_norm": "rms_norm", "pos_embed_max_size": 96},
    },
    "pixart": {
        "tiny": {
            **PIXART, "num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 64, "cross_attention_dim": 256,
            "caption_channels": 64,
        },
        "large": {**PIXART, "caption_channels": 4096},
    },
    "flux": {
        "tiny": {
            "num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64,
            "pooled_projection_dim": 64, "guidance_embeds": True,
        },
        "large": {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True},
    },
    "z_image": {
        "tiny": {"n_layers": 4, "n_refiner_layers": 1, "dim": 256, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64},
        "large": {"n_layers": 2, "n_refiner_layers": 1},
    },
    "dit": {
        "tiny": {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 64, "out_channels": 8},
        "large": {"out_channels": 8},
    },
}  # fmt: skip
"""Beside diffusers' defaults, which are those of released models for PixArt, Flux, Z-Image and DiT."""

TEXT_WIDTHS = {
    "sd3": "joint_attention_dim", "pixart": "caption_channels", "flux": "joint_attention_dim", "z_image": "cap_feat_dim"
}  # fmt: skip
"""The field of config.json with the width of a text's tokens."""


@dataclass(frozen=True)
class Inputs:
    """Noise (1, C, s, s), and texts (2, L, D) and pooled texts (2, D) of a prompt and of a negative one."""

    noise: torch.Tensor
    tokens: torch.Tensor | None
    pooled: torch.Tensor | None


def dtype_of(model: Model) -> torch.dtype:
    return large_dtype() if model == "large" else torch.float32


def build(family: str, model: Model, side: int) -> Any:
    """A transformer of diffusers with random weights. side: of the latents, which a DiT knows."""
    import diffusers

    settings = {**SHAPES[family][model], **({"sample_size": side} if family == "dit" else {})}
    with torch.device("meta"):
        network: Any = getattr(diffusers, CLASSES[family])(**settings)
    fill_randomly(network, dtype_of(model))
    if hasattr(network, "pos_embed") and hasattr(network.pos_embed, "pos_embed"):  # sines and cosines, no weights
        shallow = type(network).from_config({**network.config, "num_layers": 1})
        network.pos_embed.pos_embed = shallow.pos_embed.pos_embed
    if family == "dit":
        for block in network.transformer_blocks[1:]:  # one embedding for all blocks, as in the released models
            block.norm1.emb.load_state_dict(network.transformer_blocks[0].norm1.emb.state_dict())
    return network.eval()


def write(family: str, model: Model, side: int, folder: Path) -> Path:
    """Write a transformer's folder and return it."""
    network = build(family, model, side)
    print(f"{family} {model}: {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M parameters", flush=True)
    network.save_pretrained(folder / f"{family}-{model}")
    return folder / f"{family}-{model}"


def make_inputs(folder: Path, family: str, model: Model, latent: int) -> Inputs:
    """Random inputs for the transformer of a folder."""
    config = json.loads((folder / "config.json").read_text())
    generator = torch.Generator().manual_seed(1)
    channels = config["in_channels"] // (4 if family == "flux" else 1)
    noise = torch.randn(1, channels, latent, latent, generator=generator)
    if family == "dit":
        return Inputs(noise, None, None)
    tokens = torch.randn(2, TOKENS, config[TEXT_WIDTHS[family]], generator=generator).to(dtype_of(model))
    if "pooled_projection_dim" not in config:
        return Inputs(noise, tokens, None)
    pooled = torch.randn(2, config["pooled_projection_dim"], generator=generator)
    return Inputs(noise, tokens, pooled.to(tokens.dtype))


def diffusers_side(folder: Path, family: str, model: Model, inputs: Inputs) -> Draw:
    """Draws with diffusers' pipeline: latents after some steps."""
    import diffusers

    network = getattr(diffusers, CLASSES[family]).from_pretrained(folder, torch_dtype=dtype_of(model))
    return PIPELINES[family](network, inputs)


def _draw(pipe: Any, inputs: Inputs, settings: dict[str, Any], noise: torch.Tensor | None = None) -> Draw:
    """Draws with a pipeline that takes noise and gives latents."""
    pipe.set_progress_bar_config(disable=True)
    side = inputs.noise.shape[-1] * pipe.vae_scale_factor
    start = inputs.noise.to(pipe.transformer.dtype) if noise is None else noise

    def draw(steps: int) -> torch.Tensor:
        latents: torch.Tensor = pipe(
            height=side,
            width=side,
            num_inference_steps=steps,
            latents=start.clone(),
            output_type="latent",
            **settings,
        ).images
        return latents

    return draw


def _sd3(network: Any, inputs: Inputs) -> Draw:
    import diffusers

    assert inputs.tokens is not None
    assert inputs.pooled is not None
    pipe: Any = diffusers.StableDiffusion3Pipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        **dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "text_encoder_3")),
        **dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3")),
    )
    embeddings = {
        "prompt_embeds": inputs.tokens[:1],
        "negative_prompt_embeds": inputs.tokens[1:],
        "pooled_prompt_embeds": inputs.pooled[:1],
        "negative_pooled_prompt_embeds": inputs.pooled[1:],
    }
    return _draw(pipe, inputs, {"guidance_scale": SCALE, **embeddings})


def _pixart(network: Any, inputs: Inputs) -> Draw:
    import diffusers

    assert inputs.tokens is not None
    pipe: Any = diffusers.PixArtSigmaPipeline(
        transformer=network,
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
    )  # fmt: skip
    mask = torch.ones(1, TOKENS, dtype=torch.int64)
    embeddings = {
        "prompt_embeds": inputs.tokens[:1],
        "negative_prompt_embeds": inputs.tokens[1:],
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
        "negative_prompt": None,
    }
    return _draw(pipe, inputs, {"guidance_scale": SCALE, "use_resolution_binning": False, **embeddings})


def _flux(network: Any, inputs: Inputs) -> Draw:
    """One call a step: the network is told its guidance scale."""
    import diffusers

    assert inputs.tokens is not None
    assert inputs.pooled is not None
    pipe: Any = diffusers.FluxPipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=True),
        **dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
    )
    batch, channels, height, width = inputs.noise.shape
    packed = pipe._pack_latents(inputs.noise.to(network.dtype), batch, channels, height, width)
    embeddings = {"prompt_embeds": inputs.tokens[:1], "pooled_prompt_embeds": inputs.pooled[:1]}
    draw = _draw(pipe, inputs, {"guidance_scale": GUIDANCE, **embeddings}, packed)
    pixels = height * pipe.vae_scale_factor, width * pipe.vae_scale_factor
    return lambda steps: pipe._unpack_latents(draw(steps), *pixels, pipe.vae_scale_factor)


def _z_image(network: Any, inputs: Inputs) -> Draw:
    import diffusers

    assert inputs.tokens is not None
    pipe: Any = diffusers.ZImagePipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer")),
    )
    embeddings = {"prompt_embeds": [inputs.tokens[0]], "negative_prompt_embeds": [inputs.tokens[1]]}
    return _draw(pipe, inputs, {"guidance_scale": SCALE - 1, **embeddings}, inputs.noise)


def _dit(network: Any, inputs: Inputs) -> Draw:
    """The pipeline takes no noise and always decodes: its noise is replaced, and its decoder does nothing."""
    import diffusers

    vae: Any = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    pipe: Any = diffusers.DiTPipeline(network, vae, diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    noise = inputs.noise.to(network.dtype)

    def draw(steps: int) -> torch.Tensor:
        decoded: list[torch.Tensor] = []

        def decode(latents: torch.Tensor) -> SimpleNamespace:
            decoded.append(latents * vae.config.scaling_factor)
            return SimpleNamespace(sample=latents)

        with (
            patch("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: noise),
            patch.object(vae, "decode", decode),
        ):
            pipe([LABEL], guidance_scale=SCALE, num_inference_steps=steps, output_type="pt")
        return decoded[0]

    return draw


PIPELINES: dict[str, Callable[[Any, Inputs], Draw]] = {
    "sd3": _sd3, "pixart": _pixart, "flux": _flux, "z_image": _z_image, "dit": _dit
}  # fmt: skip
