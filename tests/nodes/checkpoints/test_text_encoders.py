"""Released text encoders: transformers' embeddings from every layout; long and weighted prompts; new words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph.graph.frozen_models import ExportRecipe
from guidegraph.nodes.checkpoints.clip_text import build_clip, from_openclip, infer_clip_settings
from guidegraph.nodes.conditioning import text_prompt as prompts
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.models.own.text_encoder import build_tokenizer
from guidegraph.nodes.models.released.clip_text_model import ACTIVATIONS, ClipTextModel
from guidegraph.nodes.models.released.prompt_embedder import ReleasedText, apply_weights
from guidegraph.nodes.models.released.towers import ClipTower
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.text.chunks import parse_prompt
from tests.nodes.checkpoints import tiny
from tests.nodes.checkpoints.compvis import compvis_writer
from tests.tolerance import assert_same_up_to_rounding, terms_of

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

TOKENIZER = build_tokenizer(["a", "b"], 7).to_str().encode()
TEXTS = ["a b c", "", "zebra x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


def embedder(tokenizer: Any, **settings: Any) -> ReleasedText:
    return ReleasedText([ClipTower(own(tiny.clip()), tokenizer, "last", tokenizer.eos_token_id)], **settings).eval()


def own(model: Any) -> ClipTextModel:
    """The weights of a model of transformers in guidegraph's."""
    return build_clip(model.state_dict(), model.config.to_dict(), "file")


def transformers_ids(tokenizer: Any, texts: list[str], pad: int | None = None) -> torch.Tensor:
    actual = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    ids: torch.Tensor = actual["input_ids"]
    return ids if pad is None else ids.where(actual["attention_mask"].bool(), pad)


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("projection", [None, 32])
def test_clip_loads_with_and_without_text_model_in_its_names(
    tokenizer: Any, layout: str, projection: int | None
) -> None:
    model = tiny.clip(projection=projection)
    bare = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    tensors = {("text_model." if layout == "old" and "projection" not in n else "") + n: v for n, v in bare.items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    settings = infer_clip_settings(tensors, "file", "quick_gelu")
    actual = build_clip(tensors, settings, "file")
    ids = transformers_ids(tokenizer, TEXTS)
    expected, out = model(ids, output_hidden_states=True), actual(ids)
    torch.testing.assert_close(out.tokens, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.penultimate, expected.hidden_states[-2], rtol=0, atol=1e-5)
    pooled = expected.text_embeds if projection else expected.pooler_output
    torch.testing.assert_close(out.pooled, pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_clip_computes_every_activation_as_transformers_does(tokenizer: Any, activation: str) -> None:
    model = tiny.clip(activation=activation)
    ids = transformers_ids(tokenizer, TEXTS)
    torch.testing.assert_close(own(model)(ids).tokens, model(ids).last_hidden_state, rtol=0, atol=1e-5)


def test_a_text_of_an_old_config_ends_at_its_largest_id(tokenizer: Any) -> None:
    model = tiny.clip()
    trunk = getattr(model, "text_model", model)
    model.config.eos_token_id = trunk.eos_token_id = 2
    ids = transformers_ids(tokenizer, TEXTS)
    torch.testing.assert_close(own(model)(ids).pooled, model(ids).pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "mish"}, "'hidden_act' is 'mish'; a CLIP text model has one of quick_gelu, gelu"),
        ({"num_attention_heads": 3}, "width 64 does not divide into 3 heads"),
        ({"num_hidden_layers": "many"}, "'num_hidden_layers'.*'many'.*a whole number"),
        ({"num_hidden_layers": 10**5}, "does not fit"),
        ({"hidden_size": 128}, "of another shape"),
    ],
)
def test_a_config_that_is_none_of_clips_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    model = tiny.clip()
    with pytest.raises(ValueError, match=f"'some/config'.*{message}"):
        build_clip(model.state_dict(), model.config.to_dict() | change, "some/config")


def test_openclip_is_mapped_with_its_fused_layers_and_its_projection(tokenizer: Any) -> None:
    model = tiny.clip(width=128, projection=32, activation="gelu")
    tensors = from_openclip(compvis_writer.openclip(model, projection=True))
    actual = build_clip(tensors, infer_clip_settings(tensors, "file", "gelu"), "file")
    tower = ClipTower(actual, tokenizer, "penultimate_normed", 0)
    ids = transformers_ids(tokenizer, TEXTS, pad=0)
    expected = model(ids, output_hidden_states=True)
    tokens = ReleasedText([tower])(TEXTS).tokens
    normed = model.text_model.final_layer_norm(expected.hidden_states[-2])
    torch.testing.assert_close(tokens, normed, rtol=0, atol=1e-5)
    torch.testing.assert_close(tower(ids[:, None])[1], expected.text_embeds, rtol=0, atol=1e-5)


def test_plain_prompts_are_those_of_transformers(tokenizer: Any) -> None:
    text_embedder = embedder(tokenizer)
    actual = encode_text(text_embedder, TEXTS)
    expected = tiny.clip()(transformers_ids(tokenizer, TEXTS)).last_hidden_state
    torch.testing.assert_close(actual.tokens, expected, rtol=0, atol=1e-5)
    assert actual.vector is None
    assert actual.mask is not None
    assert actual.mask.all()


def test_a_long_prompt_is_read_in_chunks_of_75(tokenizer: Any) -> None:
    text_embedder = embedder(tokenizer)
    letters = [tiny.LETTERS[i % 26] for i in range(160)]
    condition = text_embedder([" ".join(letters), "a"])
    tokens = condition.tokens
    assert tokens is not None
    assert condition.mask is not None
    assert condition.mask.sum(1).tolist() == [3 * 77, 77]  # what fills up the second does not count
    assert tokens.shape == (2, 3 * 77, 64)
    parts = [" ".join(letters[start : start + 75]) for start in range(0, 160, 75)]
    torch.testing.assert_close(tokens[0], torch.cat(list(text_embedder(parts).tokens)), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[1], torch.cat(list(text_embedder(["a", "", ""]).tokens)), rtol=0, atol=1e-5)
    assert text_embedder([" ".join(letters[:75])]).tokens.shape[1] == 77
    assert text_embedder([" ".join(letters[:76])]).tokens.shape[1] == 154


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("(a)", [("a", 1.1)]),
        ("((a) b)", [("a", 1.1 * 1.1), (" b", 1.1)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("(a [b]: 0.5 )", [("a ", 0.5), ("b", 0.5 / 1.1)]),
        (r"\(a\) b: c \: \\", [("(a) b: c : \\", 1.0)]),
        ("(a:.5)(b:.5)", [("ab", 0.5)]),
        ("((a:2):3)", [("a", 6.0)]),
    ],
)
def test_weights_are_read(text: str, expected: list[tuple[str, float]]) -> None:
    actual = parse_prompt(text)
    assert [part for part, _ in actual] == [part for part, _ in expected]
    assert [weight for _, weight in actual] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(("text", "start"), [("a (b", 3), ("a] b", 2), ("(a]", 3), ("[a:1.2)", 7)])
def test_unpaired_brackets_are_located(text: str, start: int) -> None:
    with pytest.raises(ValueError, match=f"at character {start} has no partner"):
        parse_prompt(text)


@pytest.mark.parametrize("text", ["(" * 200 + "a" + ")" * 200, f"(a:{'9' * 400})"])
def test_weights_are_bounded(text: str) -> None:
    with pytest.raises(ValueError, match="make a weight beyond 1e"):
        parse_prompt(text)


def test_a_weight_multiplies_tokens_and_keeps_the_mean(tokenizer: Any) -> None:
    text_embedder = embedder(tokenizer)
    tower = text_embedder.towers[0]
    assert isinstance(tower, ClipTower)
    with torch.no_grad():  # a fresh layer norm gives tokens of mean 0, which no factor restores
        tower.model.final_layer_norm.bias.fill_(0.5)
    plain = text_embedder(["a b c", "a b c"]).tokens
    actual = prompts.encode_weighted(text_embedder, ["a (b:1.5) c", "a b c"]).tokens
    assert plain is not None
    assert actual is not None
    weights = torch.ones(77)
    weights[2] = 1.5  # after the mark of the start and 'a'
    heavier = plain[0] * weights[:, None]
    torch.testing.assert_close(actual[0], heavier * (plain[0].mean() / heavier.mean()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual[0].mean(), plain[0].mean(), rtol=1e-3, atol=1e-6)
    assert torch.equal(actual[1], plain[1])
    assert torch.equal(prompts.encode_weighted(text_embedder, "a (b:1) c").tokens, text_embedder(["a b c"]).tokens)


@pytest.mark.parametrize("weights", [[2.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
@pytest.mark.parametrize("second", [-1.0, 0.0])
def test_tokens_whose_mean_is_zero_are_only_weighted(weights: list[float], second: float) -> None:
    """Before the weights, or after them; a factor would make them NaN or nothing at all."""
    tokens = torch.tensor([[[1.0, -1.0], [2.0, second - 1]]])
    by_token = torch.tensor([weights])
    heavier = tokens * by_token[..., None]
    actual = apply_weights(tokens, by_token)
    before, after = tokens.mean(), heavier.mean()
    torch.testing.assert_close(actual, heavier * (before / after) if before * after != 0 else heavier)


def two_towers(tokenizer: Any, **settings: Any) -> ReleasedText:
    first = ClipTower(own(tiny.clip()), tokenizer, "penultimate", tokenizer.eos_token_id)
    second = ClipTower(own(tiny.clip(width=128, projection=32, activation="gelu")), tokenizer, "penultimate", 0)
    return ReleasedText([first, second], size_width=8, **settings)


def test_two_encoders_are_concatenated_and_the_vector_has_the_sizes(tokenizer: Any) -> None:
    text_embedder = two_towers(tokenizer, zero_empty=True)
    condition = text_embedder(["a b", ""])
    ids = transformers_ids(tokenizer, ["a b"])
    first = tiny.clip()(ids, output_hidden_states=True).hidden_states[-2]
    second = tiny.clip(width=128, projection=32, activation="gelu")
    out = second(transformers_ids(tokenizer, ["a b"], pad=0), output_hidden_states=True)
    assert condition.tokens is not None
    assert condition.vector is not None
    torch.testing.assert_close(
        condition.tokens[:1], torch.cat([first, out.hidden_states[-2]], dim=2), rtol=0, atol=1e-5
    )
    numbers = diffusers.models.embeddings.Timesteps(8, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(condition.vector[:1], out.text_embeds, rtol=0, atol=1e-5)
    assert not condition.tokens[1].any()
    assert not condition.vector[1, :32].any()
    other: Any = prompts.picture_size(text_embedder, original=(64, 32), crop=(1, 2), target=(16, 8))
    sizes = numbers(torch.tensor([64.0, 32, 1, 2, 16, 8])).reshape(1, -1)
    torch.testing.assert_close(other(["a b"]).vector[:, 32:], sizes)
    other = prompts.picture_size(text_embedder, target=(16, 8))
    sizes = numbers(torch.tensor([16.0, 8, 0, 0, 16, 8])).reshape(1, -1)
    torch.testing.assert_close(other(["a b"]).vector[:, 32:], sizes)
    torch.testing.assert_close(text_embedder(["a b"]).vector, condition.vector[:1])
    assert next(other.parameters()) is next(text_embedder.parameters())


def test_other_text_encoders_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"text\.picture_size is for SDXL's"):
        prompts.picture_size(embedder(tokenizer), target=(8, 8))
    other: Any = lambda texts: None  # noqa: E731
    with pytest.raises(
        ValueError,
        match=r"a weight in a prompt needs a CLIP, T5 or Qwen text encoder of .*; found function",
    ):
        prompts.encode_weighted(other, "(a)")
    with pytest.raises(ValueError, match="no prompts"):
        prompts.encode_weighted(embedder(tokenizer), [])
    tensors = tiny.clip().state_dict()
    del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.fc2.bias"))]
    with pytest.raises(ValueError, match=r"1 missing: .*layers\.1\.mlp\.fc2\.bias"):
        build_clip(tensors, infer_clip_settings(tensors, "file", "gelu"), "file")


def test_the_runtime_reads_prompts_as_the_engine_does(tokenizer: Any) -> None:
    two = [ClipTower(own(tiny.clip()), tokenizer, "penultimate", pad) for pad in (tokenizer.eos_token_id, 0)]
    two[1].words = {"zebra": (3, 4)}
    text_embedder = ReleasedText(two, size_width=8, zero_empty=True).eval()
    texts = ["a (zebra:1.5) c", "", " ".join(tiny.LETTERS * 4), "[x]"]
    actual = runtime_reads(prompts.split_by_weights(text_embedder), texts)
    expected = prompts.encode_weighted(text_embedder, texts)
    assert actual.tokens.shape[1] == 2 * 77
    assert not actual.tokens[1].any()
    terms = terms_of(tiny.clip())
    assert expected.tokens is not None
    assert expected.vector is not None
    assert_same_up_to_rounding(actual.tokens, expected.tokens, terms)
    assert_same_up_to_rounding(actual.vector, expected.vector, terms)
    plain = runtime_reads(text_embedder.split(), texts).tokens
    unweighted = encode_text(text_embedder, texts).tokens
    assert unweighted is not None
    assert_same_up_to_rounding(plain, unweighted, terms)
    assert not torch.equal(plain, actual.tokens)


def runtime_reads(split: ExportRecipe | None, texts: list[str]) -> Any:
    """Embed texts by the two halves of an embedder, the first run by the runtime."""
    assert split is not None
    actual = OPERATIONS[split.operation](texts=texts, **split.settings)["out"]
    return split.function(*(torch.from_numpy(actual[name]) for name in split.outputs))


def test_the_runtime_refuses_weights_that_an_encoder_does_not_support(tokenizer: Any) -> None:
    class Other:
        def split(self) -> ExportRecipe:
            return ExportRecipe("text.tokenize", {"prompt": "texts"}, {"ids": ("B", 7)}, abs, {"tokenizer": TOKENIZER})

    other: Any = Other()
    split = prompts.split_by_weights(other)
    assert split is not None
    plain = OPERATIONS["text.tokenize"](texts=["(a:1) b", "a b"], **split.settings)["ids"]
    assert (plain[0] == plain[1]).all()
    with pytest.raises(ValueError, match="gives a word a weight, which this model's text encoder does not know"):
        OPERATIONS["text.tokenize"](texts=["a (b:2)"], **split.settings)
