"""Configs of a few bytes that ask for a billion layers: refused at once by every loader, not built first."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.checkpoints.filling import build_filled
from guidegraph.nodes.models.networks.shells import BoundedBuild, TooManyLayers
from guidegraph.nodes.models.store import load_part
from guidegraph_families.diffusers.text import build_qwen3
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.unet import ReleasedUNet
from guidegraph_families.parts.clip_text import build_clip, check_clip
from guidegraph_families.parts.t5_text import build_t5, check_t5
from tests.paths import ROOT

BILLION = 10**9
CLIP: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 8, "vocab_size": 9, "max_position_embeddings": 9, "num_attention_heads": 2,
    "num_hidden_layers": BILLION,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "vocab_size": 9, "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 4, "num_layers": BILLION,
}  # fmt: skip


@pytest.mark.parametrize(("part", "setting"), [("text", "layers"), ("denoiser", "blocks"), ("autoencoder", "blocks")])
def test_a_model_folder(part: str, setting: str, tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "workflows" / "models" / "scenes", tmp_path / "model")
    index = json.loads((folder / "model.json").read_text())
    index["parts"][part]["config"][setting] = BILLION
    del index["checksums"]
    (folder / "model.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"part '{part}' of .* cannot be loaded: the config asks for more layers"):
        load_part(folder, part, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("function", [build_clip, check_clip])
def test_a_clip_text_encoder(function: Any) -> None:
    with pytest.raises(ValueError, match=r"'clip' .*config asks for"):
        function({"embeddings.token_embedding.weight": torch.zeros(9, 8)}, CLIP, "clip")


@pytest.mark.parametrize("function", [build_t5, check_t5])
def test_a_t5_encoder(function: Any) -> None:
    with pytest.raises(ValueError, match=r"'t5' .*config asks for"):
        function({"shared.weight": torch.zeros(9, 8)}, T5, "t5")


def test_a_qwen3() -> None:
    settings = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 9, "num_hidden_layers": BILLION}
    with pytest.raises(ValueError, match="'qwen' does not fit: its config asks for 1000000000 layers"):
        build_qwen3({"embed_tokens.weight": torch.zeros(9, 8)}, settings, "qwen")


def test_gradients_are_as_before_after_a_refusal() -> None:
    for tensors in range(40):  # wherever among the layers the limit is reached
        with pytest.raises(TooManyLayers), BoundedBuild(tensors - 24):
            torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(1000))
        assert torch.is_grad_enabled()


def test_a_released_unet() -> None:
    shape = replace(SHAPE, middle_depth=BILLION)
    with pytest.raises(ValueError, match="'unet' does not fit: the config asks for more layers than fit the 1 tensors"):
        build_filled(lambda: ReleasedUNet(shape), {"x": torch.zeros(1)}, "unet")


SHAPE = UNetShape(
    in_channels=4, out_channels=4, channels=32, widths=(32, 64), blocks=1, depths=(1, 1), middle_depth=1, heads=(2, 2),
    context_dim=8,
)  # fmt: skip
