"""Loads the text encoders of a diffusers folder with their tokenizers: CLIP, SDXL's two, latent diffusion's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.clip_text import build_clip
from guidegraph.nodes.checkpoints.diffusers.component_weights import read_component
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.ldm_text import build_ldm_text, from_diffusers, read_heads
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.released.pretrained_text import tokenizer_from_folder
from guidegraph.nodes.models.released.prompt_embedder import PictureSize, ReleasedText
from guidegraph.nodes.models.released.towers import Hidden, Tower

TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
EXTRA = "clip"


def load_text(folder: Path, classes: Mapping[str, str], index: Mapping[str, Any], factor: int) -> Any:
    """Load the text embedder of a pipeline's folder.

    classes: of its text encoders, by component. index: its model_index.json. factor: pixels to a latent cell.
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
    width, sides = int(unet.get("addition_time_embed_dim") or 0), unet.get("sample_size") or 128
    pooled = int(getattr(towers[1].model.config, "projection_dim", 0))
    total = unet.get("projection_class_embeddings_input_dim")
    if pooled + 6 * width != total:
        raise ValueError(
            f"'{path}': the vector is {total} wide, and the pooled text and six sizes of {width} make "
            f"{pooled + 6 * width}: this is not SDXL's conditioning"
        )
    height, breadth = (int(side) * factor for side in (sides if isinstance(sides, list) else (sides, sides)))
    size = PictureSize(original=(height, breadth), target=(height, breadth))
    zero_empty = bool(index.get("force_zeros_for_empty_prompt", True))
    return ReleasedText(towers, size=size, size_width=width, zero_empty=zero_empty).eval()


def load_tower(folder: Path, encoder: str, tokenizer: str, hidden: Hidden) -> Tower:
    """Load one CLIP text model of a folder with its tokenizer."""
    transformers = import_transformers(EXTRA)
    encoder_folder = folder / encoder
    model = build_clip(read_component(encoder_folder), read_json(encoder_folder / "config.json"), str(encoder_folder))
    words = load_tokenizer(transformers.CLIPTokenizer, folder / tokenizer, model)
    return Tower(model, words, hidden, int(words.pad_token_id))


def load_tokenizer(kind: Any, folder: Path, model: Any) -> Any:
    """Load the tokenizer of a text model of transformers. Raises ``ValueError`` if it lacks start, end or padding."""
    words = tokenizer_from_folder(kind, folder, int(model.config.vocab_size))
    if None in (words.bos_token_id, words.eos_token_id, words.pad_token_id):
        raise ValueError(f"the tokenizer in '{folder}' has no token for start, end or padding")
    return words
