"""Encodes prompts by a pipeline's own `encode_prompt`; loads only its text encoders and tokenizers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from guidegraph import Condition, current_device, current_dtype
from guidegraph_diffusers.folders import (
    check_loaded,
    check_weights_file,
    import_diffusers,
    one_line,
    read_json,
)
from guidegraph_runtime.files.regular_files import require_regular_files

ENCODER_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
Encode = Callable[[Any, list[str], dict[str, Any]], Condition]


def _encode_sd(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    return Condition(tokens=pipeline.encode_prompt(texts, common["device"], 1, False)[0])


def _encode_pooled(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    """SDXL and SD3."""
    tokens, _, vector, _ = pipeline.encode_prompt(prompt=texts, do_classifier_free_guidance=False, **common)
    return Condition(vector=vector, tokens=tokens)


def _encode_sd3(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    return _encode_pooled(pipeline, texts, {"prompt_2": None, "prompt_3": None} | common)


def _encode_flux(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    tokens, vector, _ = pipeline.encode_prompt(prompt=texts, **common)
    return Condition(vector=vector, tokens=tokens)


def _encode_pixart(pipeline: Any, texts: list[str], common: dict[str, Any]) -> Condition:
    tokens, mask, _, _ = pipeline.encode_prompt(prompt=texts, do_classifier_free_guidance=False, **common)
    return Condition(tokens=tokens, mask=mask.bool())


ENCODERS: dict[str, tuple[Encode, str]] = {
    "StableDiffusionPipeline": (_encode_sd, "StableDiffusionPipeline"),
    "StableDiffusionImg2ImgPipeline": (_encode_sd, "StableDiffusionPipeline"),
    "StableDiffusionInpaintPipeline": (_encode_sd, "StableDiffusionPipeline"),
    "StableDiffusionXLPipeline": (_encode_pooled, "StableDiffusionXLPipeline"),
    "StableDiffusionXLImg2ImgPipeline": (_encode_pooled, "StableDiffusionXLPipeline"),
    "StableDiffusionXLInpaintPipeline": (_encode_pooled, "StableDiffusionXLPipeline"),
    "StableDiffusion3Pipeline": (_encode_sd3, "StableDiffusion3Pipeline"),
    "FluxPipeline": (_encode_flux, "FluxPipeline"),
    "PixArtAlphaPipeline": (_encode_pixart, "PixArtAlphaPipeline"),
    "PixArtSigmaPipeline": (_encode_pixart, "PixArtSigmaPipeline"),
}


class PipelineText(nn.Module):
    """A `TextEmbedder` of a pipeline's text encoders."""

    def __init__(
        self,
        pipeline: Any,
        encoders: dict[str, nn.Module],
        encode: Encode,
        length: int | None,
        numbers: Sequence[int] | None,
    ) -> None:
        """numbers: the last entries of SDXL's vector, if any; others ignore them."""
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.pipeline = pipeline
        self.encode = encode
        self.length = length
        self.numbers = numbers
        self.sizes = type(pipeline).__name__ == "StableDiffusionXLPipeline"
        self.zeros = self.sizes and bool(pipeline.config.force_zeros_for_empty_prompt)

    @classmethod
    def load(
        cls,
        path: Path,
        index: Mapping[str, Any],
        pipeline: str,
        encode: Encode,
        length: int | None,
        numbers: Sequence[int] | None,
        variant: str | None,
        classes: Collection[str] = (),
    ) -> PipelineText:
        """Load from a pipeline's folder and its model_index.json. Raises ``ValueError`` for missing or unfit parts.

        classes: names of text encoders and tokenizers in transformers that are known besides those of this module.
        """
        kind = getattr(import_diffusers(), pipeline)
        if length is not None and "max_sequence_length" not in inspect.signature(kind.encode_prompt).parameters:
            raise ValueError(f"a {pipeline} has no T5, so it takes no `length`")
        parameters = inspect.signature(kind.__init__).parameters
        parts: dict[str, Any] = {
            name: None for name, p in parameters.items() if name != "self" and p.default is p.empty
        }
        for name in [name for name in parts if name.startswith(("text_encoder", "tokenizer"))]:
            parts[name] = _load_part(path, name, index.get(name), variant, classes)
        if "force_zeros_for_empty_prompt" in index:
            parts["force_zeros_for_empty_prompt"] = index["force_zeros_for_empty_prompt"]
        if "requires_safety_checker" in parameters:
            parts["requires_safety_checker"] = False
        loaded = kind(**parts)
        if "transformer" in parameters and any(
            parts[name] is None for name in parts if name.startswith("text_encoder")
        ):
            # SD3 without T5 replaces its tokens by zeros of the width that the transformer takes.
            loaded.transformer = SimpleNamespace(config=SimpleNamespace(**read_json(path / "transformer/config.json")))
        encoders = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        if not encoders:
            raise ValueError(f"the pipeline in '{path}' names no text encoder in its model_index.json")
        return cls(loaded, encoders, encode, length, numbers).eval()

    def forward(self, texts: Sequence[str]) -> Condition:
        """tokens (B, M, D), with a mask or a vector where the pipeline has one."""
        common: dict[str, Any] = {"device": next(self.parameters()).device}
        if self.length is not None:
            common["max_sequence_length"] = self.length
        with torch.no_grad():
            condition = self.encode(self.pipeline, list(texts), common)
        return self._add_sizes(condition, texts) if self.sizes else condition

    def _add_sizes(self, condition: Condition, texts: Sequence[str]) -> Condition:
        assert condition.vector is not None
        assert condition.tokens is not None
        is_kept = condition.tokens.new_tensor([float(bool(text) or not self.zeros) for text in texts])
        pooled = condition.vector.float() * is_kept[:, None].float()  # float32 holds a size such as 1016 exactly
        tokens = condition.tokens * is_kept[:, None, None]
        if self.numbers is None:
            return Condition(vector=pooled, tokens=tokens)
        numbers = torch.tensor([self.numbers], dtype=torch.float32, device=is_kept.device).expand(len(texts), -1)
        return Condition(vector=torch.cat([pooled, numbers], dim=1), tokens=tokens)


def _load_part(path: Path, name: str, entry: Any, variant: str | None, classes: Collection[str]) -> Any:
    """Load a text encoder or tokenizer that model_index.json names, or None."""
    import transformers

    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"'{path / 'model_index.json'}' names no '{name}', which the pipeline needs")
    library, kind = entry
    if library is None and kind is None:
        return None
    is_encoder = name.startswith("text_encoder")
    supported = (*(ENCODER_CLASSES if is_encoder else TOKENIZER_CLASSES), *classes)
    if library != "transformers" or kind not in supported:
        raise ValueError(
            f"'{name}' in '{path}' is of {library}.{kind}; known of transformers are {', '.join(supported)}"
        )
    folder = path / name
    if not folder.is_dir():
        raise ValueError(f"'{path}' holds no part '{name}', which its model_index.json names")
    require_regular_files(folder)
    try:
        if not is_encoder:
            words = getattr(transformers, kind).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            return _check_vocabulary(words, folder)
        check_weights_file(folder, "model", variant)
        model, info = getattr(transformers, kind).from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            variant=variant,
            dtype=current_dtype(),
            output_loading_info=True,
        )
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"'{folder}' holds no {kind} that transformers can load: {one_line(error)}") from error
    check_loaded(folder, info, ("missing_keys", "mismatched_keys"))
    return model.to(device=current_device()).eval().requires_grad_(False)


def _check_vocabulary(tokenizer: Any, folder: Path) -> Any:
    """Return the tokenizer. Raises ``ValueError`` without a vocabulary, which transformers accepts."""
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(f"the tokenizer in '{folder}' knows no words: its vocabulary is missing")
    return tokenizer
