"""Loads the text encoders of a diffusers folder with their tokenizers: CLIP, T5, Qwen3 and latent diffusion's BERT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import current_device
from guidegraph.nodes.checkpoints.config_values import format_value, read_integer
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.filling import build_text_model, fill
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.networks.shells import check_depth
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder
from guidegraph.nodes.models.released.prompt_embedder import ReleasedText
from guidegraph.nodes.models.released.towers import ChatTower, ClipTower, Hidden, T5Tower
from guidegraph.nodes.models.transformers.mmdit import MMDiTConfig
from guidegraph_families.diffusers.first_stage import read_component
from guidegraph_families.flux.network import FluxConfig
from guidegraph_families.networks.joined_text import ChatText, FluxText, SD3Text, T5Text
from guidegraph_families.parts.clip_text import build_clip, load_tokenizer
from guidegraph_families.parts.joined_text import SD3_LENGTH, build_sd3_text
from guidegraph_families.parts.ldm_text import build_ldm_text, from_diffusers, read_heads
from guidegraph_families.parts.t5_text import build_t5, build_t5_tower
from guidegraph_families.pixart.network import PixArtConfig
from guidegraph_families.z_image.network import ZImageConfig

PREFIX = "model."
HEAD = "lm_head.weight"
"""The weight that turns hidden states into words, which nothing here uses."""

BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
"""Around a prompt: the chat template of Qwen3 for one message, with thinking."""

LENGTH = 512
"""Tokens of a prompt with its chat template."""


def build_qwen3(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> nn.Module:
    """Build a frozen `Qwen3Model` on the run's device and in its dtype.

    settings: fields of transformers' Qwen3Config. Raises ``ValueError`` if transformers is missing, or the tensors do
    not fit the model that the settings describe.
    """
    transformers = import_transformers(EXTRA)
    layers = settings.get("num_hidden_layers")
    if isinstance(layers, int):
        check_depth(layers, len(tensors), source)  # the config lists the kinds of all layers
    model: Any = build_text_model(transformers.Qwen3Config, transformers.Qwen3Model, settings, tensors, "Qwen3", source)
    fill(model, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name != HEAD}, source)
    with torch.device(current_device()):
        model.rotary_emb = type(model.rotary_emb)(model.config)  # its frequencies are computed, and in no file
    built: nn.Module = model
    return built


def build_chat_tower(model: Any, tokenizer: Path) -> ChatTower:
    """Build the tower of a Qwen3 with its tokenizer's folder; see `ChatTower`.

    Raises ``ValueError`` that names the folder if it lacks a tokenizer for this model, or the tokenizer lacks the
    template's marks.
    """
    transformers = import_transformers(EXTRA)
    words = tokenizer_from_folder(transformers.Qwen2Tokenizer, tokenizer, int(model.config.vocab_size))
    marks = ("<|im_start|>", "<|im_end|>")
    missing = [mark for mark in marks if len(words(mark, add_special_tokens=False)["input_ids"]) != 1]
    if missing or words.pad_token_id is None:
        raise ValueError(f"the tokenizer in '{tokenizer}' has no token for {' or '.join(missing) or 'padding'}")
    return ChatTower(model, words, LENGTH, BEFORE, AFTER)


TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5_CLASSES = ("T5EncoderModel",)
CHAT_CLASSES = ("Qwen3Model", "Qwen3ForCausalLM")
EXTRA = "clip"
FLUX_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}
FLUX_LENGTHS = {True: 512, False: 256}
"""Tokens of T5, by whether the network is told a guidance scale, as in the authors' software: dev, and schnell."""

PIXART_LENGTH = 300
"""Tokens of T5 in PixArt-Σ (Chen et al. 2024, section 3.1), as in diffusers' pipeline."""

PIXART_LENGTHS = {"PixArtAlphaPipeline": 120}


def load_text(folder: Path, classes: Mapping[str, str], index: Mapping[str, Any]) -> Any:
    """Load the text embedder of a pipeline's folder.

    classes: of its text encoders, by component. index: its model_index.json.
    Raises ``ValueError`` if transformers is missing, or a part of the folder is missing or of another kind.
    """
    if "bert" in classes:
        config = read_json(folder / "bert" / "config.json")
        tensors = from_diffusers(read_component(folder / "bert"))
        return build_ldm_text(tensors, read_heads(config), folder / "tokenizer", str(folder / "bert"))
    if "text_encoder_2" not in classes:
        return ReleasedText([load_tower(folder, "text_encoder", "tokenizer", "last")]).eval()
    if "text_encoder" not in classes:
        raise ValueError(f"'{folder}' has 'text_encoder_2' alone, as SDXL's refiner has, which is not supported")
    towers = [load_tower(folder, f"text_encoder{n}", f"tokenizer{n}", "penultimate") for n in ("", "_2")]
    path = folder / "unet" / "config.json"
    unet = read_json(path)
    name = "addition_time_embed_dim"
    width = 0 if unet.get(name) is None else read_integer(unet, name, None, path)
    pooled = towers[1].clip.config.projection_dim
    total = unet.get("projection_class_embeddings_input_dim")
    if pooled + 6 * width != total:
        raise ValueError(
            f"'{path}': the vector is {format_value(total)} wide, and the pooled text and six sizes of {width} make "
            f"{pooled + 6 * width}: this is not SDXL's conditioning"
        )
    zero_empty = bool(index.get("force_zeros_for_empty_prompt", True))
    return ReleasedText(towers, size_width=width, zero_empty=zero_empty).eval()


def load_sd3_text(folder: Path, classes: Mapping[str, str], config: MMDiTConfig, *, t5: bool) -> SD3Text:
    """Load the text embedder of Stable Diffusion 3's folder: two CLIP models and, if the folder has it and `t5`, T5.

    classes: of its text encoders, by component. config: of its denoiser. Raises ``ValueError`` if transformers is
    missing, or a part of the folder is missing or of another kind.
    """
    missing = [name for name in ("text_encoder", "text_encoder_2") if name not in classes]
    if missing:
        raise ValueError(f"'{folder}' has text encoders without {', '.join(missing)}: Stable Diffusion 3 needs both")
    towers = [load_tower(folder, f"text_encoder{n}", f"tokenizer{n}", "penultimate") for n in ("", "_2")]
    third = None
    if t5 and "text_encoder_3" in classes:
        third = load_t5(folder, "text_encoder_3", "tokenizer_3", SD3_LENGTH, attend_padding=True)
    return build_sd3_text(towers, third, config, str(folder))


def load_flux_text(folder: Path, classes: Mapping[str, str], config: FluxConfig) -> FluxText:
    """Load the text embedder of Flux.1's folder: CLIP and T5. classes: of its text encoders, by component.

    config: of its denoiser. Raises ``ValueError`` if transformers is missing, a part of the folder is missing or of
    another kind, or the text encoders are not of the denoiser's widths.
    """
    if dict(classes) != FLUX_ENCODERS:
        listing = ", ".join(f"'{name}' {kind}" for name, kind in classes.items()) or "none"
        raise ValueError(
            f"'{folder}' has the text encoders {listing}: Flux.1 has CLIPTextModel as 'text_encoder' and "
            "T5EncoderModel as 'text_encoder_2'"
        )
    tower = load_tower(folder, "text_encoder", "tokenizer", "last")
    t5 = load_t5(folder, "text_encoder_2", "tokenizer_2", FLUX_LENGTHS[config.guidance], attend_padding=True)
    widths = (tower.clip.config.hidden_size, t5.width)
    if widths != (config.vector_dim, config.context_dim):
        raise ValueError(
            f"'{folder}': the denoiser takes a vector of {config.vector_dim} and tokens of width {config.context_dim}; "
            f"found CLIP of width {widths[0]} and T5 of width {widths[1]}: they belong to another model"
        )
    embedder = FluxText(tower, t5)
    embedder.eval()
    return embedder


def load_z_image_text(folder: Path, classes: Mapping[str, str], config: ZImageConfig) -> ChatText:
    """Load the text embedder of Z-Image's folder: a Qwen3. classes: of its text encoders, by component.

    config: of its denoiser. Raises ``ValueError`` if transformers is missing, a part of the folder is missing or of
    another kind, or the text encoder is not of the denoiser's width.
    """
    if list(classes) != ["text_encoder"] or classes["text_encoder"] not in CHAT_CLASSES:
        listing = ", ".join(f"'{name}' {kind}" for name, kind in classes.items()) or "none"
        raise ValueError(f"'{folder}' has the text encoders {listing}: Z-Image has a Qwen3Model as 'text_encoder'")
    encoder = folder / "text_encoder"
    model = build_qwen3(read_component(encoder), read_json(encoder / "config.json"), str(encoder))
    tower = build_chat_tower(model, folder / "tokenizer")
    _check_width(tower, config, folder)
    embedder = ChatText(tower)
    embedder.eval()
    return embedder


def load_pixart_text(folder: Path, config: PixArtConfig, index: Mapping[str, Any]) -> T5Text:
    """Load the text embedder of PixArt's folder, T5 alone, for the denoiser of a config.

    index: its model_index.json. Prompts are read in small letters, as the models were trained. Raises ``ValueError`` if
    transformers is missing, or T5 is missing, of another width, or not whole.
    """
    length = PIXART_LENGTHS.get(str(index.get("_class_name")), PIXART_LENGTH)
    tower = load_t5(folder, "text_encoder", "tokenizer", length, attend_padding=False, lowercase=True)
    _check_width(tower, config, folder)
    return T5Text(tower).eval()


def _check_width(tower: T5Tower | ChatTower, config: PixArtConfig | ZImageConfig, folder: Path) -> None:
    """Raise ``ValueError`` for a text encoder of another width than the tokens that the denoiser takes."""
    if tower.width != config.context_dim:
        raise ValueError(
            f"'{folder}': the denoiser takes tokens of width {config.context_dim}, and 'text_encoder' has "
            f"{tower.width}: it belongs to another model"
        )


def load_t5(
    folder: Path, encoder: str, tokenizer: str, length: int, *, attend_padding: bool, lowercase: bool = False
) -> T5Tower:
    """Load the T5 encoder of a folder with its tokenizer; see `build_t5_tower`."""
    encoder_folder = folder / encoder
    model = build_t5(read_component(encoder_folder), read_json(encoder_folder / "config.json"), str(encoder_folder))
    return build_t5_tower(model, folder / tokenizer, length, attend_padding=attend_padding, lowercase=lowercase)


def load_tower(folder: Path, encoder: str, tokenizer: str, hidden: Hidden) -> ClipTower:
    """Load one CLIP text model of a folder with its tokenizer."""
    transformers = import_transformers(EXTRA)
    encoder_folder = folder / encoder
    model = build_clip(read_component(encoder_folder), read_json(encoder_folder / "config.json"), str(encoder_folder))
    words = load_tokenizer(transformers.CLIPTokenizer, folder / tokenizer, model)
    return ClipTower(model, words, hidden, int(words.pad_token_id))
