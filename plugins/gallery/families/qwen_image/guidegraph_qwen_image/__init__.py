"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): a transformer with two streams on the latents of a video autoencoder.

A diffusers folder of `QwenImagePipeline`, or of its `QwenImageTransformer2DModel` alone. The networks are those of
diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from guidegraph import Condition, Family, Prediction, Tensor, hookimpl, node
from guidegraph_diffusers.flow_families import FlowFamily, take_tokens

PATCH = 2
"""Latent pixels along each side of a token; `QwenImagePipeline` packs them so."""
LENGTH = 512
"""Tokens of a prompt that are kept, as by a call of the pipeline."""
EDITS = "only Qwen-Image, which draws prompts, is supported"


def predict(network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """u (B, C, H, W) of x (B, C, H, W), t (B) and tokens (B, M, D) with a mask (B, M).

    Raises ``ValueError`` for tokens of another width.
    """
    tokens = take_tokens(condition, network.config.joint_attention_dim, "Qwen-Image")
    height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
    out: Tensor = network(
        pack(x),
        encoder_hidden_states=tokens.to(network.dtype),
        encoder_hidden_states_mask=None if condition.mask is None else condition.mask.bool(),
        timestep=t / 1000,
        img_shapes=[[(1, height, width)]],
        return_dict=False,
    )[0]
    return unpack(out, height, width)


def pack(x: Tensor) -> Tensor:
    """A map (B, C, 2h, 2w) to one token (4C) for each square of 2 × 2, (B, h · w, 4C)."""
    squares = x.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # (B, C, h, 2, w, 2)
    tokens: Tensor = squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return tokens


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, h · w, 4C) to a map (B, C, 2h, 2w)."""
    squares = tokens.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (height, width))  # (B, h, w, C, 2, 2)
    x: Tensor = squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return x


@node("qwen_image.keep_norm")
def keep_norm(guided: Prediction, cond: Prediction) -> Prediction:
    """A guided prediction with the norm of cond at each token: the second part of `true_cfg_scale` in diffusers.

    A token is a square of 2 × 2 of the map (B, C, H, W), with all channels. Predictions are of one kind; the pipeline
    does this with flows.
    """
    import torch

    if guided.kind != cond.kind:
        raise ValueError(f"the predictions are of the kinds {guided.kind} and {cond.kind}: give both in one kind")
    height, width = (side // PATCH for side in guided.value.shape[2:])
    tokens = pack(guided.value)
    norms = [torch.linalg.vector_norm(rows, dim=-1, keepdim=True) for rows in (tokens, pack(cond.value))]
    value = unpack(tokens * (norms[1] / norms[0].clamp(min=1e-12)), height, width)
    return replace(guided, value=value)


def prepare(network: Any) -> None:
    """Give a transformer positions and an attention that ONNX has."""
    from guidegraph_qwen_image.attention import use_real_numbers

    use_real_numbers(network)


def wrap_autoencoder(network: Any) -> Any:
    """The video autoencoder, for videos of one frame."""
    from guidegraph_diffusers.networks import FrameAutoencoder

    return FrameAutoencoder(network)


def encode(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    """Tokens (B, M, D) of texts in the pipeline's template, and a mask (B, M) if they have several lengths."""
    tokens, mask = pipeline.encode_prompt(texts, max_sequence_length=LENGTH, **common)
    return Condition(tokens=tokens, mask=None if mask is None else mask.bool())


QWEN_IMAGE = FlowFamily(
    "Qwen-Image",
    pipeline="QwenImagePipeline",
    network="QwenImageTransformer2DModel",
    autoencoder="AutoencoderKLQwenImage",
    predict=predict,
    encode=encode,
    wrap_autoencoder=wrap_autoencoder,
    # The last is the class of a tokenizer that has none of its own.
    text_classes=("Qwen2_5_VLForConditionalGeneration", "Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend"),
    patch=PATCH,
    prepare=prepare,
    refused=dict.fromkeys(("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"), EDITS),
)


@hookimpl
def guidegraph_families() -> list[Family]:
    """Qwen-Image."""
    return [QWEN_IMAGE.family()]


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The rescale of guided predictions."""
    return [keep_norm]
