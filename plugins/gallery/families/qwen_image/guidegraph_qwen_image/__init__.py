"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): a transformer with two streams on the latents of a video autoencoder.

A diffusers folder of `QwenImagePipeline`, or of its `QwenImageTransformer2DModel` alone. The networks are those of
diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guidegraph import Condition, Family, Prediction, Tensor, hookimpl, node

PIPELINE, NETWORK = "QwenImagePipeline", "QwenImageTransformer2DModel"
SETTINGS = ("prediction",)
PATCH = 2
"""Latent pixels along each side of a token; `QwenImagePipeline` packs them so."""
LENGTH = 512
"""Tokens of a prompt that are kept, as by a call of the pipeline."""
VARIANTS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
"""Fields of a transformer's configuration that networks for other tasks set."""
TEXT_CLASSES = ("Qwen2_5_VLForConditionalGeneration", "Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend")
"""The text encoder and its tokenizers in transformers; the last is the class of a tokenizer without one of its own."""


def recognise(headers: Mapping[str, Any], config: Mapping[str, Any] | None) -> bool:
    """Whether a folder is a pipeline of Qwen-Image, or its transformer."""
    return config is not None and config.get("_class_name") in (PIPELINE, NETWORK)


def open_folder(path: Path, options: Any) -> dict[str, Any]:
    """The denoiser and the schedule of a folder, and the autoencoder and the text embedder that it holds.

    Raises ``ValueError`` for weights that are missing or do not fit, and for settings that it does not use.
    """
    from guidegraph_diffusers.hooked_flows import make_schedule

    options.refuse_unused(str(path), SETTINGS)
    if options.prediction not in ("auto", "flow"):
        raise ValueError(f"'{path}' is Qwen-Image, which predicts a flow: leave prediction out")
    schedule = make_schedule()  # its shift depends on the size of the picture: see schedule.flow_shift
    if not (path / "model_index.json").is_file():
        return {"denoiser": load_denoiser(path), "schedule": schedule}
    parts = {"denoiser": load_denoiser(path / "transformer"), "schedule": schedule}
    if (path / "vae").is_dir():
        parts["autoencoder"] = load_autoencoder(path / "vae")
    if (path / "text_encoder").is_dir():
        parts["text"] = load_text(path)
    return parts


def load_denoiser(folder: Path) -> Any:
    """The transformer, frozen, as a denoiser with hooks at its blocks.

    Raises ``ValueError`` for a network that edits pictures or layers, or whose guidance is distilled.
    """
    from guidegraph_diffusers.folders import import_diffusers, load_model, read_json
    from guidegraph_diffusers.hooked_flows import HookedFlow
    from guidegraph_qwen_image.attention import use_real_numbers

    config = read_json(folder / "config.json")
    if found := [field for field in VARIANTS if config.get(field)]:
        raise ValueError(f"'{folder}' has {', '.join(found)}: only Qwen-Image, which draws prompts, is supported")
    network = load_model(getattr(import_diffusers(), NETWORK), folder, None)
    use_real_numbers(network)
    return HookedFlow(network, "transformer_blocks", predict, PATCH).eval()


def predict(network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """u (B, C, H, W) of x (B, C, H, W), t (B) and tokens (B, M, D) with a mask (B, M).

    Raises ``ValueError`` for tokens of another width.
    """
    config, tokens = network.config, condition.tokens
    if tokens is None or tokens.shape[-1] != config.joint_attention_dim:
        found = "none" if tokens is None else f"width {tokens.shape[-1]}"
        raise ValueError(
            f"Qwen-Image takes tokens of width {config.joint_attention_dim}, and got {found}: see text.encode"
        )
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


def load_autoencoder(folder: Path) -> Any:
    """The video autoencoder, frozen, for pictures: videos of one frame."""
    from guidegraph_diffusers.folders import import_diffusers, load_model
    from guidegraph_qwen_image.autoencoder import FrameAutoencoder

    return FrameAutoencoder(load_model(import_diffusers().AutoencoderKLQwenImage, folder, None)).eval()


def load_text(path: Path) -> Any:
    """The Qwen2.5-VL of a pipeline's folder, frozen, with its tokenizer. Raises ``ValueError`` for unfit parts."""
    from guidegraph_diffusers.folders import read_json
    from guidegraph_diffusers.prompts import PipelineText

    index = read_json(path / "model_index.json")
    return PipelineText.load(path, index, PIPELINE, encode, None, None, None, TEXT_CLASSES)


def encode(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    """Tokens (B, M, D) of texts in the pipeline's template, and a mask (B, M) if they have several lengths."""
    tokens, mask = pipeline.encode_prompt(texts, max_sequence_length=LENGTH, **common)
    return Condition(tokens=tokens, mask=None if mask is None else mask.bool())


@hookimpl
def guidegraph_families() -> list[Family]:
    """Qwen-Image."""
    return [Family("Qwen-Image", recognise, open_folder)]


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The rescale of guided predictions."""
    return [keep_norm]
