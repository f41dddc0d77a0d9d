"""The refusals that are meant, and the cells that are wrong today, each with its reason: docs/reference/matrix.md."""

from __future__ import annotations

from tests.whole.matrix.cell import Refusal

BUNDLES = ("export", "headless", "serve", "single-file", "page")

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "validate",
        "text_to_image_(dit|mmdit)",
        "missing-file",
        "Their models do not ship: they are trained first, with `train/text_to_image_dit.yaml` and "
        "`train/text_to_image_mmdit.yaml`. The other columns use small untrained ones.",
    ),
    Refusal(
        "export",
        "fast/deep_features",
        "fixed site: nodes.deep (denoiser.deep_features) takes it while it is traced",
        "The site decides which blocks of the network a graph has. Export once for each site.",
    ),
    Refusal(
        "single-file",
        "fast/deep_features",
        "is made by what a run computes",
        "One graph has no branches, and here a choice depends on the step. A bundle makes it between two graphs.",
    ),
    Refusal(
        "samplers",
        "class_classifier_guidance_ddpm",
        "a score cannot shift their mean",
        "Algorithm 1 shifts the mean of a step that draws noise. Samplers that draw none are refused: "
        "`guidance.shift_eps` (algorithm 2) takes them.",
    ),
    Refusal(
        "accelerate",
        "text_to_image_onnx",
        "which has no digest",
        "The denoiser of `text_to_image_onnx` runs in onnxruntime already. A warning says that the rest of its loop "
        "stays in torch.",
    ),
    *(
        Refusal(
            column,
            "text_to_image_onnx",
            "is an ONNX graph already",
            "The denoiser of `text_to_image_onnx` is a graph already. Export `text_to_image`, which it is from.",
        )
        for column in BUNDLES
    ),
    Refusal(
        "single-file",
        ".*",
        "(image.grid) is computed from what the graph gives",
        "A sheet of pictures is laid out after the graph, so one file cannot hold it. The refusal says so, "
        "and the rest is exported with `--only image`, and is judged.",
    ),
    Refusal(
        "single-file",
        "layout_128",
        "(layout.table) is computed from what the graph gives",
        "The table of a layout is made after the graph, so one file cannot hold it. The refusal names the bundle.",
    ),
    Refusal(
        "page",
        "text_or_image|fast/deep_features",
        "(choose): a page does not compute this operation",
        "A page has no choice that a run makes. The refusal names `--only` and `guidegraph-run`.",
    ),
    Refusal(
        "page",
        "text_to_image_minilm",
        "its tokenizer has a model of type WordPiece",
        "A page splits texts into whole words and added tokens. The refusal names `guidegraph-run`.",
    ),
    Refusal(
        "single-file",
        "text_or_image",
        "one graph has one branch of a choice",
        "One graph holds one branch of a choice. A bundle holds both.",
    ),
)

STILL_WRONG: tuple[Refusal, ...] = ()
"""Cells that are wrong today, by what is said about them. An entry goes when its cells are right."""
