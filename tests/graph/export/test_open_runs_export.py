"""Unlike requests of an exported workflow, in shared calls: each picture is that of the engine and of a run alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph import load_workflow
from guidegraph_runtime.open_runs.joined_calls import describe_joins
from tests.graph.export.exporting import LEVEL, WORKFLOWS, Made, made

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(WORKFLOWS / "text_to_image.yaml", tmp_path_factory.mktemp("open"), steps=4)


REQUESTS: Sequence[tuple[Mapping[str, Any], str]] = (
    ({"prompt": "a cactus on snow", "scale": 1.5, "seed": 1, "steps": 5}, "ddim"),
    ({"prompt": "a tiger on grass", "scale": 8.0, "seed": 2, "steps": 3}, "ddpm"),
    ({"prompt": "a rocket at night", "scale": 4.0, "seed": 3, "steps": 4, "batch": 2}, "heun"),
    ({"prompt": "a penguin", "scale": 2.5, "seed": 4, "steps": 6}, "dpmpp_2m"),
    ({"prompt": "a pumpkin", "scale": 5.0, "seed": 5, "steps": 2}, "unipc"),
)


def test_five_unlike_requests_are_those_of_the_bundle_alone_and_of_the_engine(drawn: Made, tmp_path: Path) -> None:
    bundle = drawn.bundle
    nodes = [{"scheduler.use": f"scheduler.{sampler}"} for _, sampler in REQUESTS]
    runs = [bundle.start_with(params, nodes=change) for (params, _), change in zip(REQUESTS, nodes, strict=True)]
    while not all(run.done for run in runs):
        bundle.step(runs)
        assert [run.unshared for run in runs] == [""] * len(runs)
    assert bundle.timings.calls["sample.step"] == max(run.total for run in runs)
    for (params, sampler), change, run in zip(REQUESTS, nodes, runs, strict=True):
        image = run.finish()["image"]
        alone = bundle.run_with(params, nodes=change)["image"]
        assert np.abs(image - alone).max() <= 2 * LEVEL
        engine = drawn.engine(tmp_path, [("scheduler.ddim", f"scheduler.{sampler}")], **params)["image"]
        assert np.abs(image - engine).max() <= 2 * LEVEL


def test_the_description_says_that_they_share(drawn: Made) -> None:
    ((name, text),) = describe_joins(drawn.bundle.manifest)
    assert (name, text) == ("sample.step", "unlike runs share its calls, if they agree in height, width")


def test_run_many_of_a_shipped_workflow_gives_each_picture() -> None:
    workflow = load_workflow(WORKFLOWS / "text_to_image.yaml", cache="off")
    requests = [params for params, _ in REQUESTS]
    many = load_workflow(WORKFLOWS / "text_to_image.yaml").run_many_with(requests)
    assert many.unshared == {}
    assert many.calls < many.calls_alone / 2
    for params, result in zip(requests, many.results, strict=True):
        assert float((result.outputs["image"] - workflow.run(**params)["image"]).abs().max()) <= 1e-4
