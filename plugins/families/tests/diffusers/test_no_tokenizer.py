"""A single file without a tokenizer: its text encoder is not built, but its weights are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.models.model_json import MissingPart
from guidegraph_families.compvis.text import load_conditioner, load_sdxl_text
from plugins.families.tests.compvis import test_ldm_text
from plugins.families.tests.diffusers import pipelines

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

PREFIX = dict.fromkeys(("sd1", "sd2", "inpaint"), "cond_stage_model.") | {"sdxl": "conditioner.embedders."}
FAMILIES = list(PREFIX)
VECTOR = 32 + 6 * 8
"""The width of the tiny SDXL's vector: the pooled text and six numbers."""

ODD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"encoder.layers.1.mlp.fc2.bias": None}, r"1 missing: encoder\.layers\.1\.mlp\.fc2\.bias"),
    "a whole layer": (
        {f"encoder.layers.1.layer_norm{n}.{kind}": None for n in (1, 2) for kind in ("weight", "bias")},
        r"4 missing: encoder\.layers\.1\.layer_norm1",
    ),
    "left over": ({"encoder.layers.0.surplus": torch.zeros(1)}, r"1 left over: encoder\.layers\.0\.surplus"),
    "misshapen": ({"final_layer_norm.weight": torch.zeros(5)}, r"final_layer_norm\.weight \(5,\) for \(64,\)"),
    "of another type": ({"final_layer_norm.weight": torch.zeros(64).long()}, r"1 of another type: final_layer_norm"),
    "no matrix": ({"embeddings.token_embedding.weight": torch.zeros(9)}, "embeddings are matrices"),
}


def write(family: str, root: Path) -> tuple[Path, dict[str, Tensor]]:
    path = pipelines.single_file(pipelines.pipeline(family, root), family, root / "model.ckpt")
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return path, tensors


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    return write("sd1", tmp_path_factory.mktemp("stable"))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_load_and_no_value_of_their_text_is_touched(tmp_path: Path, family: str) -> None:
    path, tensors = write(family, tmp_path)
    loaded = load_checkpoint(path=path, prediction="eps")
    with pytest.raises(MissingPart, match="set `tokenizer`"):
        loaded.text(["a"])
    nowhere = {
        name.removeprefix(PREFIX[family]): value.to("meta")
        for name, value in tensors.items()
        if name.startswith(PREFIX[family])
    }
    assert len(nowhere) > 30
    parts: Any = (
        load_sdxl_text(nowhere, VECTOR, path, None) if family == "sdxl" else load_conditioner(nowhere, path, None)
    )
    assert "set `tokenizer`" in repr(parts)


@pytest.mark.parametrize("odd", ODD)
def test_weights_that_do_not_fit_are_named(stable: tuple[Path, dict[str, Tensor]], tmp_path: Path, odd: str) -> None:
    changed, message = ODD[odd]
    prefix = "cond_stage_model.transformer.text_model."
    mixed = stable[1] | {f"{prefix}{name}": value for name, value in changed.items()}
    torch.save({name: value for name, value in mixed.items() if value is not None}, tmp_path / "odd.ckpt")
    for tokenizer in (None, stable[0].parent / "eos"):
        with pytest.raises(ValueError, match=rf"odd\.ckpt'.*{message}"):
            load_checkpoint(path=tmp_path / "odd.ckpt", tokenizer=tokenizer, config=stable[0].parent / "config.yaml")


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("sd1", "cond_stage_model.projector.weight", r"1 tensors beside those of its text encoder: projector\.weight"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.0.odd", r"1 left over: transformer\.resblocks\.0\.odd"),
        ("sdxl", "conditioner.embedders.0.transformer.odd", r"1 left over: odd"),
        ("sdxl", "conditioner.embedders.1.odd", r"1 tensors beside those of its text encoder: odd"),
    ],
)
def test_tensors_beside_the_text_encoder_are_named(tmp_path: Path, family: str, name: str, message: str) -> None:
    path, tensors = write(family, tmp_path)
    torch.save(tensors | {name: torch.zeros(1)}, path)
    for tokenizer in (None, tmp_path / "eos"):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path=path, prediction="eps", tokenizer=tokenizer)


def test_latent_diffusions_text_encoder_is_checked_too() -> None:
    complete = {
        f"transformer.{name}": value.to("meta")
        for name, value in test_ldm_text.release_names(test_ldm_text.bert()).items()
    }
    assert "BERT" in repr(load_conditioner(complete, Path("model.ckpt"), None)["text"])
    less = {name: value for name, value in complete.items() if name != "transformer.attn_layers.layers.3.1.net.2.bias"}
    with pytest.raises(ValueError, match=r"1 missing: attn_layers\.layers\.3\.1\.net\.2\.bias"):
        load_conditioner(less, Path("model.ckpt"), None)
    flat = complete | {"transformer.token_emb.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match="embeddings are matrices"):
        load_conditioner(flat, Path("model.ckpt"), None)


def test_a_folder_without_words_is_no_tokenizer(stable: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, _ = stable
    with pytest.raises(ValueError, match=r"holds no whole tokenizer: it needs vocab\.json and merges\.txt, or"):
        load_checkpoint(path=path, tokenizer=tmp_path)
    (tmp_path / "vocab.json").write_text((path.parent / "eos" / "vocab.json").read_text())
    with pytest.raises(ValueError, match="holds no whole tokenizer"):
        load_checkpoint(path=path, tokenizer=tmp_path)
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="knows no words"):
        load_checkpoint(path=path, tokenizer=tmp_path)


def test_a_tokenizer_of_another_encoder(stable: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    words = json.loads((stable[0].parent / "eos" / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(words | {"tiger</w>": len(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=rf"go up to {len(words)}, and this one knows {len(words)}"):
        load_checkpoint(path=stable[0], tokenizer=tmp_path)
