"""Previews of jobs: small PNGs with a pixel for each position of the latent, and pictures of the unfinished sample."""

from __future__ import annotations

import numpy as np

from guidegraph_runtime.bundle.manifest_types import Manifest
from guidegraph_runtime.bundle.preview import draw_preview
from guidegraph_runtime.errors import BundleError
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


def encode_partial(manifest: Manifest, job: Job) -> bytes:
    """The first picture of a job, made of its unfinished sample as that of the finished one would be; empty without.

    The graphs of a bundle give the next sample and no estimate of the final one, so early pictures are noisy.
    """
    run = job.run  # another thread may end the job meanwhile
    output = next((name for name, output in manifest.outputs.items() if output.type == "image"), None)
    if run is None or output is None:
        return b""
    try:
        picture = run.draw_now(output)
        return b"" if picture is None else encode_png(pixels(picture[0]))
    except (BundleError, ValueError):  # it only shows the progress: the run may still end well
        return b""
