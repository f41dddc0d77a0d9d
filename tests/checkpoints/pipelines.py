"""Whole pipelines of diffusers with the topology of released ones, tiny; written as a folder and as a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.checkpoints import compvis_writer, tiny

FAMILIES = ("sd1", "sd2", "inpaint", "sdxl")


def scheduler(**settings: Any) -> Any:
    """DDIM as Stable Diffusion sets it."""
    import diffusers

    stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return diffusers.DDIMScheduler(**{**stable, "set_alpha_to_one": False, "steps_offset": 1, **settings})


def vae(scale: float = 0.18215) -> Any:
    """An AutoencoderKL with f = 2."""
    import diffusers

    torch.manual_seed(3)
    model: Any = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=scale,
        sample_size=32,
    )
    return model.eval().requires_grad_(False)


def pipeline(family: str, folder: Path, **scheduling: Any) -> Any:
    """A pipeline of diffusers; its tokenizers are written under `folder`."""
    import diffusers
    import transformers

    tiny.write_tokenizer(folder / "eos")
    tiny.write_tokenizer(folder / "zeros", pad="!")
    eos, zeros = (transformers.CLIPTokenizer.from_pretrained(str(folder / name)) for name in ("eos", "zeros"))
    shared = {"unet": tiny.unet(family), "scheduler": scheduler(**scheduling)}
    if family == "sdxl":
        return diffusers.StableDiffusionXLPipeline(
            **shared,
            vae=vae(0.13025),
            text_encoder=tiny.clip(),
            text_encoder_2=tiny.clip(projection=32, activation="gelu"),
            tokenizer=eos,
            tokenizer_2=zeros,
            add_watermarker=False,
        )
    kind = diffusers.StableDiffusionInpaintPipeline if family == "inpaint" else diffusers.StableDiffusionPipeline
    second = family == "sd2"
    return kind(
        **shared,
        vae=vae(),
        text_encoder=tiny.clip(activation="gelu") if second else tiny.clip(),
        tokenizer=zeros if second else eos,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def single_file(pipe: Any, family: str, path: Path) -> Path:
    """The same weights as CompVis wrote them: `.ckpt` or `.safetensors` by the path's name."""
    tensors = {f"model.diffusion_model.{name}": value for name, value in compvis_writer.unet(pipe.unet).items()}
    tensors |= {f"first_stage_model.{name}": value for name, value in compvis_writer.first_stage(pipe.vae).items()}
    if family == "sdxl":
        clip = pipe.text_encoder.state_dict()
        tensors |= {f"conditioner.embedders.0.transformer.{_old(name)}": value for name, value in clip.items()}
        second = compvis_writer.openclip(pipe.text_encoder_2, projection=True)
        tensors |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
    else:
        bars = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
        tensors |= {"alphas_cumprod": bars.float(), "betas": pipe.scheduler.betas.float()}
        if family == "sd2":
            tensors |= {f"cond_stage_model.model.{n}": v for n, v in _openclip_of_sd2(pipe.text_encoder).items()}
        else:
            clip = pipe.text_encoder.state_dict()
            tensors |= {f"cond_stage_model.transformer.{_old(name)}": value for name, value in clip.items()}
            positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
            tensors[positions] = torch.arange(77)[None]
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(whole, path)
    else:
        torch.save({"state_dict": whole, "global_step": 470000}, path)
    return path


def _openclip_of_sd2(text: Any) -> dict[str, torch.Tensor]:
    """Stable Diffusion 2's file has one layer more than diffusers' folder, which nothing reads."""
    tensors = compvis_writer.openclip(text, projection=False)
    count = text.config.num_hidden_layers
    last = {n.replace(f".{count - 1}.", f".{count}."): v + 1 for n, v in tensors.items() if f".{count - 1}." in n}
    return tensors | last | {"text_projection": torch.randn(64, 64)}


def _old(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"
