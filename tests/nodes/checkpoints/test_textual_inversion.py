"""Textual inversions: a learned word has the same embeddings as in diffusers; unsuitable files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.conditioning import text_prompt as prompts
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph_runtime.text.chunks import parse_prompt
from tests.nodes.checkpoints.diffusers import pipelines

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

WORD = "<cat>"
TEXTS = ["a <cat> b", "a b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("stable")
    pipelines.pipeline("sd1", root).save_pretrained(root / "folder")
    return root


def text(folder: Path) -> Any:
    return load_checkpoint(path=folder / "folder").text


def write(path: Path, vectors: torch.Tensor, layout: str) -> Path:
    """An embedding as diffusers writes it, in either kind of file, or as the original training did."""
    if layout == "safetensors":
        save_file({WORD: vectors}, path)
    elif layout == "bin":
        torch.save({WORD: vectors}, path)
    else:
        original = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": vectors}, "name": "cat"}
        torch.save(original | {"step": 5}, path)
    return path


@pytest.mark.parametrize(("layout", "count"), [("safetensors", 1), ("bin", 1), ("bin", 3), ("original", 2)])
def test_a_learned_word_is_embedded_as_by_diffusers(folder: Path, tmp_path: Path, layout: str, count: int) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(count, 64)
    path = write(tmp_path / "cat.bin", vectors[0] if (layout, count) == ("bin", 1) else vectors, layout)
    plain = text(folder)
    before = encode_text(plain, TEXTS).tokens
    taught: Any = prompts.add_word_embedding(plain, path=path, token=WORD)
    actual = encode_text(taught, TEXTS).tokens

    pipe = pipelines.pipeline("sd1", tmp_path)
    pipe.load_textual_inversion({WORD: vectors}, token=WORD)
    expected, _ = pipe.encode_prompt(TEXTS, "cpu", 1, False)
    assert before is not None
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert (actual[0] - before[0]).abs().max() > 1e-2
    assert torch.equal(actual[1], before[1])
    assert torch.equal(encode_text(plain, TEXTS).tokens, before)
    shared = {id(parameter) for parameter in plain.parameters()} & {id(parameter) for parameter in taught.parameters()}
    assert len(shared) == len(list(plain.parameters())) - 1


def test_two_learned_words_in_one_prompt_can_be_weighted(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 64), torch.randn(1, 64)
    taught = prompts.add_word_embedding(text(folder), path=write(tmp_path / "1", first, "bin"), token="cat")
    taught = prompts.add_word_embedding(taught, path=write(tmp_path / "2", second, "bin"), token="cat2")
    released: Any = taught
    rows = [token for token, _ in released.towers[0].chunker.tokens([("a cat cat2 cats", 1.0)])]
    table = released.towers[0].clip.embeddings.token_embedding.weight
    torch.testing.assert_close(table[rows[1:4]], torch.cat([first, second]))
    assert max(rows[4:]) < table.shape[0] - 3  # 'cats' is another word
    weights = [weight for _, weight in released.towers[0].chunker.tokens(parse_prompt("(cat:1.5) a"))]
    assert weights == [1.5, 1.5, 1.0]


def test_an_embedding_of_sdxl_is_added_to_both_encoders(tmp_path: Path) -> None:
    pipelines.pipeline("sdxl", tmp_path).save_pretrained(tmp_path / "folder")
    torch.manual_seed(0)
    content = {"clip_g": torch.randn(2, 64), "clip_l": torch.randn(2, 64)}
    save_file(content, tmp_path / "cat.safetensors")
    taught: Any = prompts.add_word_embedding(text(tmp_path), path=tmp_path / "cat.safetensors", token=WORD)
    for tower, name in zip(taught.towers, ("clip_l", "clip_g"), strict=True):
        assert torch.equal(tower.clip.embeddings.token_embedding.weight[-2:], content[name])
    actual = encode_text(taught, ["a <cat>", "a <cat>"])
    assert actual.tokens is not None
    assert actual.tokens.isfinite().all()
    save_file({WORD: content["clip_l"]}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"is for text encoders of width 64, and this model's have 64 and 64"):
        prompts.add_word_embedding(text(tmp_path), path=tmp_path / "one.safetensors", token=WORD)


def test_unsuitable_embeddings_are_refused(folder: Path, tmp_path: Path) -> None:
    embedder = text(folder)
    good = write(tmp_path / "good", torch.randn(1, 64), "bin")
    wide = write(tmp_path / "wide", torch.randn(1, 96), "bin")
    with pytest.raises(ValueError, match=r"wide' is for text encoders of width 96, and this model's have 64"):
        prompts.add_word_embedding(embedder, path=wide, token=WORD)
    with pytest.raises(ValueError, match=r"the word 'a' for .* is a word of this model already"):
        prompts.add_word_embedding(embedder, path=good, token="a")
    taught = prompts.add_word_embedding(embedder, path=good, token=WORD)
    with pytest.raises(ValueError, match=r"the word '<cat>' for .* is a word of this model already"):
        prompts.add_word_embedding(taught, path=good, token=WORD)
    with pytest.raises(ValueError, match="give one without spaces"):
        prompts.add_word_embedding(embedder, path=good, token=" cat")
    torch.save({"a": torch.zeros(1, 64), "b": torch.zeros(1, 64)}, tmp_path / "two")
    with pytest.raises(ValueError, match=r"expected one tensor, or clip_l and clip_g; found a, b"):
        prompts.add_word_embedding(embedder, path=tmp_path / "two", token=WORD)
    cube = write(tmp_path / "cube", torch.zeros(1, 2, 64), "bin")
    with pytest.raises(ValueError, match=r"expected vectors \(N, D\); found \(1, 2, 64\)"):
        prompts.add_word_embedding(embedder, path=cube, token=WORD)
