"""Pipelines of diffusers with tiny random weights, saved as folders like downloaded ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer() -> Any:
    """A tokenizer of letters that truncates texts to 16 tokens."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        files = (f"{folder}/vocab.json", f"{folder}/merges.txt")
        return transformers.CLIPTokenizer(*files, model_max_length=16)


def clip(width: int, *, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=width,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in LETTERS)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def t5(width: int) -> Any:
    config = transformers.T5Config(vocab_size=30, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config).eval()


def vae(channels: int = 4, blocks: int = 2, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        **config,
    ).eval()


def unet(**config: Any) -> Any:
    sizes = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
    }
    return diffusers.UNet2DConditionModel(**sizes | config).eval()


def plain_unet(**config: Any) -> Any:
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **config,
    ).eval()


def dit() -> Any:
    """Learned variance and 1000 classes, as the released ones have."""
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=2, sample_size=8
    ).eval()


def pixart(sample_size: int = 8) -> Any:
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=6,
        num_layers=2,
        cross_attention_dim=12,
        sample_size=sample_size,
        caption_channels=10,
    ).eval()


def sd3() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
    ).eval()


def flux(guided: bool) -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def dit_pipeline() -> Any:
    return diffusers.DiTPipeline(dit(), vae(), diffusers.DDIMScheduler(clip_sample=False))


def pixart_pipeline(sample_size: int = 8) -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2)
    return diffusers.PixArtAlphaPipeline(t5_tokenizer(), t5(10), vae(blocks=4), pixart(sample_size), scheduler)


def sd3_pipeline(**scheduler: Any) -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=sd3(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | scheduler),
        vae=vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip(8, projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(8, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(24),
        tokenizer_3=t5_tokenizer(),
    )


def flux_pipeline(*, guided: bool) -> Any:
    """guided: like Flux-dev, with a shift that depends on the size; otherwise like Flux-schnell."""
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guided),
        vae=vae(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip(8),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(12),
        tokenizer_2=t5_tokenizer(),
        transformer=flux(guided),
    )


def sd_pipeline(scheduler: Any = None, **config: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(12),
        tokenizer=clip_tokenizer(),
        unet=unet(**config),
        scheduler=scheduler or diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline() -> Any:
    """The pooled text is 8 wide, and each of the six numbers of sizes is embedded in 4."""
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(4),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(8, projected=True),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4
        ),
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def save(pipeline: Any, folder: Path, seed: int = 0) -> Path:
    """Save a pipeline, with noise on its weights so that none stays at an initial zero or one; returns the folder."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in pipeline.components.values():
            for weight in part.parameters() if isinstance(part, torch.nn.Module) else ():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    pipeline.save_pretrained(str(folder))
    return folder
