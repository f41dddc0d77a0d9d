"""guided-diffusion's `.pt` files: diffusion models, upsamplers, and the classifiers of noisy samples.

Dhariwal & Nichol 2021. The hyper-parameters of the released models are in that project's README; its software
trains them with 1000 steps, and takes t in 0 … 999.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.models.model_nodes import SCHEDULES
from guidegraph.nodes.types import Schedule
from guidegraph_families.networks.unet import ReleasedClassifier
from guidegraph_families.parts.infer_unet import (
    GROUPS,
    Heads,
    Structure,
    build_denoiser,
    infer_classifier_shape,
    infer_structure,
    infer_unet_shape,
)

CLASSIFIER_HEADS = Heads(head_channels=64)  # fixed in the software, for every classifier
RGB = 3


@dataclass(frozen=True)
class GuidedRelease:
    """A released shape: hyper-parameters that its tensors show, and those that they do not: heads and schedule."""

    channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: Heads
    schedule: str = "linear"

    def matches(self, measured: Structure) -> bool:
        """Whether a structure is this release's."""
        measured_shape = (measured.channels, measured.widths, measured.blocks, measured.attention_levels)
        return measured_shape == (self.channels, self.widths, self.blocks, self.attention)


WIDE = Heads(head_channels=64)
TABLE = (
    GuidedRelease(192, (192, 384, 576, 768), 3, (1, 2, 3), replace(WIDE, order="new"), "cosine"),  # 64
    GuidedRelease(256, (256, 256, 512, 768, 1024), 2, (2, 3, 4), Heads(heads=4)),  # 128
    GuidedRelease(256, (256, 256, 512, 512, 1024, 1024), 2, (3, 4, 5), WIDE),  # 256, conditional or not; LSUN
    GuidedRelease(256, (128, 256, 256, 512, 512, 1024, 1024), 2, (4, 5, 6), WIDE),  # 512
    GuidedRelease(192, (192, 192, 384, 384, 768, 768), 2, (3, 4, 5), Heads(heads=4)),  # 64 to 256
    GuidedRelease(192, (192, 192, 384, 384, 768, 768), 2, (4, 5), WIDE),  # 128 to 512
)


def is_guided_diffusion(tensors: Mapping[str, object]) -> bool:
    """Whether tensors have guided-diffusion's layout, with attention among pixels only."""
    has_layout = "time_embed.0.weight" in tensors and "input_blocks.0.0.weight" in tensors
    return has_layout and not any(".transformer_blocks." in name for name in tensors)


def load_guided_diffusion(
    tensors: Mapping[str, Tensor],
    path: Path,
    options: LoadOptions,
) -> dict[str, Any]:
    """Load the parts of a file, frozen: `denoiser`, `schedule` and, with classes, `label`; or `classifier`.

    They are on the run's device and in its dtype. Raises ``ValueError`` that names the file for an unreleased shape if
    the options do not set its heads and its schedule, and for keys that are missing, left over or of another shape.
    """
    source = str(path)
    options.refuse_t5(source)
    if options.tokenizer is not None:
        raise ValueError(f"'{source}' is a file of guided-diffusion, which takes no text: leave tokenizer out")
    if unused := [name for name in ("scale", "shift", "config") if getattr(options, name) is not None]:
        raise ValueError(f"'{source}' is a file of guided-diffusion, without latents: leave {', '.join(unused)} out")
    if any(name.startswith("output_blocks.") for name in tensors):
        return _load_denoiser(tensors, source, options)
    heads = _apply_options(CLASSIFIER_HEADS, options)
    pool_head_channels = CLASSIFIER_HEADS.head_channels or 64
    groups = options.groups or GROUPS
    shape = infer_classifier_shape(tensors, source, heads=heads, pool_head_channels=pool_head_channels, groups=groups)
    classifier = build_filled(lambda: ReleasedClassifier(shape), tensors, source)
    sets_schedule = options.noise_schedule != "auto"
    return {"classifier": classifier} | ({"schedule": build_schedule(options.noise_schedule)} if sets_schedule else {})


def _load_denoiser(tensors: Mapping[str, Tensor], source: str, options: LoadOptions) -> dict[str, Any]:
    measured = infer_structure(tensors, source)
    heads, schedule = resolve_heads_and_schedule(measured, source, options)
    rgb = measured.inputs in (RGB, 2 * RGB) and measured.outputs in (RGB, 2 * RGB)
    kind = "eps" if options.prediction == "auto" else options.prediction
    groups = options.groups or GROUPS
    samples = RGB if rgb else measured.inputs
    shape = infer_unet_shape(tensors, source, samples=samples, heads=heads, kind=kind, groups=groups)
    return build_denoiser(shape, tensors, source) | {"schedule": build_schedule(schedule)}


def resolve_heads_and_schedule(measured: Structure, source: str, options: LoadOptions) -> tuple[Heads, str]:
    """The heads and the noise schedule of a model: from the options, otherwise from the release of its shape."""
    released = next((row for row in TABLE if row.matches(measured)), None)
    sets_heads = options.heads is not None or options.head_channels is not None
    is_set = {"attention": options.attention != "auto", "noise_schedule": options.noise_schedule != "auto"}
    is_set["heads or head_channels"] = sets_heads
    if released is None and not all(is_set.values()):
        unset = [name for name, present in is_set.items() if not present]
        raise ValueError(
            f"'{source}' is in guided-diffusion's layout but in none of its released shapes (channels "
            f"{measured.channels}, widths {measured.widths}), and its tensors do not tell "
            f"{', '.join(unset)}: set them on checkpoint.load as it was trained"
        )
    heads = _apply_options(Heads() if released is None else released.heads, options)
    if options.noise_schedule != "auto":
        return heads, options.noise_schedule
    assert released is not None
    return heads, released.schedule


def _apply_options(heads: Heads, options: LoadOptions) -> Heads:
    if options.heads is not None or options.head_channels is not None:
        heads = replace(heads, heads=options.heads, head_channels=options.head_channels)
    if options.upsample_heads is not None:
        heads = replace(heads, upsample=options.upsample_heads)
    return heads if options.attention == "auto" else replace(heads, order=options.attention)


def build_schedule(name: str) -> Schedule:
    """Build a schedule of 1000 steps by its name."""
    return SCHEDULES[name]()
