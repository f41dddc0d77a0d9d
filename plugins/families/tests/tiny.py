"""Networks of diffusers and transformers with the topology of released ones, tiny and of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TOKENS = 7
LETTERS = "abcdefghijklmnopqrstuvwxyz"

CROSS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
PIXELS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**CROSS, "cross_attention_dim": 64, "attention_head_dim": 8, "sample_size": 64},
    "inpaint": {**CROSS, "cross_attention_dim": 64, "attention_head_dim": 8, "in_channels": 9, "sample_size": 64},
    "sd2": {
        **CROSS,
        "block_out_channels": (64, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 128),
        "layers_per_block": 2,
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
    "pixels": PIXELS,
    "ddpm": {**PIXELS, "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6},
    "adagn": {
        **PIXELS,
        "out_channels": 6,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,
        "attention_head_dim": 16,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "class": {**PIXELS, "num_class_embeds": 5, "attention_head_dim": None},
}


def unet(family: str, **changes: Any) -> Any:
    """A U-Net of diffusers in evaluation mode; its output is not as small as at initialisation.

    changes: settings in the place of the family's.
    """
    import diffusers

    torch.manual_seed(1)
    kind = diffusers.UNet2DConditionModel if "cross_attention_dim" in UNETS[family] else diffusers.UNet2DModel
    model: Any = kind(**{**UNETS[family], **changes}).eval()
    return model.requires_grad_(False)


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """A CLIP tokenizer whose words are letters."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    words = ["!", *LETTERS, "!</w>", *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77
    )
    tokenizer.save_pretrained(str(folder))


WORDS = 2 * (len(LETTERS) + 1) + 2


def write_t5_tokenizer(folder: Path) -> None:
    """A T5 tokenizer whose pieces are letters, with a piece of two to choose."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in LETTERS)]
    tokenizer = transformers.T5TokenizerFast(vocab=[*pieces, ("ca", -2.5)], extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(str(folder))


PIECES = 32
"""Rows of T5's embedding: as usual, more than the tokenizer has pieces."""


def t5(width: int = 48, layers: int = 2, gated: bool = True) -> Any:
    """T5's encoder of transformers, version 1.1 if it is gated."""
    import transformers

    torch.manual_seed(4)
    activation = "gated-gelu" if gated else "relu"
    config = transformers.T5Config(
        vocab_size=PIECES, d_model=width, d_kv=8, d_ff=40, num_layers=layers, num_heads=3, feed_forward_proj=activation
    )
    model: Any = transformers.T5EncoderModel(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model.requires_grad_(False)


def flow_vae(channels: int, scale: float, shift: float) -> Any:
    """An AutoencoderKL of diffusers as flows have: f = 2, a shift, and no convolutions around its latents."""
    import diffusers

    torch.manual_seed(3)
    model: Any = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return model.eval().requires_grad_(False)


def clip(width: int = 64, layers: int = 3, projection: int | None = None, activation: str = "quick_gelu") -> Any:
    """A CLIP text model of transformers with one head for each 64 channels."""
    import transformers

    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act=activation,
        projection_dim=projection or width,
        bos_token_id=WORDS - 2,
        eos_token_id=WORDS - 1,
        pad_token_id=WORDS - 1,
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    model: Any = kind(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)
