"""A small untrained text-to-image model of 128 pixels, for the workflows whose model does not ship."""

from __future__ import annotations

from pathlib import Path

from tests.whole.commands import write_model

MODEL = """
guidegraph: 1
params: {path: {type: Path}}
nodes:
  data:        {use: data.scenes_128}
  schedule:    {use: schedule.flow}
  denoiser:
    use: model.unet
    with:
      {in_channels: 8, channels: 8, multipliers: [1, 1], attention: [1], heads: 1, context_dim: 192, vector_dim: 192,
      spatial_channels: 81, kind: flow}
  text:        {use: model.text_transformer, in: {words: data.words}, with: {width: 192, layers: 1, heads: 1}}
  autoencoder: {use: model.autoencoder, with: {channels: 8, multipliers: [1, 1, 1], latent_channels: 8}}
  saved:
    use: model.save
    in: {denoiser: denoiser, text: text, schedule: schedule, autoencoder: autoencoder, path: params.path}
outputs: {model: saved}
"""
TRAININGS = (
    "image_to_image_128",
    "inpaint_128",
    "semantic_to_image_128",
    "super_resolution_128",
    "text_to_image_minilm_128",
)
"""The training workflows that start from such a model."""


def write_small_model(folder: Path) -> Path:
    """Write the model to a folder, and return its path."""
    return write_model(MODEL, folder)
