"""T5's encoder: transformers' embeddings, masks and cut prompts, weights, tokenizers, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.device_context import use_device
from guidegraph_families.networks.joined_text import T5Text
from guidegraph_families.parts.t5_text import build_t5, build_t5_tower, check_t5, infer_t5_settings
from guidegraph_runtime.machine.optional_packages import install_command
from guidegraph_runtime.operations import OPERATIONS
from plugins.families.tests import tiny

transformers = pytest.importorskip("transformers")

TEXTS = ["cab dab", "", "a b c d e", "a<pad> b"]
"""The last has the token of padding before its end."""

LENGTH = 16


def load(model: Any, tensors: dict[str, Tensor] | None = None) -> Any:
    weights = dict(model.state_dict()) if tensors is None else tensors
    return build_t5(weights, infer_t5_settings(weights, "file"), "file")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("t5")
    tiny.write_t5_tokenizer(folder)
    return folder


def reference(model: Any, folder: Path, texts: list[str], masked: bool) -> tuple[Tensor, Tensor]:
    """Tokens and mask by transformers alone."""
    words = transformers.T5TokenizerFast.from_pretrained(str(folder))
    batch = words(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    mask = batch["attention_mask"]
    return model(batch["input_ids"], attention_mask=mask if masked else None).last_hidden_state, mask.bool()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_texts_are_those_of_transformers(tokenizer: Path, gated: bool, masked: bool) -> None:
    model = tiny.t5(gated=gated)
    text = T5Text(build_t5_tower(load(model), tokenizer, LENGTH, attend_padding=not masked))
    expected, mask = reference(model, tokenizer, TEXTS, masked)
    condition = text(TEXTS)
    assert expected.std() > 0.1
    torch.testing.assert_close(condition.tokens, expected, rtol=0, atol=1e-5)
    if masked:
        assert condition.mask is not None
        assert torch.equal(condition.mask, mask)
    else:
        assert condition.mask is None


def test_a_long_prompt_is_cut_with_a_warning_and_keeps_its_end(tokenizer: Path) -> None:
    model = tiny.t5()
    text = T5Text(build_t5_tower(load(model), tokenizer, LENGTH, attend_padding=True))
    long = "a b c d e f g h i j k l m n o p q r s t"
    with pytest.warns(UserWarning, match="40 tokens, cut to 15: 'a b c d"):
        tokens = text([long]).tokens
    expected, _ = reference(model, tokenizer, [long], False)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)


def test_a_weight_multiplies_the_tokens_of_a_word(tokenizer: Path) -> None:
    model = tiny.t5()
    text = T5Text(build_t5_tower(load(model), tokenizer, LENGTH, attend_padding=False))
    plain = text(["a b"]).tokens
    weighted = text.embed_weighted([[("a ", 1.0), ("b", 1.5)]]).tokens
    assert plain is not None
    assert weighted is not None
    factors = torch.tensor([1.0, 1.0, 1.5, 1.5] + [1.0] * (LENGTH - 4))[None, :, None]
    torch.testing.assert_close(weighted, plain * factors, rtol=1e-5, atol=1e-5)


def test_the_runtime_makes_the_same_tokens(tokenizer: Path) -> None:
    text = T5Text(build_t5_tower(load(tiny.t5()), tokenizer, LENGTH, attend_padding=False))
    recipe = text.split()
    assert recipe is not None
    assert recipe.operation == "text.chunks"
    assert recipe.outputs["ids_0"] == ("B", 1, LENGTH)
    arrays = OPERATIONS[recipe.operation].function(TEXTS, **recipe.settings)
    condition = recipe.function(*(torch.from_numpy(array) for array in arrays.values()))
    torch.testing.assert_close(condition.tokens, text(TEXTS).tokens, rtol=0, atol=1e-6)


def test_the_runtime_refuses_a_chunk_that_has_no_room_beside_its_marks(tokenizer: Path) -> None:
    recipe = T5Text(build_t5_tower(load(tiny.t5()), tokenizer, LENGTH, attend_padding=False)).split()
    assert recipe is not None
    (tower,) = recipe.settings["towers"]
    for start, end in ((None, [1] * LENGTH), ([3] * 9, [1] * 7)):
        changed = {**tower, "start": start, "end": end}
        with pytest.raises(ValueError, match=rf"towers\[0\]\.length: expected a whole number .*{LENGTH + 1}"):
            OPERATIONS[recipe.operation].function(TEXTS, towers=[changed])


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_embedding_has_either_name_and_a_decoder_is_left_out(kept: str) -> None:
    model = tiny.t5()
    other = {"shared.weight": "encoder.embed_tokens.weight"}.get(kept, "shared.weight")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != other}
    extra = {"decoder.final_layer_norm.weight": torch.ones(2), "lm_head.weight": torch.ones(2, 2)}
    loaded = load(model, tensors | extra | {"logit_scale": torch.ones(())})
    ids = torch.tensor([[4, 5, 1, 0]])
    torch.testing.assert_close(loaded(ids)[0], model(ids)[0], rtol=0, atol=1e-6)
    assert loaded.shared.weight is loaded.encoder.embed_tokens.weight


def test_in_float16_the_last_layer_of_feed_forwards_stays_float32() -> None:
    model = tiny.t5()
    with use_device("cpu", "float16"):
        loaded = load(model)
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    wide = {name for name, dtype in dtypes.items() if dtype is torch.float32}
    assert wide == {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}
    state = dict(model.state_dict())
    assert all(torch.equal(loaded.state_dict()[name], state[name]) for name in wide)
    ids = torch.tensor([[4, 5, 1, 0]])
    assert loaded(ids)[0].dtype is torch.float16
    torch.testing.assert_close(loaded(ids)[0].float(), model(ids)[0], rtol=0, atol=0.05)


def test_weights_in_float8_load_as_their_values() -> None:
    model = tiny.t5()
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in narrow.items()})
    ids = torch.tensor([[4, 5, 1, 0]])
    torch.testing.assert_close(load(model, narrow)(ids)[0], model(ids)[0], rtol=0, atol=1e-6)


def test_the_encoder_of_the_releases_has_every_key_and_no_other() -> None:
    """T5 version 1.1 XXL, of 4.76 billion parameters, as in Stable Diffusion 3, Flux and PixArt."""
    xxl = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    with torch.device("meta"):
        model = transformers.T5EncoderModel(transformers.T5Config(**xxl, feed_forward_proj="gated-gelu"))
    tensors = dict(model.state_dict())
    settings = infer_t5_settings(tensors, "file")
    assert {name: settings[name] for name in xxl} == xxl
    check_t5(tensors, settings, "file")
    with use_device("meta", "float32"):
        loaded = build_t5(tensors, settings, "file")
    assert loaded.state_dict().keys() == tensors.keys()
    assert sum(parameter.numel() for parameter in loaded.parameters()) / 1e9 == pytest.approx(4.76, abs=0.01)


def test_other_tensors_and_tokenizers_are_refused(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.t5()
    tensors = dict(model.state_dict())
    settings = infer_t5_settings(tensors, "file")
    changes: list[tuple[dict[str, Tensor], str]] = [
        ({"encoder.block.0.layer.0.gate": torch.ones(2)}, r"1 left over: encoder\.block\.0\.layer\.0\.gate"),
        ({"encoder.final_layer_norm.weight": torch.ones(3)}, r"1 of another shape: encoder\.final_layer_norm"),
        ({"shared.weight": tensors["shared.weight"] + 1}, r"shared\.weight and encoder\.embed_tokens\.weight differ"),
    ]
    for change, match in changes:
        for function in (build_t5, check_t5):
            with pytest.raises(ValueError, match=match):
                function(tensors | change, settings, "file")
    with pytest.raises(ValueError, match=r"'file' holds no whole T5 encoder: .*relative_attention_bias\.weight is"):
        infer_t5_settings({name: t for name, t in tensors.items() if "bias" not in name}, "file")
    with pytest.raises(ValueError, match=r"it needs spiece\.model, or tokenizer\.json"):
        build_t5_tower(load(model), tmp_path, LENGTH, attend_padding=True)
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        ValueError,
        match=rf"holds spiece\.model without tokenizer\.json, and sentencepiece.*{re.escape(install_command('t5'))}",
    ):
        build_t5_tower(load(model), tmp_path, LENGTH, attend_padding=True)
    model.config.vocab_size = 20
    with pytest.raises(ValueError, match="is for another text encoder: its tokens go up to 30, and this one knows 20"):
        build_t5_tower(model, tokenizer, LENGTH, attend_padding=True)
