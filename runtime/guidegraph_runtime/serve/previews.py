"""Previews of jobs as small PNGs, one pixel for each position of the latent."""

from __future__ import annotations

import numpy as np

from guidegraph_runtime.bundle.manifest_types import Manifest
from guidegraph_runtime.bundle.preview import draw_preview
from guidegraph_runtime.outputs import pixels
from guidegraph_runtime.pictures.png import encode_png
from guidegraph_runtime.serve.jobs import Job


def encode_preview(manifest: Manifest, job: Job) -> bytes:
    """The preview of the first picture of a job; empty if the bundle has none, or the run is at another loop."""
    run = job.run  # another thread may end the job meanwhile
    if manifest.preview is None or run is None:
        return b""
    pictures = draw_preview(manifest.preview, run.read_carries())
    return b"" if pictures is None or not np.isfinite(pictures[0]).all() else encode_png(pixels(pictures[0]))
