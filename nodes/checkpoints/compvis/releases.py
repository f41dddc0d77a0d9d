"""The releases in CompVis' layout, with the settings that are not in their tensors.

Latent diffusion: `models/` and `configs/` of that project (Rombach et al. 2022; Blattmann et al. 2022 for rdm768).
Stable Diffusion 1 and 2, and SDXL: the configurations of their own projects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guidegraph.nodes.checkpoints.compvis.model_facts import BetaSchedule, Facts, Rescaler
from guidegraph.nodes.checkpoints.first_stage import FLOW_STAGE
from guidegraph.nodes.checkpoints.infer_unet import GROUPS, Structure
from guidegraph.nodes.models.released.autoencoder import FirstStageShape


@dataclass(frozen=True)
class FirstStageRelease:
    """A released first stage by its name and shape; scale: None if files of this shape differ in it."""

    name: str
    shape: FirstStageShape
    scale: float | None = 1.0
    note: str = ""


@dataclass(frozen=True)
class Release:
    """A released diffusion model: its names, the structure of its tensors, and facts that are not in them.

    inputs: channels of the first convolution, for models that differ only in these. first_stage: name of the
    autoencoder of its latents. note: advice for facts that are missing because files of this shape differ in them.
    """

    names: tuple[str, ...]
    structure: Structure
    first_stage: str
    facts: Facts
    inputs: tuple[int, ...]
    note: str = ""

    def matches(self, measured: Structure, first: FirstStageShape | None) -> bool:
        """Whether a structure and its first stage, if any, belong to this model."""
        alike = measured.inputs in self.inputs and replace(measured, inputs=self.structure.inputs) == self.structure
        return alike and (first is None or _same_latents(first, FIRST_STAGES[self.first_stage].shape))


def find_release(measured: Structure, first: FirstStageShape | None) -> Release | None:
    """The released model of a structure, or None."""
    return next((release for release in RELEASES if release.matches(measured, first)), None)


def find_first_stage(shape: FirstStageShape) -> FirstStageRelease | None:
    """The released first stage of a shape, or None."""
    return next((release for release in FIRST_STAGES.values() if release.shape == shape), None)


def _same_latents(first: FirstStageShape, other: FirstStageShape) -> bool:
    return replace(first, middle=other.middle) == other  # inpainting_big's has no attention in the middle


def _first_stage(
    multiples: tuple[int, ...], channels: int, codes: int = 0, attention: tuple[int, ...] = ()
) -> FirstStageShape:
    """128 channels times a multiple at each resolution; attention at some levels and in the middle."""
    return FirstStageShape(
        widths=tuple(128 * multiple for multiple in multiples),
        encoder_attention=attention,
        decoder_attention=attention,
        z_channels=channels,
        latent_channels=channels,
        codes=codes,
        groups=GROUPS,
    )


VQ_F4 = _first_stage((1, 2, 4), 3, 8192)
KL_F8_NOTE = (
    "first stages of this shape are scaled by 0.18215 in Stable Diffusion 1 and 2, by 0.13025 in SDXL, and not at all "
    "(1) where latent diffusion released kl-f8 alone"
)
FLOW_F8_NOTE = (
    "first stages of this shape have a scale of 1.5305 and a shift of 0.0609 in Stable Diffusion 3, of 0.3611 and "
    "0.1159 in Flux and Z-Image: set shift too"
)
FIRST_STAGES = {
    release.name: release
    for release in (
        FirstStageRelease("kl-f4", _first_stage((1, 2, 4), 3)),
        FirstStageRelease("kl-f8", _first_stage((1, 2, 4, 4), 4), None, KL_F8_NOTE),
        FirstStageRelease("kl-f16", _first_stage((1, 1, 2, 2, 4), 16, attention=(4,))),
        FirstStageRelease("kl-f32", _first_stage((1, 1, 2, 2, 4, 4), 64, attention=(4, 5))),
        FirstStageRelease("flow-f8", FLOW_STAGE, None, FLOW_F8_NOTE),
        FirstStageRelease("vq-f4", VQ_F4),
        FirstStageRelease("vq-f4-noattn", replace(VQ_F4, middle=False)),
        FirstStageRelease("vq-f8", _first_stage((1, 2, 2, 4), 4, 16384, (3,))),
        FirstStageRelease("vq-f8-n256", _first_stage((1, 2, 2, 4), 4, 256, (3,))),
        FirstStageRelease("vq-f16", _first_stage((1, 1, 2, 2, 4), 8, 16384, (4,))),
    )
}
"""By name. The autoencoders have scale 1: the scale belongs to the diffusion model on their latents."""


def _unet(channels: int, multiples: tuple[int, ...], latent: int, depths: tuple[int, ...], **more: object) -> Structure:
    structure = Structure(
        inputs=latent,
        outputs=latent,
        channels=channels,
        widths=tuple(channels * multiple for multiple in multiples),
        blocks=2,
        depths=depths,
        middle_depth=max(1, *depths),
        context_dim=None,
        linear_projections=False,
        scale_shift=False,
        resblock_updown=False,
        classes=None,
        adm_channels=None,
    )
    return replace(structure, **more)  # type: ignore[arg-type]


def _latent_diffusion(
    names: str, structure: Structure, first_stage: str, facts: Facts, beta_end: float, inputs: int | None = None
) -> Release:
    """A model of the paper: ε, β from 0.0015, heads before q, k and v if attention is among pixels only."""
    complete = replace(facts, order="legacy", groups=GROUPS, prediction="eps", schedule=BetaSchedule(0.0015, beta_end))
    return Release(tuple(names.split()), structure, first_stage, complete, (inputs or structure.inputs,))


def _stable(names: str, structure: Structure, inputs: tuple[int, ...], facts: Facts, note: str = "") -> Release:
    complete = replace(facts, order="legacy", groups=GROUPS, schedule=BetaSchedule(0.00085, 0.012))
    return Release(tuple(names.split()), structure, "kl-f8", complete, inputs, note)


WIDE = Facts(head_channels=32, scale=1.0)
EIGHT = Facts(heads=8, scale=1.0)
STABLE = Facts(heads=8, scale=0.18215, prediction="eps")
STABLE_2 = Facts(head_channels=64, scale=0.18215)
STABLE_2_NOTE = (
    "this is the shape of Stable Diffusion 2, whose files do not tell what the network predicts: set `prediction` of "
    "checkpoint.load to v (the models of 768 pixels) or to eps (the base models of 512 pixels)"
)
MAPS = replace(EIGHT, rescaler=Rescaler(2))
OUTER = (0, 1, 1, 1)
INNER = (1, 1, 1, 0)
TEXT_UNET = _unet(320, (1, 2, 4, 4), 4, INNER)
SD_2 = replace(TEXT_UNET, context_dim=1024, linear_projections=True)
SDXL = replace(_unet(320, (1, 2, 4), 4, (0, 2, 10)), context_dim=2048, linear_projections=True, adm_channels=2816)

SDXL_SIZE_WIDTH = 256
"""Width of the embedding of each of the six sizes at the end of SDXL's vector (Podell et al. 2023, section 2.2)."""


RELEASES = (
    _latent_diffusion("celeba256 ffhq256 lsun_beds256", _unet(224, (1, 2, 3, 4), 3, OUTER), "vq-f4", WIDE, 0.0195),
    _latent_diffusion(
        "lsun_churches256",
        _unet(192, (1, 2, 2, 4, 4), 4, (1, 1, 1, 1, 0), scale_shift=True, resblock_updown=True),
        "kl-f8",
        Facts(heads=8),  # scaled by the deviation of its latents, which the file has
        0.0155,
    ),
    _latent_diffusion(
        "cin256",
        _unet(256, (1, 2, 4), 4, (1, 1, 1), context_dim=512),
        "vq-f8",
        WIDE,
        0.0195,
    ),
    _latent_diffusion(
        "cin256-v2",
        _unet(192, (1, 2, 3, 5), 3, OUTER, context_dim=512),
        "vq-f4",
        Facts(heads=1, scale=1.0, null_label=1000),
        0.0195,
    ),
    _latent_diffusion("text2img256", _unet(192, (1, 2, 3, 5), 3, OUTER, context_dim=640), "vq-f4", WIDE, 0.0195),
    _latent_diffusion(
        "layout2img-openimages256",
        _unet(128, (1, 2, 3, 4), 3, (0, 3, 3, 3), context_dim=512),
        "vq-f4",
        replace(WIDE, takes_text=False),
        0.0205,
    ),
    _latent_diffusion(
        "inpainting_big", _unet(256, (1, 2, 3, 4), 3, OUTER, resblock_updown=True), "vq-f4", EIGHT, 0.0205, 7
    ),
    _latent_diffusion(
        "semantic_synthesis256 semantic_synthesis512", _unet(128, (1, 4, 8), 3, (0, 0, 0)), "vq-f4", MAPS, 0.0205, 6
    ),
    _latent_diffusion("bsr_sr", _unet(160, (1, 2, 2, 4), 3, (0, 0, 0, 1)), "vq-f4", WIDE, 0.0155, 6),
    _latent_diffusion(
        "rdm768",
        _unet(448, (1, 2, 3, 4), 16, INNER, context_dim=768),
        "kl-f16",
        Facts(head_channels=32, scale=0.22765929),
        0.015,
    ),
    _stable("txt2img-1p4B", replace(TEXT_UNET, context_dim=1280), (4,), STABLE),
    _stable("stable-diffusion-1", replace(TEXT_UNET, context_dim=768), (4, 8, 9), STABLE),
    _stable("stable-diffusion-2", SD_2, (4,), STABLE_2, STABLE_2_NOTE),
    _stable("stable-diffusion-2-inpainting", SD_2, (9,), replace(STABLE_2, prediction="eps")),
    _stable("sdxl", SDXL, (4, 9), Facts(head_channels=64, scale=0.13025, prediction="eps")),
)
