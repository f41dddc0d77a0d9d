"""The evaluation workflows, at reduced size, still find what the documentation says of the shipped models."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from guidegraph import load_workflow
from guidegraph.nodes.table import Table
from tests.paths import ROOT

EVALUATE = ROOT / "workflows" / "evaluate"
pytestmark = pytest.mark.slow


def table(name: str, **params: Any) -> Table:
    measured = load_workflow(EVALUATE / f"{name}.yaml", cache="off").run(**params)["table"]
    assert isinstance(measured, Table)
    return measured


def row(measured: Table, column: str, value: object, **more: object) -> dict[str, Any]:
    """The only row with these values."""
    expected = {column: value, **more}
    (match,) = [record for record in measured.records() if all(record[k] == v for k, v in expected.items())]
    return match


def test_guidance_brings_the_class_and_shuffled_classes_are_chance() -> None:
    measured = table(
        "class_guidance",
        count=60,
        references=200,
        classifier_scales=[0.0, 10.0],
        free_scales=[2.0],
        steps=15,
        ancestral_steps=50,
    )
    for method in ("classifier, algorithm 1 (DDPM)", "classifier, algorithm 2 (DDIM)"):
        assert row(measured, "method", method, scale=0.0)["accuracy"] < 0.3
        assert row(measured, "method", method, scale=10.0)["accuracy"] > 0.8
    assert row(measured, "method", "classifier-free (DDIM)", scale=2.0)["accuracy"] > 0.85
    assert all(record["shuffled"] < 0.3 for record in measured.records())  # type: ignore[operator]


def test_the_noisy_classifier_knows_clothes_under_noise_and_the_judge_does_not() -> None:
    measured = table("noisy_classifier", count=200, steps=5)
    accuracy = {(r["classifier"], r["t"]): r["accuracy"] for r in measured.records()}
    noisy, clean = (
        {t: a for (name, t), a in accuracy.items() if name == f"trained on {kind} pictures"}
        for kind in ("noisy", "clean")
    )
    assert noisy[0.0] > 0.8
    assert clean[0.0] > 0.8
    middle, last = min(noisy, key=lambda t: abs(t - 500)), max(noisy)
    assert noisy[middle] > clean[middle] + 0.2
    assert noisy[last] < 0.25


def test_a_segmenter_finds_the_map_in_the_picture() -> None:
    measured = table("semantic_to_image", count=24, steps=10)
    drawn = row(measured, "pictures", "drawn from the map")
    assert drawn["mIoU"] >= 0.6
    assert drawn["shuffled"] < 0.2
    assert row(measured, "pictures", "the scenes themselves")["mIoU"] > 0.9


def test_inpainting_changes_nothing_outside_and_fits_inside() -> None:
    measured = row(table("inpaint", count=24, steps=10), "pictures", "inpaint.yaml")
    assert measured["largest change outside (of 255)"] <= 1
    assert measured["mIoU in the hole"] > 2 * measured["mIoU shuffled"]


def test_the_detector_finds_the_objects_of_the_prompt() -> None:
    measured = row(table("text_to_image", count=24, steps=15), "pictures", "drawn from the caption")
    assert measured["all named found"] > 0.6
    assert measured["shuffled"] < 0.2


def test_progressive_coding_has_the_papers_shape() -> None:
    """Ho et al. 2020, figure 5: distortion falls steeply at first, and most bits describe what is hardly seen."""
    measured = load_workflow(EVALUATE.parent / "experiments" / "rate_distortion.yaml", cache="off").run(
        batches=1, batch=16, steps=40
    )["table"]
    rate, rmse = measured.numbers("rate"), measured.numbers("rmse")
    assert all(a < b for a, b in pairwise(rate))
    begun = next(i for i, value in enumerate(rate) if value > 1e-3)  # before, every estimate is the mean picture
    assert all(a > b for a, b in pairwise(rmse[begun::2]))
    half = next(i for i, value in enumerate(rmse) if value < rmse[0] / 2)
    assert rate[half] < 0.02 * rate[-1]
    assert next(b for b, value in zip(rate, rmse, strict=True) if value < 5) < 0.3 * rate[-1]
    assert 2 < rate[-1] < 8
