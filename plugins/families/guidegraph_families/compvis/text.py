"""Loads the conditioner of a CompVis single file: CLIP, OpenCLIP, SDXL's two, latent diffusion's encoder, classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.checkpoints.config_values import strip_prefix
from guidegraph.nodes.checkpoints.filling import build_filled, check_axes
from guidegraph.nodes.checkpoints.folders import FIRST_STAGE
from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor
from guidegraph.nodes.conditioning.text_pretrained import import_transformers
from guidegraph.nodes.models.model_json import AbsentPart
from guidegraph.nodes.models.released.prompt_embedder import ReleasedText
from guidegraph.nodes.models.released.towers import ClipTower, Hidden
from guidegraph.nodes.shape_checks import check_channels, check_sides
from guidegraph.nodes.types import Condition
from guidegraph_families.compvis.model_facts import Facts
from guidegraph_families.networks.ldm_text import ClassTokens
from guidegraph_families.parts.clip_text import (
    NO_WEIGHTS,
    build_clip,
    check_clip,
    from_openclip,
    infer_clip_settings,
    load_tokenizer,
)
from guidegraph_families.parts.ldm_text import HEADS, build_ldm_text, check_ldm_text

Tensors = Mapping[str, Tensor]
OPENCLIP_PAD = 0
"""OpenCLIP pads with zeros, CLIP with its end token."""

NO_FACTS = Facts()
LAYOUT = (
    "the tokens of '{path}' are the boxes and classes of a layout, not words, so that it embeds no text: give its "
    "denoiser a condition with the tokens of its own encoder"
)
ACTIVATIONS = {"clip": "quick_gelu", "openclip": "gelu"}


def identify_conditioner(tensors: Tensors) -> str:
    """Identify the conditioner of the tensors of `cond_stage_model`.

    Returns clip, openclip, ldm, classes, rescaler (of maps), first_stage (the autoencoder again), none or unknown.
    """
    if not tensors:
        return "none"
    if any(name.startswith("transformer.") and name.endswith("embeddings.token_embedding.weight") for name in tensors):
        return "clip"
    if "model.token_embedding.weight" in tensors:
        return "openclip"
    if "transformer.token_emb.weight" in tensors:
        return "ldm"
    if "channel_mapper.weight" in tensors and set(tensors) <= {"channel_mapper.weight", "channel_mapper.bias"}:
        return "rescaler"
    if all(name in tensors for name in FIRST_STAGE):
        return "first_stage"
    return "classes" if set(tensors) == {"embedding.weight"} else "unknown"


def load_conditioner(tensors: Tensors, path: Path, tokenizer: Path | None, facts: Facts = NO_FACTS) -> dict[str, Any]:
    """Load `text`, `label` (of a model with classes) or `semantic` (of a model with maps) from `cond_stage_model`.

    facts: of the model; only the conditioner's are used. A single file does not hold a tokenizer: without one,
    `text` raises an error when it is used; its weights are checked, and take no memory. Raises one ``ValueError`` for
    weights that are missing, left over or of another shape.
    """
    kind = identify_conditioner(tensors)
    if kind == "unknown":
        names = ", ".join(sorted(tensors)[:4])
        raise ValueError(f"'{path}' has a conditioner of an unknown kind: cond_stage_model holds {names}")
    if kind == "none":
        return {}
    if kind == "classes":
        count, width = check_axes(tensors["embedding.weight"], str(path), "embedding.weight", 2).shape
        null_class = facts.null_label == count - 1
        return {"label": build_filled(lambda: ClassTokens(count, width, null_class), tensors, str(path))}
    if kind == "rescaler":
        return {"semantic": _build_rescaler(tensors, path, facts)}
    if kind == "ldm":
        weights = _select_prefix(tensors, "transformer.", path)
        if facts.takes_text is False:
            check_ldm_text(weights, HEADS, str(path))
            return {"text": AbsentPart(LAYOUT.format(path=path))}
        if tokenizer is None:
            check_ldm_text(weights, HEADS, str(path))
            return {"text": AbsentPart(_no_tokenizer_message(path, "BERT"))}
        return {"text": build_ldm_text(weights, HEADS, tokenizer, str(path))}
    clip = _clip_weights(tensors, kind, path)
    if tokenizer is None:
        return {"text": AbsentPart(_no_tokenizer_message(path, "CLIP"))}
    hidden: Hidden = "last" if kind == "clip" else "penultimate_normed"
    return {"text": ReleasedText([build_tower(clip, kind, hidden, path, tokenizer)]).eval()}


def check_same_first_stage(conditioner: Tensors, first_stage: Tensors, path: str) -> None:
    """Check that a conditioner that is a first stage equals the model's own, so that one autoencoder serves for both.

    Raises ``ValueError`` if tensors differ.
    """
    differing = [
        name for name in {*conditioner, *first_stage} if not _equal(conditioner.get(name), first_stage.get(name))
    ]
    if differing:
        raise ValueError(
            f"'{path}' is conditioned on another first stage than its own ({len(differing)} tensors differ: "
            f"{', '.join(sorted(differing)[:4])}), which is not supported"
        )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    is_stored = not isinstance(a, DeferredTensor) and not isinstance(b, DeferredTensor)
    return a.device.type == "meta" or (is_stored and a.data_ptr() == b.data_ptr()) or torch.equal(a, b)


def _build_rescaler(tensors: Tensors, path: Path, facts: Facts) -> MapRescaler:
    """Build a SpatialRescaler and fill it; its factors were resolved before."""
    weight = check_axes(tensors["channel_mapper.weight"], str(path), "channel_mapper.weight", 4)
    rescaler = facts.rescaler
    assert rescaler is not None
    make = partial(
        MapRescaler,
        weight.shape[1],
        weight.shape[0],
        stages=rescaler.stages,
        factor=rescaler.factor,
        mode=rescaler.mode,
        bias="channel_mapper.bias" in tensors,
    )
    return build_filled(make, tensors, str(path))


def load_sdxl_text(tensors: Tensors, adm_channels: int | None, path: Path, tokenizer: Path | None) -> Any:
    """Load SDXL's text embedder from the tensors of `conditioner.embedders`. Raises ``ValueError`` for a refiner.

    A missing tokenizer is handled as in `load_conditioner`.
    """
    towers = [strip_prefix(tensors, f"{number}.") for number in (0, 1)]
    extra = [name for name in tensors if not name.startswith(("0.", "1."))]
    if [identify_conditioner(tower) for tower in towers] != ["clip", "openclip"] or extra:
        raise ValueError(
            f"'{path}' has other conditioners than SDXL's CLIP and OpenCLIP (a refiner's?), which is not supported"
        )
    width = measure_sizes(tensors, adm_channels, path)
    weights = [_clip_weights(tower, kind, path) for tower, kind in zip(towers, ("clip", "openclip"), strict=True)]
    if tokenizer is None:
        return AbsentPart(_no_tokenizer_message(path, "CLIP"))
    clip_towers = [
        build_tower(weights[i], kind, "penultimate", path, tokenizer) for i, kind in enumerate(("clip", "openclip"))
    ]
    return ReleasedText(clip_towers, size_width=width, zero_empty=True).eval()


def measure_sizes(tensors: Tensors, adm_channels: int | None, path: Path) -> int:
    """Measure the width of each of the six sizes in SDXL's vector, from the tensors of `conditioner.embedders`.

    Raises ``ValueError`` if a vector of `adm_channels` is not the pooled text and the sizes.
    """
    projection = tensors.get("1.model.text_projection")
    if projection is not None:
        check_axes(projection, str(path), "conditioner.embedders.1.model.text_projection", 2)
    width = ((adm_channels or 0) - (0 if projection is None else projection.shape[1])) // 6
    if projection is None or width < 2 or projection.shape[1] + 6 * width != adm_channels:
        raise ValueError(f"'{path}': the vector of {adm_channels} is not the pooled text and six sizes, as SDXL's is")
    return width


def _clip_weights(tensors: Tensors, kind: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a text model under transformers' names, checked for completeness. Raises ``ValueError``."""
    openclip = kind == "openclip"
    selected = _select_prefix(tensors, "model." if openclip else "transformer.", path)
    weights = from_openclip(selected) if openclip else selected
    check_clip(weights, infer_clip_settings(weights, str(path), ACTIVATIONS[kind]), str(path))
    return weights


def build_tower(weights: Tensors, kind: str, hidden: Hidden, path: Path, tokenizer: Path) -> ClipTower:
    """Build the tower of a file's text model; weights: under transformers' names; kind: clip or openclip."""
    model = build_clip(weights, infer_clip_settings(weights, str(path), ACTIVATIONS[kind]), str(path))
    words = load_tokenizer(import_transformers("clip").CLIPTokenizer, tokenizer, model)
    pad = OPENCLIP_PAD if kind == "openclip" else int(words.eos_token_id)
    return ClipTower(model, words, hidden, pad)


def _select_prefix(tensors: Tensors, prefix: str, path: Path) -> dict[str, Tensor]:
    """The tensors under a prefix, which is removed. Raises ``ValueError`` for other weights."""
    extra = [name for name in tensors if not name.startswith(prefix) and name.rpartition(".")[2] not in NO_WEIGHTS]
    if extra:
        raise ValueError(
            f"'{path}' holds {len(extra)} tensors beside those of its text encoder: {', '.join(sorted(extra)[:4])}. It "
            "is of another architecture: nothing was loaded"
        )
    return strip_prefix(tensors, prefix)


def _no_tokenizer_message(path: Path, kind: str) -> str:
    return (
        f"'{path}' holds a text encoder and no vocabulary, as all single files: set `tokenizer` of checkpoint.load to "
        f"a folder with the tokenizer of {kind} (vocab.json and merges.txt, or tokenizer.json), such as the folder "
        "`tokenizer` of a diffusers folder of this family"
    )


class MapRescaler(nn.Module):
    """A `SemanticEmbedder`: shrinks a map `stages` times by a factor, then a 1 × 1 convolution maps its classes."""

    def __init__(
        self, classes: int, channels: int, *, stages: int, factor: float, mode: str, bias: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.stages, self.factor, self.mode = classes, stages, factor, mode
        self.channel_mapper = nn.Conv2d(classes, channels, 1, bias=bias)

    def forward(self, semantic: Tensor) -> Condition:
        """The spatial condition (B, channels, h, w) of maps (B, classes, H, W), one-hot at the size of the picture.

        Raises ``ValueError`` for another number of classes, and for sides that do not shrink to whole cells.
        """
        check_channels(semantic, self.classes, "the model of maps")
        check_sides(semantic, round(self.factor**-self.stages), "the model of maps")
        h = semantic.to(self.channel_mapper.weight.dtype)
        for _ in range(self.stages):
            h = F.interpolate(h, scale_factor=self.factor, mode=self.mode)
        return Condition(spatial=self.channel_mapper(h))
