"""An export whose batch is fixed by values in the workflow, such as a prompt for each of two pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from guidegraph import load_workflow
from guidegraph_runtime import Bundle
from tests.commands.command import process
from tests.paths import ROOT

PROMPT = "in: {embedder: model.text, prompt: params.prompt}"
TWO = 'in: {embedder: model.text}, with: {prompt: ["a tiger on grass", "a castle in snow"]}'


@pytest.mark.slow
def test_two_written_prompts_draw_their_two_pictures(tmp_path: Path) -> None:
    text = (ROOT / "workflows" / "text_to_image.yaml").read_text(encoding="utf-8")
    assert PROMPT in text
    file = tmp_path / "two.yaml"
    file.write_text(text.replace(PROMPT, TWO), encoding="utf-8")
    export = process(["export", str(file), "-o", str(tmp_path / "bundle"), "--set", "batch=2"], tmp_path)
    assert export.returncode == 0, export.stderr
    drawing, bundle = load_workflow(file, cache="off"), Bundle(tmp_path / "bundle")
    for params in ({"steps": 3}, {"steps": 5, "seed": 3, "scale": 2.0}):
        expected = drawing.run(batch=2, **params)["image"].numpy()
        assert np.abs(bundle.run(**params)["image"] - expected).max() <= 2 / 255
