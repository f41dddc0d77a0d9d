"""DiT's checkpoints in the authors' layout and in diffusers': outputs, released sizes, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.conditioning.label import embed_label
from guidegraph_families.dit.folder import dit_tensors, read_dit_config
from guidegraph_families.dit.single_file import build_dit, is_dit, load_dit
from plugins.families.tests import difference_bounds
from plugins.families.tests.transformers import dit_writer

pytest.importorskip("diffusers")

MILLIONS = 675
"""Parameters of DiT-XL/2 (Peebles & Xie 2023), which do not count the positions."""

SETTINGS: dict[str, Any] = {"heads": 2, "noise_schedule": "linear"}


@pytest.fixture(scope="module")
def model() -> Any:
    return dit_writer.network()


def inputs(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and labels; the last label is the null class."""
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(3, 4, height, width, generator=generator),
        torch.tensor([3.0, 700, 999]),
        torch.tensor([4, 0, 10]),
    )


def check(loaded: Any, model: Any, *size: int) -> None:
    x, t, label = inputs(*size)
    expected = model(x, t, label).sample
    assert expected.std() > 0.1
    prediction = loaded.denoiser(x, t, embed_label(loaded.label, label))
    actual = torch.cat([prediction.value, prediction.variance], 1)
    difference_bounds.largest(actual, expected, 1e-4, "ε and variance")


@pytest.mark.parametrize("side", [8, 12])
def test_a_folder_of_diffusers_gives_the_output_of_diffusers(side: int, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_checkpoint(path=tmp_path)
    check(loaded, model, side, side)
    assert loaded.denoiser(*inputs()[:2], embed_label(loaded.label, inputs()[2])).kind == "eps"
    assert loaded.label.classes == 10


def test_a_network_of_a_flow_has_no_noise_schedule(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_checkpoint(path=tmp_path, prediction="flow")
    x, t, label = inputs()
    assert loaded.denoiser(x, t, embed_label(loaded.label, label)).kind == "flow"
    torch.save(dit_writer.authors_tensors(model), tmp_path / "model.pt")
    for path, settings in ((tmp_path, {"noise_schedule": "linear"}), (tmp_path / "model.pt", SETTINGS)):
        with pytest.raises(ValueError, match=r"' has a schedule of β, and a flow has none: leave prediction out, or"):
            load_checkpoint(path=path, prediction="flow", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_the_authors_gives_the_output_of_their_formulas(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = dit_writer.follow_authors(dit_writer.network())
    tensors = {name: tensor.clone().contiguous() for name, tensor in dit_writer.authors_tensors(model).items()}
    path = tmp_path / f"model{suffix}"
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    loaded = load_checkpoint(path=path, **SETTINGS)
    check(loaded, model)
    assert float(loaded.schedule.alphas_bar[0]) == pytest.approx(1 - 1e-4)
    null = embed_label(loaded.label).vector
    torch.testing.assert_close(null, tensors["y_embedder.embedding_table.weight"][10:])


def test_a_checkpoint_of_the_authors_training_has_two_sets_of_weights(model: Any, tmp_path: Path) -> None:
    """As train.py of DiT writes it: weights, their averages, the optimiser, and the arguments of the command line."""
    averages = dit_writer.authors_tensors(model)
    weights = {name: tensor if name == "pos_embed" else 2 * tensor for name, tensor in averages.items()}
    arguments = argparse.Namespace(model="DiT-XL/2", image_size=256)
    path = tmp_path / "0050000.pt"
    torch.save({"model": weights, "ema": averages, "opt": {"state": {}, "param_groups": []}, "args": arguments}, path)
    for ema, expected in ((True, averages), (False, weights)):
        network = load_checkpoint(path=path, ema=ema, **SETTINGS).denoiser.network  # type: ignore[attr-defined]
        assert torch.equal(network.x_embedder.proj.weight, expected["x_embedder.proj.weight"])


def test_a_pipeline_of_diffusers_loads_with_its_schedule(model: Any, tmp_path: Path) -> None:
    import diffusers

    vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4, sample_size=8)
    pipe = diffusers.DiTPipeline(transformer=model, vae=vae, scheduler=diffusers.DDIMScheduler(), id2label={0: "a cat"})
    pipe.save_pretrained(tmp_path)
    loaded = load_checkpoint(path=tmp_path)
    check(loaded, model)
    assert loaded.schedule.train_steps == 1000
    assert loaded.autoencoder.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("is_pipeline", [False, True])
def test_a_folder_with_the_released_config_is_a_dit(is_pipeline: bool, model: Any, tmp_path: Path) -> None:
    """Released folders name a class that diffusers gave to several networks; their weights are no safetensors."""
    import diffusers

    released, folder = dit_writer.RELEASED_CONFIG, tmp_path
    if is_pipeline:
        vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4, sample_size=8)
        pipe = diffusers.DiTPipeline(transformer=model, vae=vae, scheduler=diffusers.DDIMScheduler())
        pipe.save_pretrained(tmp_path)
        index = json.loads((tmp_path / "model_index.json").read_text())
        index["transformer"] = ["diffusers", released["_class_name"]]
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        folder = tmp_path / "transformer"
    model.save_pretrained(folder, safe_serialization=False)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "config.json").write_text(json.dumps({**released, **dit_writer.TINY}))
    check(load_checkpoint(path=tmp_path), model)
    (folder / "config.json").write_text(json.dumps({**released, **dit_writer.TINY, "norm_type": "layer_norm"}))
    with pytest.raises(ValueError, match=r"'norm_type' is 'layer_norm', and only 'ada_norm_single' is supported"):
        load_checkpoint(path=tmp_path)


def test_the_released_config_is_that_of_the_released_size() -> None:
    config = read_dit_config(dit_writer.RELEASED_CONFIG, Path("config.json"), "eps")
    assert (config.width, config.depth, config.heads, config.grid) == (1152, 28, 16, 16)
    assert (config.in_channels, config.out_channels, config.mlp_eps) == (4, 8, 1e-5)


@pytest.mark.parametrize("name", dit_writer.RELEASED)
def test_a_released_dit_has_every_key_and_no_other(name: str) -> None:
    import diffusers

    config = dit_writer.RELEASED[name]
    with torch.device("meta"):
        model = diffusers.DiTTransformer2DModel(**config)
    tensors = dit_writer.authors_tensors(model)
    assert is_dit(tensors)
    with use_device("meta", "float32"):
        parts = load_dit(tensors, Path("a.pt"), LoadOptions())
        settings = read_dit_config({**model.config, "_class_name": "DiTTransformer2DModel"}, Path("config.json"), "eps")
        folder = build_dit(settings, dit_tensors(model.state_dict(), "folder"), "folder")
    held = parts["denoiser"].network.state_dict()
    labels = parts["label"].state_dict()
    assert round(sum(tensor.numel() for tensor in (*held.values(), *labels.values())) / 1e6) == MILLIONS
    for loaded in (parts, folder):
        network = loaded["denoiser"].network
        assert network.state_dict().keys() == held.keys()
        assert (network.config.heads, network.config.grid, network.config.patch) == (16, config["sample_size"] // 2, 2)
        assert (network.config.in_channels, network.config.out_channels) == (4, 8)
        assert loaded["label"].classes == 1000
    assert (parts["denoiser"].config.frequency_shift, folder["denoiser"].config.frequency_shift) == (0, 1)


def test_what_a_file_does_not_tell_is_asked_for(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(dit_writer.authors_tensors(model), path)
    with pytest.raises(ValueError, match=r"width 32 with 3 blocks, .* do not tell heads or head_channels, noise_sched"):
        load_checkpoint(path=path)
    with pytest.raises(ValueError, match=r"do not tell noise_schedule: set"):
        load_checkpoint(path=path, head_channels=16)
    with pytest.raises(ValueError, match=r"is a DiT, which has no use for scale, groups, attention"):
        load_checkpoint(path=path, scale=1.0, groups=32, attention="new", **SETTINGS)
    assert load_checkpoint(path=path, head_channels=16, noise_schedule="cosine").denoiser.config.heads == 2
    for settings, match in (
        (
            {"heads": 3},
            r"model\.pt' has tokens of width 32, which is not a multiple of heads = 3: set heads or",
        ),
        ({"head_channels": 12}, "width 32, which is not a multiple of head_channels = 12"),
        ({"head_channels": 64}, "width 32, which is not a multiple of head_channels = 64"),
    ):
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path, noise_schedule="linear", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_in_half_precision_are_those_of_the_paper(dtype: torch.dtype, model: Any, tmp_path: Path) -> None:
    torch.save(
        {name: tensor.to(dtype) for name, tensor in dit_writer.authors_tensors(model).items()}, tmp_path / "a.pt"
    )
    assert load_checkpoint(path=tmp_path / "a.pt", **SETTINGS).denoiser.config.grid == 4  # type: ignore[attr-defined]


def test_incomplete_and_foreign_files_are_refused(model: Any, tmp_path: Path) -> None:
    tensors = dit_writer.authors_tensors(model)
    path = tmp_path / "model.pt"

    def refuse(changes: dict[str, Tensor | None], match: str) -> None:
        changed = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        torch.save(changed, path)
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path=path, **SETTINGS)

    refuse({"blocks.1.mlp.fc2.bias": None}, r"1 missing: blocks\.1\.mlp\.fc2\.bias")
    refuse({"blocks.1.attn.q_norm.weight": torch.ones(16)}, r"1 left over: blocks\.1\.attn\.q_norm\.weight")
    refuse({"blocks.2.mlp.fc1.bias": torch.ones(3)}, r"1 of another shape: blocks\.2\.mlp\.fc1\.bias")
    refuse({"pos_embed": tensors["pos_embed"] + 0.01}, "holds other positions than the sines and cosines of its family")
    refuse({"pos_embed": torch.zeros(1, 15, 32)}, "15 positions, which are no square")
    refuse({"y_embedder.embedding_table.weight": None}, r"holds no y_embedder\.embedding_table\.weight")
    refuse({"final_layer.linear.weight": None}, r"holds no final_layer\.linear\.weight: it is incomplete")


def test_embeddings_that_differ_between_blocks_are_refused(model: Any, tmp_path: Path) -> None:
    untied = dit_writer.network()
    untied.transformer_blocks[2].norm1.emb.timestep_embedder.linear_1.bias += 0.1
    untied.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.norm1\.emb\..*linear_1\.bias differs"):
        load_checkpoint(path=tmp_path)


def test_a_config_of_another_network_is_refused(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "norm_type": "ada_norm_single"}))
    with pytest.raises(ValueError, match=r"'norm_type' is 'ada_norm_single', and only 'ada_norm_zero' is supported"):
        load_checkpoint(path=tmp_path)
    path.write_text(json.dumps({**config, "num_layers": "three"}))
    with pytest.raises(ValueError, match=r"'num_layers' is 'three'; expected a whole number"):
        load_checkpoint(path=tmp_path)
