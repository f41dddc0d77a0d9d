"""Tiny complete pipelines of diffusers with the topology of released ones; written as folders and single files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from plugins.families.tests import tiny
from plugins.families.tests.compvis import compvis_writer

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
    """Write the same weights in CompVis' layout, with a config.yaml: `.ckpt` or `.safetensors` by the path's suffix."""
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
    (path.parent / "config.yaml").write_text(yaml.safe_dump(config_of(family)))
    contiguous = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(contiguous, path)
    else:
        torch.save({"state_dict": contiguous, "global_step": 470000}, path)
    return path


def config_of(family: str) -> dict[str, Any]:
    """The config.yaml of a tiny family, in the form of Stable Diffusion's, or of SDXL's own software."""
    settings = tiny.UNETS[family]
    network = {
        "in_channels": settings.get("in_channels", 4),
        "out_channels": 4,
        "model_channels": settings["block_out_channels"][0],
        "channel_mult": [1, 2],
        "num_res_blocks": settings["layers_per_block"],
        "attention_resolutions": [2 if family == "sdxl" else 1],
        "use_spatial_transformer": True,
        "transformer_depth": [1, 2] if family == "sdxl" else 1,
        "context_dim": settings["cross_attention_dim"],
        "legacy": False,
    }
    heads = {"num_heads": 8} if family in ("sd1", "inpaint") else {"num_head_channels": 64}
    network |= heads | ({} if "num_heads" in heads else {"use_linear_in_transformer": True})
    if family != "sdxl":
        params = {"linear_start": 0.00085, "linear_end": 0.012, "scale_factor": 0.18215, "timesteps": 1000}
        params["unet_config"] = {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": network}
        return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    network |= {"adm_in_channels": settings["projection_class_embeddings_input_dim"], "num_classes": "sequential"}
    denoiser = {
        "num_idx": 1000,
        "scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling"},
        "discretization_config": {"target": "sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization"},
    }
    params = {
        "scale_factor": 0.13025,
        "denoiser_config": {
            "target": "sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser",
            "params": denoiser,
        },
        "network_config": {"target": "sgm.modules.diffusionmodules.openaimodel.UNetModel", "params": network},
    }
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}


def _openclip_of_sd2(text: Any) -> dict[str, torch.Tensor]:
    """Stable Diffusion 2's file has one layer more than diffusers' folder, which nothing reads."""
    tensors = compvis_writer.openclip(text, projection=False)
    count = text.config.num_hidden_layers
    last = {n.replace(f".{count - 1}.", f".{count}."): v + 1 for n, v in tensors.items() if f".{count - 1}." in n}
    return tensors | last | {"text_projection": torch.randn(64, 64)}


def _old(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"
