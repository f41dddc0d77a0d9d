"""A model folder on a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guidegraph.nodes.models.own.box_detector import Detector, DetectorConfig
from guidegraph.nodes.models.store import load_part, save_parts
from guidegraph_runtime.machine.shortages import WriteError
from tests.os_limits import file_limit


def test_a_model_without_room_is_named_and_the_earlier_one_stays(tmp_path: Path) -> None:
    detector = Detector(DetectorConfig(channels=8)).eval()
    save_parts(tmp_path, {"detector": detector}, dtype=torch.float32)
    with file_limit(1000), pytest.raises(WriteError, match=r"detector\.safetensors' cannot be written"):
        save_parts(tmp_path, {"detector": Detector(DetectorConfig(channels=8))}, dtype=torch.float32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.safetensors", "model.json"]
    again = load_part(tmp_path, "detector", device=torch.device("cpu"), dtype=torch.float32)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(detector(image), again(image))
