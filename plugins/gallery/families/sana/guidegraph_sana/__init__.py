"""Sana (Xie et al. 2024, arXiv 2410.10629): a linear transformer on the latents of a deep-compression autoencoder.

A diffusers folder of `SanaPipeline`, or of its `SanaTransformer2DModel` alone. The networks are those of diffusers.
"""

from __future__ import annotations

import inspect
from typing import Any

from guidegraph import Condition, Family, Tensor, hookimpl
from guidegraph_diffusers.flow_families import FlowFamily, take_tokens


def predict(network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """u (B, C, H, W) of x (B, C, H, W), t (B) and tokens (B, M, D) with a mask (B, M).

    Raises ``ValueError`` for tokens of another width.
    """
    config = network.config
    tokens = take_tokens(condition, config.caption_channels, "Sana")
    out: Tensor = network(
        x,
        encoder_hidden_states=tokens.to(network.dtype),
        encoder_attention_mask=None if condition.mask is None else condition.mask.to(network.dtype),
        timestep=t * config.timestep_scale,
        return_dict=False,
    )[0]
    return out[:, : x.shape[1]]  # without a learned variance


def wrap_autoencoder(network: Any) -> Any:
    """The deep-compression autoencoder; latents are z times its scaling_factor."""
    from guidegraph_diffusers.networks import DiffusersAutoencoder

    return DiffusersAutoencoder(network, "latent", 2 ** (len(network.config.encoder_block_out_channels) - 1))


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


SANA = FlowFamily(
    "Sana",
    pipeline="SanaPipeline",
    network="SanaTransformer2DModel",
    autoencoder="AutoencoderDC",
    predict=predict,
    encode=encode,
    wrap_autoencoder=wrap_autoencoder,
    # The last is the class of a tokenizer that has none of its own.
    text_classes=("Gemma2Model", "GemmaTokenizer", "GemmaTokenizerFast", "TokenizersBackend"),
    refused={"guidance_embeds": "it is distilled with its guidance (Sana-Sprint), which is not supported"},
)


@hookimpl
def guidegraph_families() -> list[Family]:
    """Sana."""
    return [SANA.family()]
