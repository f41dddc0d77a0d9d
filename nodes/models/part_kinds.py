"""The kinds of part of a model folder. The classes of a kind are imported when one is first loaded or saved."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class PartKind(NamedTuple):
    """The classes of a part's module, of its config and, for a denoiser, of the network inside.

    Each is a module of this package and a name in it.
    """

    model: str
    config: str
    network: str = ""


TEXT = "text_transformer"
"""The kind of part that has a tokenizer as well as a network."""
KINDS: dict[str, PartKind] = {
    "unet": PartKind("own.denoiser.UNetDenoiser", "own.unet.UNetConfig", "own.unet.UNet"),
    "dit": PartKind("transformers.denoiser.DiTDenoiser", "transformers.dit.DiTConfig", "transformers.dit.DiT"),
    "mmdit": PartKind(
        "transformers.denoiser.MMDiTDenoiser", "transformers.mmdit.MMDiTConfig", "transformers.mmdit.MMDiT"
    ),
    "flux": PartKind("transformers.denoiser.FluxDenoiser", "transformers.flux.FluxConfig", "transformers.flux.Flux"),
    "z_image": PartKind(
        "transformers.denoiser.ZImageDenoiser", "transformers.z_image.ZImageConfig", "transformers.z_image.ZImage"
    ),
    "pixart": PartKind(
        "transformers.denoiser.PixArtDenoiser", "transformers.pixart.PixArtConfig", "transformers.pixart.PixArt"
    ),
    "kl_autoencoder": PartKind("own.autoencoder.KLAutoencoder", "own.autoencoder.AutoencoderConfig"),
    "vq_autoencoder": PartKind("own.autoencoder.VQAutoencoder", "own.autoencoder.VQConfig"),
    "pixel_space": PartKind("own.pixel_space.PixelSpace", "own.pixel_space.PixelSpaceConfig"),
    TEXT: PartKind("own.text_encoder.TextModel", "own.text_encoder.TextConfig"),
    "detector": PartKind("own.detector.Detector", "own.detector.DetectorConfig"),
    "box_detector": PartKind("own.box_detector.BoxDetector", "own.box_detector.BoxDetectorConfig"),
    "noisy_classifier": PartKind("own.classifier.NoisyClassifier", "own.classifier.ClassifierConfig"),
    "label_embedding": PartKind("own.label_embedder.LabelModel", "own.label_embedder.LabelConfig"),
    "segmenter": PartKind("own.segmenter.SegmentationNet", "own.segmenter.SegmenterConfig"),
    "image_embedding": PartKind("own.image_embedder.ImageModel", "own.image_embedder.VisionConfig"),
    "condition_adapter": PartKind("own.condition_adapter.AdapterModel", "own.condition_adapter.AdapterConfig"),
}
"""The kinds of part that model.json names."""


def load_class(name: str) -> Any:
    """The class with one of the names of a ``PartKind``."""
    module, _, cls = name.rpartition(".")
    return getattr(import_module(f"{__package__}.{module}"), cls)
