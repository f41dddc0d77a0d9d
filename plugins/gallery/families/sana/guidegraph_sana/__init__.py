"""Sana (Xie et al. 2024, arXiv 2410.10629): a linear transformer on the latents of a deep-compression autoencoder.

A diffusers folder of `SanaPipeline`, or of its `SanaTransformer2DModel` alone. The networks are those of diffusers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph import Condition, Family, Tensor, hookimpl

PIPELINE, NETWORK = "SanaPipeline", "SanaTransformer2DModel"
SETTINGS = ("prediction",)
TEXT_CLASSES = ("Gemma2Model", "GemmaTokenizer", "GemmaTokenizerFast", "TokenizersBackend")
"""The text encoder and its tokenizers in transformers; the last is the class of a tokenizer without one of its own."""


def recognise(headers: Mapping[str, Any], config: Mapping[str, Any] | None) -> bool:
    """Whether a folder is a pipeline of Sana, or its transformer."""
    return config is not None and config.get("_class_name") in (PIPELINE, NETWORK)


def open_folder(path: Path, options: Any) -> dict[str, Any]:
    """The denoiser and the schedule of a folder, and the autoencoder and the text embedder that it holds.

    Raises ``ValueError`` for weights that are missing or do not fit, and for settings that it does not use.
    """
    from guidegraph_diffusers.folders import read_json
    from guidegraph_diffusers.hooked_flows import make_schedule

    options.refuse_unused(str(path), SETTINGS)
    if options.prediction not in ("auto", "flow"):
        raise ValueError(f"'{path}' is Sana, which predicts a flow: leave prediction out")
    if not (path / "model_index.json").is_file():
        return {"denoiser": load_denoiser(path), "schedule": make_schedule()}
    scheduler = path / "scheduler" / "scheduler_config.json"
    config = read_json(scheduler) if scheduler.is_file() else {}
    shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
    parts = {"denoiser": load_denoiser(path / "transformer"), "schedule": make_schedule(shift)}
    if (path / "vae").is_dir():
        parts["autoencoder"] = load_autoencoder(path / "vae")
    if (path / "text_encoder").is_dir():
        parts["text"] = load_text(path)
    return parts


def load_denoiser(folder: Path) -> Any:
    """The transformer, frozen, as a denoiser with hooks at its blocks."""
    from guidegraph_diffusers.folders import import_diffusers, load_model
    from guidegraph_diffusers.hooked_flows import HookedFlow

    network = load_model(getattr(import_diffusers(), NETWORK), folder, None)
    if network.config.guidance_embeds:
        raise ValueError(f"'{folder}' is distilled with its guidance (Sana-Sprint), which is not supported")
    return HookedFlow(network, "transformer_blocks", predict, int(network.config.patch_size)).eval()


def predict(network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """u (B, C, H, W) of x (B, C, H, W), t (B) and tokens (B, M, D) with a mask (B, M).

    Raises ``ValueError`` for tokens of another width.
    """
    config, tokens = network.config, condition.tokens
    if tokens is None or tokens.shape[-1] != config.caption_channels:
        width = "none" if tokens is None else f"width {tokens.shape[-1]}"
        raise ValueError(f"Sana takes tokens of width {config.caption_channels}, and got {width}: see text.encode")
    out: Tensor = network(
        x,
        encoder_hidden_states=tokens.to(network.dtype),
        encoder_attention_mask=None if condition.mask is None else condition.mask.to(network.dtype),
        timestep=t * config.timestep_scale,
        return_dict=False,
    )[0]
    return out[:, : x.shape[1]]  # without a learned variance


def load_autoencoder(folder: Path) -> Any:
    """The deep-compression autoencoder, frozen; latents are z times its scaling_factor."""
    from guidegraph_diffusers.folders import import_diffusers, load_model
    from guidegraph_diffusers.networks import DiffusersAutoencoder

    network = load_model(import_diffusers().AutoencoderDC, folder, None)
    factor = 2 ** (len(network.config.encoder_block_out_channels) - 1)
    return DiffusersAutoencoder(network, "latent", factor).eval()


def load_text(path: Path) -> Any:
    """The Gemma 2 of a pipeline's folder, frozen, with its tokenizer. Raises ``ValueError`` for unfit parts."""
    from guidegraph_diffusers.folders import read_json
    from guidegraph_diffusers.prompts import PipelineText

    index = read_json(path / "model_index.json")
    return PipelineText.load(path, index, PIPELINE, encode, None, None, None, TEXT_CLASSES)


def encode(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    """Tokens (B, 300, D) and their mask (B, 300); a text that is not empty follows the instruction to enhance it.

    The pipeline gives the instruction to prompts and not to negative prompts, which are empty unless one is written.
    """
    import torch

    instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    rows = [
        pipeline.encode_prompt(
            [text],
            do_classifier_free_guidance=False,
            complex_human_instruction=instruction if text else None,
            **common,
        )[:2]
        for text in texts
    ]
    tokens, masks = (torch.cat(column) for column in zip(*rows, strict=True))
    return Condition(tokens=tokens, mask=masks.bool())


@hookimpl
def guidegraph_families() -> list[Family]:
    """Sana."""
    return [Family("Sana", recognise, open_folder)]
