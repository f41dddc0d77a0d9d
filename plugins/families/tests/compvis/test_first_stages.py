"""Released first stages: the same latents and pictures as diffusers, from both layouts; tiles; errors."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.images.tiling import edge_ramp, tile_decoder, tile_starts
from guidegraph_families.compvis.single_file import load_compvis
from guidegraph_families.diffusers.first_stage import load_first_stage
from guidegraph_families.parts.first_stage import build_first_stage
from plugins.families.tests.compvis import compvis_writer

diffusers = pytest.importorskip("diffusers")

SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def kl() -> Any:
    torch.manual_seed(0)
    model: Any = diffusers.AutoencoderKL(**SMALL, layers_per_block=2, latent_channels=4, scaling_factor=0.13025)
    return model.eval()


def vq() -> Any:
    torch.manual_seed(1)
    model: Any = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=3,
        vq_embed_dim=5,
        num_vq_embeddings=64,
        scaling_factor=0.5,
    )
    model.quantize.embedding.weight.data.normal_()
    return model.eval()


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The attention names that diffusers wrote before 0.12."""
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {re.sub(r"to_q|to_k|to_v|to_out\.0", lambda match: words[match[0]], name): t for name, t in tensors.items()}


def ours(model: Any, layout: str) -> Any:
    path = Path("vae")
    if layout == "compvis":
        shift = getattr(model.config, "shift_factor", None) or 0.0
        tensors = compvis_writer.first_stage(model)
        return build_first_stage(tensors, str(path), model.config.scaling_factor, shift=shift)
    tensors = model.state_dict()
    return load_first_stage(old_names(tensors) if layout == "old" else tensors, dict(model.config), path)


@pytest.mark.parametrize("layout", ["diffusers", "old", "compvis"])
def test_a_kl_autoencoder_gives_the_latents_and_pictures_of_diffusers(layout: str) -> None:
    model = kl()
    actual = ours(model, layout)
    image, latent = torch.rand(2, 3, 32, 48) * 2 - 1, torch.randn(2, 4, 16, 24)
    with torch.no_grad():
        gaussian = model.encode(image).latent_dist
        picture = model.decode(latent / 0.13025).sample
    torch.testing.assert_close(actual.encode(image), gaussian.mean * 0.13025, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.moments(image)[1], gaussian.logvar, rtol=0, atol=1e-4)
    torch.testing.assert_close(actual.decode(latent), picture, rtol=0, atol=1e-4)
    assert actual.config.factor == 2


@pytest.mark.parametrize("layout", ["diffusers", "old", "compvis"])
def test_a_vq_autoencoder_quantises_in_its_decoder(layout: str) -> None:
    model = vq()
    actual = ours(model, layout)
    image, latent = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 5, 16, 16)
    with torch.no_grad():
        before = model.encode(image).latents
        picture = model.decode(latent / 0.5).sample
        as_it_is = model.decode(latent / 0.5, force_not_quantize=True).sample
    torch.testing.assert_close(actual.encode(image), before * 0.5, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.decode(latent), picture, rtol=0, atol=1e-4)
    assert (actual.decode(latent) - as_it_is).abs().max() > 1e-2
    assert actual.config.encoder_attention == actual.config.decoder_attention == (1,)


def test_a_first_stage_without_the_small_convolutions_and_without_attention_loads() -> None:
    torch.manual_seed(2)
    model: Any = diffusers.AutoencoderKL(
        **SMALL, latent_channels=8, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    ).eval()
    actual = ours(model, "diffusers")
    latent = torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(actual.decode(latent), model.decode(latent / 0.18215).sample, rtol=0, atol=1e-4)


def flow() -> Any:
    """An autoencoder as those of Stable Diffusion 3 and Flux: 16 channels, a shift, no convolution of moments."""
    torch.manual_seed(3)
    model: Any = diffusers.AutoencoderKL(
        **SMALL,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    return model.eval()


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
def test_a_shift_is_taken_from_latents_before_they_are_scaled(layout: str) -> None:
    model = flow()
    actual = ours(model, layout)
    image, latent = torch.rand(2, 3, 32, 48) * 2 - 1, torch.randn(2, 16, 16, 24)
    with torch.no_grad():
        expected = (model.encode(image).latent_dist.mean - 0.0609) * 1.5305
        picture = model.decode(latent / 1.5305 + 0.0609).sample
        without = model.decode(latent / 1.5305).sample
    torch.testing.assert_close(actual.encode(image), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.decode(latent), picture, rtol=0, atol=1e-5)
    assert (picture - without).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [(1.5305, 0.0609), (0.3611, 0.1159)])
def test_a_released_first_stage_with_a_shift_alone_needs_scale_and_shift(scale: tuple[float, float]) -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    tensors, path = compvis_writer.first_stage(model), Path("ae.safetensors")
    with use_device("meta", "float32"):
        loaded = load_compvis(tensors, path, LoadOptions(scale=scale[0], shift=scale[1]))["autoencoder"]
        with pytest.raises(ValueError, match=r"1\.5305 and a shift of 0\.0609 in Stable Diffusion 3, of 0\.3611 and"):
            load_compvis(tensors, path, LoadOptions())
        with pytest.raises(ValueError, match="does not tell the shift of its latents"):
            load_compvis(tensors, path, LoadOptions(scale=scale[0]))
    assert (loaded.scale, loaded.shift) == scale
    assert sorted(loaded.state_dict()) == sorted(tensors)
    assert sum(value.numel() for value in loaded.state_dict().values()) == sum(p.numel() for p in model.parameters())


def test_unsupported_or_incomplete_first_stages_are_refused() -> None:
    model = kl()
    config = dict(model.config)
    with pytest.raises(ValueError, match=r"'vae': 'shift_factor' is 'a'; expected a number"):
        load_first_stage(model.state_dict(), {**config, "shift_factor": "a"}, Path("vae"))
    with pytest.raises(ValueError, match="'new_thing' is 3, which is not known"):
        load_first_stage(model.state_dict(), {**config, "new_thing": 3}, Path("vae"))
    tensors = model.state_dict()
    del tensors["decoder.mid_block.resnets.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"1 missing: decoder\.mid\.block_1\.conv1\.weight"):
        load_first_stage(tensors, config, Path("vae"))
    with pytest.raises(ValueError, match="1 left over: surplus"):
        load_first_stage({**model.state_dict(), "surplus": torch.zeros(1)}, config, Path("vae"))
    with pytest.raises(ValueError, match=r"'vae' holds no first stage: encoder\.conv_in\.weight"):
        load_first_stage({"conv.weight": torch.zeros(1)}, config, Path("vae"))


class Enlarger:
    """A decoder that maps each latent cell on its own to 4 × 4 pixels of its value."""

    calls = 0

    def encode(self, image: Tensor) -> Tensor:
        return image[:, :, ::4, ::4]

    def decode(self, latent: Tensor) -> Tensor:
        self.calls += 1
        assert max(latent.shape[2:]) <= 8
        return latent.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize("size", [(20, 13), (8, 31), (9, 9), (21, 5)])
def test_tiles_cover_a_picture_without_a_seam(size: tuple[int, int]) -> None:
    latent, inner = torch.randn(2, 3, *size), Enlarger()
    actual = tile_decoder(inner, tile=8, overlap=3).decode(latent)
    assert inner.calls > 1
    torch.testing.assert_close(actual, latent.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_tiles_change_a_decoded_picture_little_and_one_tile_not_at_all() -> None:
    actual = ours(kl(), "diffusers")
    small, large = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 40, 40)
    assert torch.equal(tile_decoder(actual, tile=16, overlap=4).decode(small), actual.decode(small))
    error = (tile_decoder(actual, tile=24, overlap=12).decode(large) - actual.decode(large)).abs().mean()
    assert 0 < error < 0.1 * actual.decode(large).std()
    with pytest.raises(ValueError, match="give an overlap below the tile"):
        tile_decoder(actual, tile=8, overlap=8)


def test_as_few_tiles_as_possible_share_the_overlap() -> None:
    assert tile_starts(64, 64, 16) == [0]
    for size in range(65, 200):
        actual = tile_starts(size, 64, 16)
        assert actual[0] == 0
        assert actual[-1] == size - 64
        assert all(after - before <= 48 for before, after in pairwise(actual))
        assert len(actual) == 1 or (len(actual) - 1) * 48 + 64 - size < 48
    assert edge_ramp(6, 2).tolist() == [0.25, 0.75, 1.0, 1.0, 0.75, 0.25]
