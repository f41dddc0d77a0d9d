"""Nodes that load released checkpoints."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt

from guidegraph.graph.node import get_spec, node
from guidegraph.graph.types import Beside
from guidegraph.nodes.checkpoints.family import find_offers
from guidegraph.nodes.checkpoints.load_options import AttentionOrder, LoadOptions, NoiseSchedule, PredictionChoice
from guidegraph.nodes.models.model_json import AbsentPart
from guidegraph.nodes.sampling.schedule import trained
from guidegraph.nodes.types import (
    Autoencoder,
    Classifier,
    Denoiser,
    LabelEmbedder,
    Schedule,
    SemanticEmbedder,
    TextEmbedder,
)


class Checkpoint(NamedTuple):
    """The parts of a released checkpoint."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    text: TextEmbedder
    schedule: Schedule
    classifier: Classifier
    label: LabelEmbedder
    semantic: SemanticEmbedder


def _text_packages(outputs: Collection[str]) -> dict[str, str]:
    return {"transformers": "clip"} if "text" in outputs else {}


@node("checkpoint.load", host=True, version=2, extras=_text_packages, asks="guidegraph_families")
def load_checkpoint(
    *,
    path: Annotated[Path, Beside("config.yaml")],
    attention: AttentionOrder = "auto",
    heads: Annotated[int, Ge(1)] | None = None,
    head_channels: Annotated[int, Ge(1)] | None = None,
    noise_schedule: NoiseSchedule = "auto",
    prediction: PredictionChoice = "auto",
    tokenizer: Path | None = None,
    ema: bool = True,
    pack: bool = True,
    scale: Annotated[float, Gt(0)] | None = None,
    upsample_heads: Annotated[int, Ge(1)] | None = None,
    groups: Annotated[int, Ge(1)] | None = None,
    config: Path | None = None,
    shift: float | None = None,
    t5: bool = True,
    t5_tokenizer: Path | None = None,
    transformer: Path | None = None,
) -> Checkpoint:
    """Load a released checkpoint, identified by its content, frozen, on the run's device and in its dtype.

    path: a `.pt` of guided-diffusion (a diffusion model, an upsampler or a classifier); a CompVis single file, `.ckpt`
    or `.safetensors`, of latent diffusion, Stable Diffusion 1 or 2, SDXL, or of a first stage alone, or a folder with
    one and its config.yaml; a DiT's `.pt`; a PixArt's `.pth`; a single file of Stable Diffusion 3; a transformer of it,
    of Flux.1 or of Z-Image; a diffusers folder of these; or what a plugin's family recognises. Weights may be in fp8,
    with scales or without, and a file may be a GGUF. The architecture is inferred from the tensors, or from a folder's
    config.json; weights are memory-mapped, cast as they load, and nothing in a file is executed. Every key is used, or
    explicitly listed as not a weight; any other key is an error.
    Settings that the tensors do not determine come from here, else from the config.yaml next to a CompVis file or in
    `config`, else from the released model of this shape. If none of them has it, an error names the setting.
    attention: the order of q, k, v and heads (use_new_attention_order). heads or head_channels: number of attention
    heads, or width of each. upsample_heads: number of heads on the up path, if different (num_heads_upsample).
    groups: of GroupNorm, 32 in all released models. scale: factor that gives latents unit variance; shift: their mean
    before that, in the autoencoders of flows. noise_schedule: the β of its training. prediction: kind of the network's
    prediction, which files of Stable Diffusion 2 do not contain; flow for a network without β, such as one of a
    diffusers folder alone. config: a CompVis file's config.yaml, if it is not next to the file. tokenizer: the folder
    of the tokenizer for a single file's text encoder (vocab.json and merges.txt), which a file does not hold.
    t5_tokenizer: the same for its T5 (spiece.model or tokenizer.json). t5: false leaves T5 out of Stable Diffusion 3,
    whose tokens are zeros then. ema: use the moving averages of the U-Net's weights if the checkpoint has both; false
    uses the other weights: a CompVis file's own, or the variant `non_ema` of a diffusers folder. transformer: for a
    folder of Flux.1 or Z-Image, the single file or folder of another transformer; the folder needs none then.
    pack: on a CPU, also keep the denoiser's convolutions in the layout of its kernels. This is faster, especially for
    small pictures, and doubles the memory of those weights.
    The schedule's trained range is all timesteps, as for all released models.
    A part that the checkpoint does not hold raises an error on use.
    """
    from torch import nn

    from guidegraph.nodes.checkpoints.loading import load_parts
    from guidegraph.nodes.models.networks.packed_convolution import set_packing

    options = LoadOptions(
        attention,
        heads,
        head_channels,
        noise_schedule,
        prediction,
        tokenizer,
        ema,
        scale,
        upsample_heads,
        groups,
        config,
        shift,
        t5,
        t5_tokenizer,
        transformer,
    )
    parts = load_parts(path, options, find_offers(), get_spec(load_checkpoint).outputs)
    if isinstance(denoiser := parts.get("denoiser"), nn.Module):
        set_packing(denoiser, pack)
    if isinstance(schedule := parts.get("schedule"), Schedule):
        parts["schedule"] = trained(schedule)
    loaded: dict[str, Any] = {name: parts.get(name, AbsentPart.of(path, name, parts)) for name in Checkpoint._fields}
    return Checkpoint(**loaded)
