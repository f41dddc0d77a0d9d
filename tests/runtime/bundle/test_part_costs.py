"""The memory and time of a call at any size, from what the export measured at two."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.bundle.folder import estimate_cost, write_costs
from guidegraph_runtime.bundle.manifest_types import COSTS, Cost, Part, Tensor
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.measure_costs import measure_costs
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle

X = Tensor("x", "float32", ("batch", 4, "height", "width"))
CPU = SessionSettings.on("cpu", intra_threads=1)


def make_part(small: float, large: float, seconds: tuple[float, float] = (1.0, 4.0)) -> Part:
    """A part measured with two samples of 8 × 8 and one of 16 × 16; small, large: bytes of one sample."""
    costs = (
        Cost({"batch": 2, "height": 8, "width": 8}, int(2 * small), 2 * seconds[0]),
        Cost({"batch": 1, "height": 16, "width": 16}, int(large), seconds[1]),
    )
    return Part("a.onnx", (X,), (X,), {"": 20}, costs=costs)


@pytest.mark.parametrize(
    ("large", "side", "nbytes"),
    [
        (4000, 32, 16_000),  # as many times as the pixels
        (16_000, 32, 256_000),  # their square
        (8000, 32, 128_000),  # between the two, attention has begun to be the largest
        (4000, 8, 1000),
        (4000, 16, 4000),
    ],
)
def test_memory_grows_with_the_pixels_or_with_their_square(large: int, side: int, nbytes: int) -> None:
    part = make_part(1000, large)
    for batch in (1, 3):
        sizes = {"batch": batch, "height": side, "width": side, "tokens": 77}
        assert estimate_cost(part, sizes).nbytes == pytest.approx(batch * nbytes, abs=2)


def test_times_of_convolutions_and_of_attention_add_up() -> None:
    part = make_part(1000, 4000, (64 + 64**2 / 100, 256 + 256**2 / 100))
    estimate = estimate_cost(part, {"batch": 2, "height": 32, "width": 64})
    assert estimate.seconds == pytest.approx(2 * (2048 + 2048**2 / 100))


def test_a_part_that_was_not_measured_has_no_cost() -> None:
    assert estimate_cost(replace(make_part(1, 4), costs=()), {"batch": 1, "height": 9, "width": 9}) == (0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loop_bundle(tmp_path_factory.mktemp("costs") / "a", joins=JOINS, picture=True)


def test_what_an_export_measures_is_read_back_and_tells_the_demand_of_a_run(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle(folder, CPU)
    calls: dict[str, Any] = {}
    bundle.run_with({"steps": 1}, observer=lambda part, inputs, outputs: calls.setdefault(part, inputs))
    measured = measure_costs(bundle, calls)
    if not measured:
        pytest.skip("this system does not show the peak of a process's memory")
    assert measured.keys() == {"step", "decode"}, "the encoder has no sides"
    for costs in measured.values():
        assert costs[0].sizes["height"] < costs[1].sizes["height"]
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / COSTS).write_bytes(write_costs(measured))
    digest, bundle = bundle.digest, Bundle(copy, CPU)
    assert bundle.manifest.parts["step"].costs == measured["step"]
    assert bundle.digest == digest, "no two exports measure the same, and they are the same bundle"
    sides = {"noise.shape": [2, 30, 50]}
    one, two = (bundle.prepare({"batch": batch, "steps": 4}, sides).demand for batch in (1, 2))
    assert 0 < one.call_bytes < two.call_bytes
    assert two.seconds > one.seconds > 0


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ([{"sizes": {"height": 8}, "bytes": 1, "seconds": 1.0}], "the costs at a smaller and at a larger size"),
        ([{"sizes": {"height": 8}, "bytes": 1, "seconds": 1.0}] * 2, "at a smaller and at a larger size"),
        ([{"sizes": {"height": 8}, "bytes": -1, "seconds": 1.0}], "bytes"),
        (3, "costs.json"),
    ],
)
def test_costs_that_are_none_are_refused(folder: Path, tmp_path: Path, costs: Any, words: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / COSTS).write_text(json.dumps({"step": costs}))
    with pytest.raises(BundleError, match=words):
        Bundle(copy, CPU)


def test_resized_inputs_keep_their_values(folder: Path) -> None:
    from guidegraph_runtime.running.measure_costs import _resize

    part = make_part(1, 4)
    x = np.arange(2 * 4 * 2 * 3, dtype=np.float32).reshape(2, 4, 2, 3)
    doubled = _resize(part, {"x": x}, ["height", "width"], 2)["x"]
    assert np.array_equal(doubled, np.tile(x, (1, 1, 2, 2)))
