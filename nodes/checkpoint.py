"""Checkpoints that others released, as nodes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt

from guidegraph.graph.node import node
from guidegraph.graph.types import Beside
from guidegraph.nodes.checkpoints.options import AttentionOrder, NoiseSchedule, PredictionChoice
from guidegraph.nodes.model import Missing
from guidegraph.nodes.schedule import trained
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


@node("checkpoint.load", host=True, extras=_text_packages)
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
) -> Checkpoint:
    """A released checkpoint, told apart by content, frozen, on the run's device and in its dtype.

    path: a `.pt` of guided-diffusion (a diffusion model, an upsampler or a classifier); a CompVis single file, `.ckpt`
    or `.safetensors`, of latent diffusion, Stable Diffusion 1 or 2, SDXL, or of a first stage alone, or a folder with
    one and its config.yaml; or a diffusers folder of these. The architecture is told from the tensors, or from a
    folder's config.json; weights are memory-mapped, cast as they load, and nothing in a file is executed. Every key is
    used, or known and named as no weight; anything else is an error.
    What no tensor tells is set here; else it is that of the config.yaml beside a CompVis file, or of the one that
    config names; else that of the released model of this shape. Where none of them says it, an error names the setting.
    attention: the order of q, k, v and heads (use_new_attention_order). heads or head_channels: how many heads
    attention has, or how wide each is. upsample_heads: how many on the way up, where they are others
    (num_heads_upsample). groups: of GroupNorm, 32 in all that was released. scale: what a latent is multiplied by to
    have unit variance. noise_schedule: the β of its training. prediction: what the network gives, which files of Stable
    Diffusion 2 leave open. config: a CompVis file's config.yaml, where it is not beside it. tokenizer: the folder of
    the tokenizer for a single file's text encoder (vocab.json and merges.txt), which a file does not hold. ema: the
    moving averages of the U-Net's weights where the checkpoint has both; false takes the others: a CompVis file's own,
    or the variant `non_ema` of a diffusers folder.
    pack: on a CPU, keep the denoiser's convolutions in the layout of its kernels too: faster, the more the smaller the
    picture is, for as much memory again as those weights take.
    Released models were trained at all timesteps of their schedule, and so the schedule says.
    A part that the checkpoint does not hold raises an error when it is used.
    """
    from torch import nn

    from guidegraph.nodes.checkpoints.loading import load_parts
    from guidegraph.nodes.checkpoints.options import LoadOptions
    from guidegraph.nodes.models.packed import set_packing

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
    )
    parts = load_parts(path, options)
    if isinstance(denoiser := parts.get("denoiser"), nn.Module):
        set_packing(denoiser, pack)
    if isinstance(schedule := parts.get("schedule"), Schedule):
        parts["schedule"] = trained(schedule)
    held: dict[str, Any] = {name: parts.get(name, Missing.of(path, name, parts)) for name in Checkpoint._fields}
    return Checkpoint(**held)
