"""The conditioners of latent diffusion's own models: its text encoder, from a folder and a file, and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph_runtime.operations import OPERATIONS
from plugins.families.tests import tiny
from plugins.families.tests.compvis import compvis_writer
from plugins.families.tests.compvis.compvis_writer import under
from plugins.families.tests.diffusers import pipelines

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

SAID: Any = {"scale": 0.18215, "noise_schedule": "scaled_linear", "prediction": "eps"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny.LETTERS]
TEXTS = ["a b c", ""]
LENGTH = 12


def bert() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    torch.manual_seed(5)
    config = LDMBertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=LENGTH,
        encoder_layers=2,
        encoder_ffn_dim=96,
        encoder_attention_heads=8,
        head_dim=4,
        d_model=64,
    )
    model: Any = LDMBertModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def tokenizer(folder: Path) -> Any:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    bert_tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=LENGTH)
    bert_tokenizer.save_pretrained(str(folder))
    return bert_tokenizer


def release_names(model: Any) -> dict[str, Tensor]:
    """The text encoder under the names that latent diffusion gave it, by walking the module."""
    encoder = model.model
    out = {"token_emb.weight": encoder.embed_tokens.weight, "pos_emb.emb.weight": encoder.embed_positions.weight}
    out.update(under("norm", encoder.layer_norm))
    out.update(under("to_logits", model.to_logits))
    for i, layer in enumerate(encoder.layers):
        attention, feed_forward = f"attn_layers.layers.{2 * i}", f"attn_layers.layers.{2 * i + 1}"
        out.update(under(f"{attention}.0", layer.self_attn_layer_norm))
        for name in "qkv":
            out.update(under(f"{attention}.1.to_{name}", getattr(layer.self_attn, f"{name}_proj")))
        out.update(under(f"{attention}.1.to_out", layer.self_attn.out_proj))
        out.update(under(f"{feed_forward}.0", layer.final_layer_norm))
        out.update(under(f"{feed_forward}.1.net.0.0", layer.fc1))
        out.update(under(f"{feed_forward}.1.net.2", layer.fc2))
    return out


def save(path: Path, parts: dict[str, dict[str, Tensor]]) -> Path:
    tensors = {f"{prefix}.{name}": value.clone() for prefix, held in parts.items() for name, value in held.items()}
    torch.save({"state_dict": tensors}, path)
    return path


def test_the_text_encoder_is_that_of_diffusers_from_a_folder_and_from_a_file(tmp_path: Path) -> None:
    model, words, unet = bert(), tokenizer(tmp_path / "words"), tiny.unet("sd1")
    pipe = diffusers.LDMTextToImagePipeline(
        vqvae=pipelines.vae(), bert=model, tokenizer=words, unet=unet, scheduler=pipelines.scheduler()
    )
    pipe.save_pretrained(tmp_path / "folder")
    parts = {
        "model.diffusion_model": compvis_writer.unet(unet),
        "first_stage_model": compvis_writer.first_stage(pipe.vqvae),
        "cond_stage_model.transformer": release_names(model),
    }
    path = save(tmp_path / "model.ckpt", parts)
    ids = words(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")["input_ids"]
    expected = model(ids)[0]
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([5.0, 400.0])
    with torch.no_grad():
        eps = unet(x, t, encoder_hidden_states=expected).sample
    for actual in (
        load_checkpoint(path=tmp_path / "folder"),
        load_checkpoint(path=path, tokenizer=tmp_path / "words", heads=8, **SAID),
    ):
        condition = encode_text(actual.text, TEXTS)
        assert condition.tokens is not None
        torch.testing.assert_close(condition.tokens, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(predict(actual.denoiser, x, t, condition).value, eps, rtol=0, atol=1e-4)
        split = actual.text.split()
        tokens = OPERATIONS[split.operation](texts=TEXTS, **split.settings)
        halves = split.function(*(torch.from_numpy(tokens[name]) for name in split.outputs))
        torch.testing.assert_close(halves.tokens, expected, rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match=f"tokens, cut to {LENGTH}"):
        encode_text(actual.text, "a " * LENGTH)
    del parts["cond_stage_model.transformer"]["attn_layers.layers.3.1.net.2.bias"]
    with pytest.raises(ValueError, match=r"1 missing: attn_layers\.layers\.3\.1\.net\.2\.bias"):
        load_checkpoint(path=save(tmp_path / "less.ckpt", parts), tokenizer=tmp_path / "words", heads=8, **SAID)


def test_classes_are_tokens_of_cross_attention(tmp_path: Path) -> None:
    torch.manual_seed(6)
    settings = {**tiny.UNETS["sd1"], "attention_head_dim": 1}
    unet = diffusers.UNet2DConditionModel(**settings).eval().requires_grad_(False)
    table = torch.randn(11, 64)
    parts = {
        "model.diffusion_model": compvis_writer.unet(unet),
        "first_stage_model": compvis_writer.first_stage(pipelines.vae()),
        "cond_stage_model": {"embedding.weight": table},
    }
    loaded = load_checkpoint(path=save(tmp_path / "model.ckpt", parts), heads=1, **SAID)
    x, t, labels = torch.randn(2, 4, 16, 16), torch.tensor([5.0, 400.0]), torch.tensor([3, 10])
    assert loaded.label.classes == 11  # which of them means none is not known
    condition = loaded.label(labels)
    with torch.no_grad():
        expected = unet(x, t, encoder_hidden_states=table[labels][:, None]).sample
    torch.testing.assert_close(predict(loaded.denoiser, x, t, condition).value, expected, rtol=0, atol=1e-4)
