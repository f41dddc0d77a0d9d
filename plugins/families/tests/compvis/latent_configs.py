"""The configurations that latent diffusion released, by name: `models/` and `configs/` of CompVis' latent-diffusion.

Transcribed parameters, in the form of their config.yaml. Nothing of guidegraph is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

Config = dict[str, Any]


def first_stage(
    multiples: Sequence[int], channels: int, attention: Sequence[int] = (), codes: int = 0, **more: Any
) -> Config:
    dd = {
        "double_z": not codes,
        "z_channels": channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": list(multiples),
        "num_res_blocks": 2,
        "attn_resolutions": list(attention),
        "dropout": 0.0,
        **more,
    }
    params: Config = {"embed_dim": channels, "ddconfig": dd}
    return params | ({"n_embed": codes} if codes else {})


FIRST_STAGES: dict[str, Config] = {
    "kl-f4": first_stage((1, 2, 4), 3),
    "kl-f8": first_stage((1, 2, 4, 4), 4),
    "kl-f16": first_stage((1, 1, 2, 2, 4), 16, (16,)),
    "kl-f32": first_stage((1, 1, 2, 2, 4, 4), 64, (16, 8)),
    "vq-f4": first_stage((1, 2, 4), 3, codes=8192),
    "vq-f4-noattn": first_stage((1, 2, 4), 3, codes=8192, attn_type="none"),
    "vq-f8": first_stage((1, 2, 2, 4), 4, (32,), 16384),
    "vq-f8-n256": first_stage((1, 2, 2, 4), 4, (32,), 256),
    "vq-f16": first_stage((1, 1, 2, 2, 4), 8, (16,), 16384),
}


def unet(latent: int, channels: int, multiples: Sequence[int], attention: Sequence[int], **more: Any) -> Config:
    return {
        "image_size": 64,
        "in_channels": latent,
        "out_channels": latent,
        "model_channels": channels,
        "attention_resolutions": list(attention),
        "num_res_blocks": 2,
        "channel_mult": list(multiples),
        **more,
    }


def tokens(width: int, depth: int = 1) -> Config:
    return {"use_spatial_transformer": True, "transformer_depth": depth, "context_dim": width}


def model(
    network: Config, autoencoder: str, beta_end: float, cond: Any = "__is_unconditional__", **more: Any
) -> Config:
    kind = "VQModelInterface" if autoencoder.startswith("vq") else "AutoencoderKL"
    return {
        "linear_start": 0.0015,
        "linear_end": beta_end,
        "timesteps": 1000,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": network},
        "first_stage_config": {
            "target": f"ldm.models.autoencoder.{kind}",
            "params": deepcopy(FIRST_STAGES[autoencoder]),
        },
        "cond_stage_config": cond,
        **more,
    }


def encoder(kind: str, **params: Any) -> Config:
    return {"target": f"ldm.modules.encoders.modules.{kind}", "params": params}


IDENTITY = {"target": "torch.nn.Identity"}
OUTER, INNER = (8, 4, 2), (4, 2, 1)
PAPER = unet(3, 224, (1, 2, 3, 4), OUTER, num_head_channels=32)
RESCALER = encoder("SpatialRescaler", n_stages=2, in_channels=182, out_channels=3)
MAPS = unet(3, 128, (1, 4, 8), (32, 16, 8), num_heads=8) | {"in_channels": 6}

MODELS: dict[str, Config] = {
    "celeba256": model(PAPER, "vq-f4", 0.0195),
    "ffhq256": model(PAPER, "vq-f4", 0.0195),
    "lsun_beds256": model(PAPER, "vq-f4", 0.0195),
    "lsun_churches256": model(
        unet(4, 192, (1, 2, 2, 4, 4), (1, 2, 4, 8), num_heads=8, use_scale_shift_norm=True, resblock_updown=True),
        "kl-f8",
        0.0155,
        scale_by_std=True,
    ),
    "cin256": model(
        unet(4, 256, (1, 2, 4), INNER, num_head_channels=32, **tokens(512)),
        "vq-f8",
        0.0195,
        encoder("ClassEmbedder", embed_dim=512, key="class_label"),
    ),
    "cin256-v2": model(
        unet(3, 192, (1, 2, 3, 5), OUTER, num_heads=1, **tokens(512)),
        "vq-f4",
        0.0195,
        encoder("ClassEmbedder", n_classes=1001, embed_dim=512, key="class_label"),
    ),
    "text2img256": model(
        unet(3, 192, (1, 2, 3, 5), OUTER, num_head_channels=32, **tokens(640)),
        "vq-f4",
        0.0195,
        encoder("BERTEmbedder", n_embed=640, n_layer=32),
    ),
    "layout2img-openimages256": model(
        unet(3, 128, (1, 2, 3, 4), OUTER, num_head_channels=32, **tokens(512, 3)),
        "vq-f4",
        0.0205,
        encoder("BERTEmbedder", n_embed=512, n_layer=16, vocab_size=8192, max_seq_len=92, use_tokenizer=False),
    ),
    "inpainting_big": model(
        unet(3, 256, (1, 2, 3, 4), OUTER, num_heads=8, resblock_updown=True) | {"in_channels": 7},
        "vq-f4-noattn",
        0.0205,
        "__is_first_stage__",
    ),
    "semantic_synthesis256": model(MAPS, "vq-f4", 0.0205, RESCALER),
    "semantic_synthesis512": model(MAPS | {"image_size": 128}, "vq-f4", 0.0205, RESCALER),
    "bsr_sr": model(
        unet(3, 160, (1, 2, 2, 4), (16, 8), num_head_channels=32) | {"in_channels": 6}, "vq-f4", 0.0155, IDENTITY
    ),
    "rdm768": model(
        unet(16, 448, (1, 2, 3, 4), INNER, num_head_channels=32, **tokens(768)),
        "kl-f16",
        0.015,
        IDENTITY,
        scale_factor=0.22765929,
    ),
    "txt2img-1p4B": model(
        unet(4, 320, (1, 2, 4, 4), INNER, num_heads=8, legacy=False, **tokens(1280)),
        "kl-f8",
        0.012,
        encoder("BERTEmbedder", n_embed=1280, n_layer=32),
        linear_start=0.00085,
        scale_factor=0.18215,
    ),
}


def shrink(config: Mapping[str, Any]) -> Config:
    """The same layout in small: a U-Net and text of 32 channels, a first stage of 32, 64 codes, 11 classes."""
    shrunk = deepcopy(dict(config))
    network, first = shrunk["unet_config"]["params"], shrunk["first_stage_config"]["params"]
    network["model_channels"] = 32
    network["num_res_blocks"] = 1
    if "num_head_channels" in network:
        network["num_head_channels"] = 16
    if "context_dim" in network:
        network["context_dim"] = 24
    first["ddconfig"] |= {"ch": 32, "num_res_blocks": 1, "resolution": 32}
    first["ddconfig"]["attn_resolutions"] = [resolution // 8 for resolution in first["ddconfig"]["attn_resolutions"]]
    if "n_embed" in first:
        first["n_embed"] = 64
    cond = shrunk["cond_stage_config"]
    if isinstance(cond, dict) and "params" in cond:
        small = {"embed_dim": 24, "n_classes": 11, "n_embed": 24, "n_layer": 1, "vocab_size": 40, "in_channels": 5}
        cond["params"] = {name: small.get(name, value) for name, value in cond["params"].items()}
        if cond["target"].endswith("ClassEmbedder"):
            cond["params"]["n_classes"] = 11
    return shrunk
