"""A shipped workflow behind the server: unlike requests at once, each picture that of ``guidegraph-run`` alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from guidegraph_runtime.cli import main
from plugins.serve.tests.test_command import TIMEOUT, serve
from tests.graph.export.exporting import WORKFLOWS, Made, made

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

REQUESTS: Sequence[tuple[Mapping[str, Any], str]] = (
    ({"prompt": "a cactus on snow", "scale": 1.5, "seed": 1, "steps": 12}, "ddim"),
    ({"prompt": "a tiger on grass under a night sky", "scale": 8.0, "seed": 2, "steps": 5}, "ddpm"),
    ({"prompt": "a rocket at night", "scale": 4.0, "seed": 3, "steps": 8, "n": 2}, "heun"),
    ({"prompt": "a penguin", "scale": 2.5, "seed": 4, "steps": 6}, "dpmpp_2m"),
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(WORKFLOWS / "text_to_image.yaml", tmp_path_factory.mktemp("serve"), steps=4)


def draw_alone(bundle: str, params: Mapping[str, Any], sampler: str, folder: Path) -> list[np.ndarray[Any, Any]]:
    """The pictures of ``guidegraph-run``."""
    settings = {"batch" if name == "n" else name: value for name, value in params.items()}
    options = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    with pytest.raises(SystemExit) as ended:
        main([bundle, *options, "--node", f"scheduler.use=scheduler.{sampler}", "--out", str(folder), "--quiet"])
    assert ended.value.code == 0
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))]


def test_each_picture_is_that_of_the_command_alone(drawn: Made, tmp_path: Path) -> None:
    with serve(f"scenes={drawn.bundle.where}") as server:

        def draw(request: tuple[Mapping[str, Any], str]) -> list[dict[str, str]]:
            params, sampler = request
            body = {"model": "scenes", **params, "nodes": {"scheduler.use": f"scheduler.{sampler}"}}
            answer = httpx.post(f"{server.address}/v1/images/generations", json=body, timeout=TIMEOUT)
            assert answer.status_code == 200, answer.text
            data: list[dict[str, str]] = answer.json()["data"]
            return data

        with ThreadPoolExecutor(len(REQUESTS)) as pool:
            answers = [*pool.map(draw, REQUESTS)]
    for i, ((params, sampler), data) in enumerate(zip(REQUESTS, answers, strict=True)):
        alone = draw_alone(drawn.bundle.where, params, sampler, tmp_path / str(i))
        assert len(data) == len(alone) == params.get("n", 1)
        for entry, picture in zip(data, alone, strict=True):
            served = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))).astype(int)
            assert np.abs(served - picture).max() <= 2
            assert picture.std() > 10
