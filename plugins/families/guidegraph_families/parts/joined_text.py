"""Loads and joins the text encoders of Stable Diffusion 3: from a single file, or built by any other loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import strip_prefix
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.model_json import AbsentPart
from guidegraph.nodes.models.released.towers import ClipTower, T5Tower
from guidegraph.nodes.models.transformers.mmdit import MMDiTConfig
from guidegraph_families.compvis.text import ACTIVATIONS, build_tower
from guidegraph_families.networks.joined_text import SD3Text
from guidegraph_families.parts.clip_text import check_clip, infer_clip_settings
from guidegraph_families.parts.t5_text import build_t5, build_t5_tower, check_t5, infer_t5_settings

CLIPS = {"clip_l": "clip", "clip_g": "openclip"}
"""The CLIP text models of a file in their order, with the model that each of them is."""

T5 = "t5xxl"
MODEL = "transformer."
NOT_USED = {"clip_l": "text_projection.weight"}
"""The weight of a text model that is not used: Stable Diffusion 3 takes CLIP-L's pooled vector before the
projection."""

SD3_LENGTH = 256
"""Tokens of T5: as in diffusers' pipeline, and the number of zeros where T5 is left out."""


def build_sd3_text(towers: Sequence[ClipTower], t5: T5Tower | None, config: MMDiTConfig, source: str) -> SD3Text:
    """Join two CLIP towers and T5, which may be left out, for the denoiser of a config.

    Raises ``ValueError`` that names `source` if the towers are not of the denoiser's widths.
    """
    widths = [tower.clip.config.hidden_size for tower in towers]
    pooled = sum(
        width if tower.clip.text_projection is None else tower.clip.config.projection_dim
        for tower, width in zip(towers, widths, strict=True)
    )
    fits = sum(widths) <= config.context_dim and (t5 is None or t5.width == config.context_dim)
    if not fits or pooled != config.vector_dim:
        t5_width = "" if t5 is None else f", T5 of width {t5.width}"
        raise ValueError(
            f"'{source}': the denoiser takes tokens of width {config.context_dim} and a vector of {config.vector_dim}; "
            f"found CLIP models of width {' and '.join(str(width) for width in widths)} with {pooled} in all in their "
            f"vectors{t5_width}: they belong to another model"
        )
    return SD3Text(towers, t5, width=config.context_dim, length=SD3_LENGTH).eval()


def load_sd3_text(tensors: Mapping[str, Tensor], path: Path, options: LoadOptions, config: MMDiTConfig) -> Any:
    """Load the text embedder from the tensors of `text_encoders` in a single file, for the denoiser of a config.

    A single file lacks tokenizers: without the settings that name them, `text` raises an error when it is used; the
    weights are checked, and take no memory. Raises one ``ValueError`` for weights that are missing, left over or of
    another shape.
    """
    source = str(path)
    parts = {name: strip_prefix(tensors, f"{name}.") for name in (*CLIPS, T5)}
    extra = [name for name in tensors if name.partition(".")[0] not in parts]
    if extra or not all(parts[name] for name in CLIPS):
        raise ValueError(
            f"'{source}' holds other text encoders than Stable Diffusion 3's clip_l, clip_g and t5xxl: "
            f"{', '.join(sorted(extra)[:4]) or 'one of the first two is missing'}. Nothing was loaded"
        )
    weights = {name: _model_tensors(name, part, source) for name, part in parts.items() if part}
    for name, kind in CLIPS.items():
        check_clip(weights[name], infer_clip_settings(weights[name], source, ACTIVATIONS[kind]), source)
    settings = infer_t5_settings(weights[T5], source) if T5 in weights else {}
    if T5 in weights:
        check_t5(weights[T5], settings, source)
    elif options.t5_tokenizer is not None:
        raise ValueError(f"'{source}' holds no T5 text encoder: leave t5_tokenizer out")
    has_t5 = T5 in weights and options.t5
    unset = ["tokenizer"] if options.tokenizer is None else []
    unset += ["t5_tokenizer"] if has_t5 and options.t5_tokenizer is None else []
    if options.tokenizer is None or unset:
        return AbsentPart(_no_tokenizer_message(source, unset))
    towers = [build_tower(weights[name], kind, "penultimate", path, options.tokenizer) for name, kind in CLIPS.items()]
    t5_tower = None
    if has_t5 and options.t5_tokenizer is not None:
        model = build_t5(weights[T5], settings, source)
        t5_tower = build_t5_tower(model, options.t5_tokenizer, SD3_LENGTH, attend_padding=True)
    return build_sd3_text(towers, t5_tower, config, source)


def _model_tensors(name: str, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of a text model of a file. Raises ``ValueError`` for other tensors."""
    extra = [key for key in tensors if not key.startswith(MODEL) and key != "logit_scale"]
    if extra:
        raise ValueError(
            f"'{source}' holds {len(extra)} tensors beside those of its text encoder {name}: "
            f"{', '.join(sorted(extra)[:4])}. It is of another architecture: nothing was loaded"
        )
    weights = strip_prefix(tensors, MODEL)
    weights.pop(NOT_USED.get(name, ""), None)
    return weights


def _no_tokenizer_message(source: str, unset: Sequence[str]) -> str:
    return (
        f"'{source}' holds text encoders and no vocabulary, as all single files: set {' and '.join(unset)} of "
        "checkpoint.load to folders with the tokenizers of CLIP (vocab.json and merges.txt, or tokenizer.json) and of "
        "T5 (spiece.model or tokenizer.json), such as `tokenizer` and `tokenizer_3` of a diffusers folder; t5: false "
        "leaves T5 out"
    )
