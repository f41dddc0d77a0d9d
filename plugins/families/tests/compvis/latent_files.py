"""Checkpoints of latent diffusion's layouts, written from a configuration by the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from plugins.families.tests.compvis import latent_reference as reference
from plugins.families.tests.compvis.latent_reference import Recorder

Tensors = dict[str, Tensor]
TOKENS = 4


def factor(config: dict[str, Any]) -> int:
    return int(2 ** (len(config["channel_mult"]) - 1))


def unet_tensors(network: dict[str, Any], device: str) -> Tensors:
    """The tensors of the U-Net that a configuration describes."""
    recorder, side = Recorder(device), factor(network)
    x = torch.zeros(1, network["in_channels"], side, side, device=device)
    context = torch.zeros(1, TOKENS, network["context_dim"], device=device) if "context_dim" in network else None
    reference.unet(recorder, x, torch.zeros(1, device=device), network, context)
    return recorder.held


def first_stage_tensors(params: dict[str, Any], device: str) -> Tensors:
    recorder, dd = Recorder(device, 1), params["ddconfig"]
    side = int(2 ** (len(dd["ch_mult"]) - 1))
    reference.encode(recorder, torch.zeros(1, 3, side, side, device=device), params)
    reference.decode(recorder, torch.zeros(1, params["embed_dim"], 1, 1, device=device), params)
    return recorder.held


def conditioner_tensors(cond: Any, first: Tensors, device: str) -> Tensors:
    if cond == "__is_first_stage__":
        return dict(first)
    kind = cond["target"].rpartition(".")[2] if isinstance(cond, dict) else ""
    recorder = Recorder(device, 2)
    if kind == "ClassEmbedder":
        recorder("embedding.weight", cond["params"].get("n_classes", 1000), cond["params"]["embed_dim"])
    elif kind == "SpatialRescaler":
        recorder("channel_mapper.weight", cond["params"]["out_channels"], cond["params"]["in_channels"], 1, 1)
    elif kind == "BERTEmbedder":
        reference.text(recorder, cond["params"])
    return recorder.held


def checkpoint_tensors(model: dict[str, Any], device: str = "cpu") -> Tensors:
    """All tensors of the file of a model, under the names of `LatentDiffusion`, without moving averages."""
    first = first_stage_tensors(model["first_stage_config"]["params"], device)
    parts = {
        "model.diffusion_model": unet_tensors(model["unet_config"]["params"], device),
        "first_stage_model": first,
        "cond_stage_model": conditioner_tensors(model["cond_stage_config"], first, device),
    }
    tensors = {f"{prefix}.{name}": value for prefix, part in parts.items() for name, value in part.items()}
    if model.get("scale_by_std"):
        tensors["scale_factor"] = torch.tensor(0.7)
    return tensors


def write_config(
    folder: Path, model: dict[str, Any], target: str = "ldm.models.diffusion.ddpm.LatentDiffusion"
) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {"target": target, "params": model}}))
    return path
