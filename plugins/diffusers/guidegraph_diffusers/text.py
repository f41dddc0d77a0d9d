"""The text encoders of a diffusers pipeline as a `TextEmbedder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from guidegraph import TextEmbedder, node
from guidegraph_diffusers.folders import check_folder, import_diffusers, read_class_name, read_json

Pixels = Annotated[int, Gt(0)]
Corner = Annotated[int, Ge(0)]


@node("diffusers.text", host=True, version=2)
def load_text(
    *,
    path: Path,
    length: Annotated[int, Gt(1)] | None = None,
    size: tuple[Pixels, Pixels] | None = None,
    original_size: tuple[Pixels, Pixels] | None = None,
    crop: tuple[Corner, Corner] = (0, 0),
    variant: str | None = None,
) -> TextEmbedder:
    """The text encoders and tokenizers of a pipeline's folder, frozen: prompts as the pipeline itself encodes them.

    Tokens (B, M, D); their mask for PixArt; a pooled vector for SDXL, SD3 and Flux. length: tokens of T5, by default
    the pipeline's (SD3 256, Flux 512, PixArt 120 or 300). SDXL is told the size of the picture that it draws. With
    `size`, its vector ends in six numbers instead: original_size (by default size), crop and size, each (height, width)
    or (top, left) in pixels. The empty prompt is the null condition: for SDXL zeros, if the pipeline's configuration
    sets `force_zeros_for_empty_prompt`.

    Raises an error for original_size or crop without size, a pipeline that is not supported, a part that is missing,
    and weights that are not safetensors or do not fit.
    """
    import_diffusers()
    from guidegraph_diffusers.prompts import ENCODERS, PipelineText

    file = check_folder(path) / "model_index.json"
    index = read_json(file)
    encode, pipeline = ENCODERS[read_class_name(index, file, ENCODERS)]
    if size is None and (original_size is not None or crop != (0, 0)):
        raise ValueError("original_size and crop need size, the height and width of the picture: set it too")
    numbers = None if size is None else (*(original_size or size), *crop, *size)
    embedder: TextEmbedder = PipelineText.load(path, index, pipeline, encode, length, numbers, variant)
    return embedder
