"""Previews: the fit, the value that a picture is made of, and the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.bundle.manifest import read_manifest, write_manifest
from guidegraph_runtime.bundle.manifest_types import Preview
from guidegraph_runtime.bundle.preview import draw_preview, find_carry, fit_preview
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.running.loop_bundle import write_loop_bundle

MATRIX = ((0.2, -0.1, 0.3), (0.0, 0.4, -0.2), (0.1, 0.1, 0.0))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(write_loop_bundle(tmp_path / "b", picture=True), SessionSettings.on("cpu", intra_threads=1))


def test_a_linear_decoder_is_recovered(bundle: Bundle) -> None:
    sample = np.random.default_rng(0).standard_normal((2, 2, 3, 5)).astype(np.float32)
    expected = Preview("x", MATRIX)
    small = np.einsum("rc,bchw->brhw", np.array(MATRIX)[:, :2], sample) + np.array(MATRIX)[:, 2].reshape(1, 3, 1, 1)
    texture = np.tile([[0.1, -0.1], [-0.1, 0.1]], (3, 5))  # without a mean in each block of pixels
    picture = small.repeat(2, 2).repeat(2, 3) + texture
    preview = fit_preview(bundle.manifest.plan, "image", sample, picture)
    assert preview is not None
    assert preview.carry == "x"
    np.testing.assert_allclose(preview.matrix, MATRIX, atol=1e-6)
    drawn = draw_preview(expected, {"x": sample})
    assert drawn is not None
    np.testing.assert_allclose(drawn, small.clip(-1, 1), atol=1e-6)


def test_the_carried_value_that_a_picture_is_made_of(bundle: Bundle) -> None:
    plan = bundle.manifest.plan
    assert find_carry(plan, "image") == "x"
    assert find_carry(plan, "last") == "x", "a loop that draws pixels"
    assert find_carry(plan, "condition") is None
    assert find_carry(plan, "noise") is None


@pytest.mark.parametrize(
    ("sample", "picture"),
    [
        ((1, 2, 3, 5), (1, 3, 7, 10)),
        ((1, 2, 3, 5), (1, 4, 6, 10)),
        ((2, 2, 3, 5), (1, 3, 6, 10)),
        ((1, 2), (1, 3, 6, 10)),
    ],
)
def test_other_shapes_have_no_preview(bundle: Bundle, sample: tuple[int, ...], picture: tuple[int, ...]) -> None:
    assert fit_preview(bundle.manifest.plan, "image", np.zeros(sample), np.zeros(picture)) is None


def test_values_that_do_not_fit_are_not_drawn() -> None:
    preview = Preview("x", MATRIX)
    assert draw_preview(preview, {}) is None
    assert draw_preview(preview, {"x": np.zeros((1, 4, 2, 2))}) is None
    assert draw_preview(preview, {"x": np.zeros(3)}) is None


@pytest.mark.parametrize("carry", ["noise", "last", 3, ["x"], {}])
def test_a_preview_is_of_a_value_that_a_loop_carries(tmp_path: Path, carry: object) -> None:
    message = r"expected a value that a loop of the plan carries: index, slots, x, found .*\[preview.carry\]"
    with pytest.raises(BundleError, match=message):
        Bundle(write_loop_bundle(tmp_path / "b", preview={"carry": carry, "matrix": [list(row) for row in MATRIX]}))


def test_a_manifest_keeps_its_preview(tmp_path: Path) -> None:
    preview = {"carry": "x", "matrix": [list(row) for row in MATRIX]}
    folder = write_loop_bundle(tmp_path / "b", preview=preview)
    manifest = Bundle(folder).manifest
    assert manifest.preview == Preview("x", MATRIX)
    assert read_manifest(write_manifest(manifest)) == manifest


@pytest.mark.parametrize("matrix", [[], [[1, 2]] * 2, [[1, 2], [1, 2], [1]], [[1]] * 3, [["a", 1]] * 3, [[1, 2]] * 4])
def test_a_wrong_matrix_is_refused(tmp_path: Path, matrix: list[list[Any]]) -> None:
    folder = write_loop_bundle(tmp_path / "b")
    value = json.loads((folder / "bundle.json").read_text())
    del value["digest"]
    (folder / "bundle.json").write_bytes(seal_manifest({**value, "preview": {"carry": "x", "matrix": matrix}}))
    with pytest.raises(BundleError, match="preview"):
        Bundle(folder)
