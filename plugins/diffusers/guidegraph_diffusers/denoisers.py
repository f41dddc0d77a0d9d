"""Denoisers of diffusers as a `Denoiser`, and class labels as a condition for those that take one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from guidegraph import Condition, Label, LabelEmbedder, OpaqueDenoiser, Schedule, node
from guidegraph_diffusers.folders import (
    SCHEDULER_CONFIG,
    find_part_folder,
    import_diffusers,
    load_model,
    read_class_name,
    read_json,
)

PARTS = ("transformer", "unet")
Kind = Literal["auto", "eps", "x0", "v", "flow"]
KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
SPLIT_CLASSES = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}


@node("diffusers.denoiser", host=True)
def load_denoiser(
    schedule: Schedule,
    *,
    path: Path,
    part: str = "auto",
    kind: Kind = "auto",
    guidance: float = 3.5,
    variant: str | None = None,
) -> OpaqueDenoiser:
    """A denoiser of diffusers, frozen, on the run's device and in its dtype; x is in variance-preserving form.

    schedule: the one the model was trained on, from `diffusers.schedule`. path: a pipeline's folder, or the model's own
    (config.json and safetensors). part: the pipeline's folder to take, by default `transformer` or else `unet`. kind:
    of the prediction; `auto` reads it from the pipeline's scheduler configuration or, without one, takes the default of
    the class: eps for DiT and PixArt, flow for SD3 and Flux. flow is u = ε − x0 at x = (1 − s) x0 + s ε (Liu et
    al. 2023), and gives predictions of x0. guidance: the scale for a guidance-distilled Flux; others
    ignore it. variant: `fp16` for files named so.

    The fields of the condition depend on the class: see docs/do/diffusers.md. Raises an error for a class that is
    not supported, weights that are not safetensors or do not fit, and a U-Net whose prediction is not known.
    """
    diffusers = import_diffusers()
    folder = find_part_folder(path, part, PARTS)
    from guidegraph_diffusers.denoiser_calls import FAMILIES, conditional_unet
    from guidegraph_diffusers.networks import DiffusersDenoiser

    name = read_model_class(folder, FAMILIES)
    family = FAMILIES[name]
    prediction_kind = _read_kind(path, name, family.kind) if kind == "auto" else kind
    network = load_model(getattr(diffusers, name), folder, variant)
    family.check(network.config)
    if name == "UNet2DConditionModel":
        family = replace(family, call=partial(conditional_unet, pixels=_count_pixels(folder.parent)))
    denoiser: OpaqueDenoiser = DiffusersDenoiser(network, family, prediction_kind, schedule, guidance).eval()
    return denoiser


@node("diffusers.labels", host=True)
def class_labels(*, path: Path, part: str = "auto") -> LabelEmbedder:
    """Class labels for a class-conditional model of diffusers (DiT, a U-Net with class embeddings); see `label.embed`.

    The vector of the condition is (B, K), one-hot; zeros are the null class, which is DiT's class K. path, part: as for
    `diffusers.denoiser`.

    Raises an error for a model without classes.
    """
    folder = find_part_folder(path, part, PARTS)
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    dit = name == "DiTTransformer2DModel" or SPLIT_CLASSES.get(str(config.get("norm_type"))) == "DiTTransformer2DModel"
    classes = config.get("num_embeds_ada_norm" if dit else "num_class_embeds")
    if not isinstance(classes, int):
        raise ValueError(f"the model in '{folder}', a {name}, takes no class labels")
    return OneHotLabels(classes)


@dataclass(frozen=True)
class OneHotLabels:
    """A `LabelEmbedder`: labels (B) to a vector (B, classes), zeros for the label `classes`, which means none."""

    classes: int

    def __call__(self, labels: Label) -> Condition:
        from torch.nn.functional import one_hot

        return Condition(vector=one_hot(labels, self.classes + 1)[:, : self.classes].float())


def read_model_class(folder: Path, class_names: Any) -> str:
    """The class of the model in a folder; early DiT and PixArt folders name the class they were split from."""
    file = folder / "config.json"
    config = read_json(file)
    if config.get("_class_name") == "Transformer2DModel" and config.get("norm_type") in SPLIT_CLASSES:
        return SPLIT_CLASSES[config["norm_type"]]
    return read_class_name(config, file, class_names)


def _count_pixels(pipeline: Path) -> int:
    """Pixels along each side of a latent's cell, of the autoencoder in a pipeline's folder; 8 without one."""
    file = pipeline / "vae" / "config.json"
    widths = read_json(file).get("block_out_channels") if file.is_file() else None
    return int(2 ** (len(widths) - 1)) if isinstance(widths, list) else 8


def _read_kind(path: Path, name: str, usual: str | None) -> str:
    file = path / "scheduler" / SCHEDULER_CONFIG
    prediction_type = read_json(file).get("prediction_type") if file.is_file() else None
    if usual == "flow" or (prediction_type is None and usual is not None):
        assert usual is not None
        return usual
    if prediction_type is None:
        raise ValueError(
            f"nothing in '{path}' says what this {name} predicts: give the pipeline's folder, whose scheduler says it, "
            "or set `kind` to eps, x0, v or flow"
        )
    if prediction_type not in KINDS:
        raise ValueError(f"'{file}' has the prediction_type {prediction_type!r}; known are {', '.join(KINDS)}")
    return KINDS[prediction_type]
