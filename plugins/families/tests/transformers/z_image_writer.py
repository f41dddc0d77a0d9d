"""Tiny and released transformers and pipelines of Z-Image of diffusers, and their weights in the single-file layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugins.families.tests.transformers import flux_pipelines, flux_writer

SHAPE: dict[str, Any] = {
    "in_channels": 4,
    "dim": 96,
    "n_layers": 2,
    "n_refiner_layers": 2,
    "n_heads": 6,
    "n_kv_heads": 6,
    "cap_feat_dim": 32,
    "axes_dims": [4, 6, 6],
    "axes_lens": [600, 64, 64],
}
RELEASED_HEADS: dict[str, Any] = {"dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48]}
"""Heads as wide as in the releases, which a single file needs."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def network(**changes: Any) -> Any:
    """A tiny transformer of diffusers with random weights."""
    import diffusers

    return flux_writer.randomise(
        diffusers.ZImageTransformer2DModel(**{**SHAPE, **changes}).eval().requires_grad_(False)
    )


def single_file(model: Any) -> dict[str, Tensor]:
    """The weights under the names of the single file, the reverse of diffusers' own conversion."""
    names = {
        "all_final_layer.2-1.": "final_layer.",
        "all_x_embedder.2-1.": "x_embedder.",
        ".attention.to_out.0.": ".attention.out.",
        ".attention.norm_k.": ".attention.k_norm.",
        ".attention.norm_q.": ".attention.q_norm.",
    }
    tensors: dict[str, Tensor] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        if ".attention.to_q." in name:
            parts = [state[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            tensors[name.replace("to_q", "qkv")] = torch.cat(parts)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            tensors[name] = tensor
    return tensors


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of Qwen2 whose pieces are bytes, with marks of a chat and its template; returns its size."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate((*letters, "us", *MARKS))}
    words = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[("u", "s")], additional_special_tokens=list(MARKS[1:]), model_max_length=512
    )
    words.chat_template = TEMPLATE
    words.save_pretrained(str(folder))
    return len(vocabulary)


def language_model(words: int) -> Any:
    """A Qwen3 of transformers with random weights."""
    import transformers

    torch.manual_seed(8)
    config = transformers.Qwen3Config(
        vocab_size=words,
        hidden_size=SHAPE["cap_feat_dim"],
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=600,
        pad_token_id=None,
    )
    model: Any = transformers.Qwen3Model(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def pipeline(folder: Path) -> Any:
    """A pipeline of diffusers; its tokenizer is written under `folder`."""
    import diffusers
    import transformers

    words = write_tokenizer(folder / "qwen")
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux_pipelines.vae(),
        text_encoder=language_model(words),
        tokenizer=transformers.Qwen2Tokenizer.from_pretrained(str(folder / "qwen")),
        transformer=network(**RELEASED_HEADS),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
