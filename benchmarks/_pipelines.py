"""Pipelines of Stable Diffusion's shape with random weights, as folders that diffusers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TINY: dict[str, Any] = {
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
}
SD15: dict[str, Any] = {"cross_attention_dim": 768}
"""Beside diffusers' defaults: Stable Diffusion 1.5's U-Net, of 860 M parameters."""

SHAPES = {"tiny": TINY, "large": SD15}


def pipeline_folder(model: str, folder: Path) -> Path:
    """The folder of the pipeline ``model``, "tiny" or "large", under ``folder``; written where it is not there yet."""
    path = folder / f"{model}-pipeline"
    if not (path / "model_index.json").is_file():
        _pipeline(SHAPES[model], folder).save_pretrained(path)
    return path


def _pipeline(shape: dict[str, Any], folder: Path) -> Any:
    import diffusers
    import transformers

    torch.manual_seed(0)
    _write_tokenizer(folder / "tokenizer")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    return diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(**shape),
        vae=vae,
        scheduler=scheduler,
        text_encoder=_text_encoder(shape["cross_attention_dim"]),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(width: int) -> Any:
    import transformers

    words = len(_words())
    config = transformers.CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return transformers.CLIPTextModel(config)


def _words() -> list[str]:
    ends = ["!</w>", *(f"{letter}</w>" for letter in LETTERS)]
    return ["!", *LETTERS, *ends, "<|startoftext|>", "<|endoftext|>"]


def _write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer whose words are letters."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(_words())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    made.save_pretrained(str(folder))


def write_clip(folder: Path) -> Path:
    """Write a text encoder of Stable Diffusion 1.5's shape with random weights and a tokenizer. Returns its folder."""
    import transformers

    _write_tokenizer(folder / "tokenizer")
    words = len(_words())
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder
