"""Tiny complete pipelines of Stable Diffusion 3 of diffusers, and their weights as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from plugins.families.tests import tiny
from plugins.families.tests.compvis import compvis_writer
from plugins.families.tests.transformers import sd3_writer

SHAPE: dict[str, Any] = {
    **sd3_writer.SHAPE,
    "in_channels": 16,
    "out_channels": 16,
    "joint_attention_dim": 200,
    "pooled_projection_dim": 64 + 32,
}


def pipeline(family: str, folder: Path, *, t5: bool = True, shift: float = 3.0) -> Any:
    """A pipeline of diffusers; its tokenizers are written under `folder` as eos, zeros and t5.

    CLIP-L's projection is the identity, as diffusers makes it for single files, which do not use theirs.
    """
    import diffusers
    import transformers

    tiny.write_tokenizer(folder / "eos")
    tiny.write_tokenizer(folder / "zeros", pad="!")
    tiny.write_t5_tokenizer(folder / "t5")
    first = tiny.clip(projection=64)
    first.text_projection.weight.copy_(torch.eye(64))
    pipe: Any = diffusers.StableDiffusion3Pipeline(
        transformer=sd3_writer.network(family, SHAPE),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=tiny.flow_vae(16, 1.5305, 0.0609),
        text_encoder=first,
        text_encoder_2=tiny.clip(width=128, projection=32, activation="gelu"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(folder / "eos")),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(str(folder / "zeros")),
        text_encoder_3=tiny.t5(width=200) if t5 else None,
        tokenizer_3=transformers.T5TokenizerFast.from_pretrained(str(folder / "t5")) if t5 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tensors_of(pipe: Any) -> dict[str, Tensor]:
    """The weights under the names of Stable Diffusion 3's single files with all of its parts."""
    tensors = {f"model.diffusion_model.{name}": t for name, t in sd3_writer.single_file(pipe.transformer).items()}
    tensors |= {f"first_stage_model.{name}": t for name, t in compvis_writer.first_stage(pipe.vae).items()}
    for name, model in (("clip_l", pipe.text_encoder), ("clip_g", pipe.text_encoder_2), ("t5xxl", pipe.text_encoder_3)):
        for key, tensor in ({} if model is None else model.state_dict()).items():
            bare = (
                key if name == "t5xxl" or key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
            )
            tensors[f"text_encoders.{name}.transformer.{bare}"] = tensor
        tensors |= {} if model is None else {f"text_encoders.{name}.logit_scale": torch.ones(())}
    return tensors


def write_file(pipe: Any, path: Path, **changes: Tensor | None) -> Path:
    """Write a pipeline as one file; changes: tensors by their full names, None to leave one out."""
    kept = {name: tensor for name, tensor in {**tensors_of(pipe), **changes}.items() if tensor is not None}
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}, path)
    return path
