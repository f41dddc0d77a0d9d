"""Nodes of pictures: loading, resizing, clamping and sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph.graph.device_context import use_device
from guidegraph.nodes.conditioning.label import constant_label
from guidegraph.nodes.images.image import image_from_sample, image_grid, load_image, resize_image


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def save_picture(path: Path, picture: Any, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def test_every_grey_level_is_loaded_exactly(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = load_image(path=save_picture(tmp_path / "a.png", Image.fromarray(levels)))
    assert image.shape == (1, 3, 16, 16)
    assert (image.min(), image.max()) == (-1, 1)
    back = ((image + 1) * 127.5).round().to(torch.uint8)
    assert all(np.array_equal(back[0, c].numpy(), levels) for c in range(3))


def test_rgb_keeps_its_axes(tmp_path: Path, pixels: np.ndarray) -> None:
    image = load_image(path=save_picture(tmp_path / "a.png", Image.fromarray(pixels)))
    expected = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    with use_device("cpu", "float64"):
        assert load_image(path=tmp_path / "a.png").dtype == torch.float64


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_blended_over_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        picture = Image.new("P", (2, 2), 0)
        picture.putpalette([0, 0, 0, 10, 20, 30])
        path = save_picture(tmp_path / "a.png", picture, transparency=0)
    else:
        path = save_picture(tmp_path / "a.png", Image.new(mode, (2, 2), (0,) * len(mode)))
    assert torch.equal(load_image(path=path), torch.ones(1, 3, 2, 2))


def test_half_transparent_black_over_white_is_grey(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", Image.new("RGBA", (1, 1), (0, 0, 0, 51)))
    torch.testing.assert_close(load_image(path=path), torch.full((1, 3, 1, 1), 204 / 127.5 - 1))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = load_image(path=save_picture(tmp_path / "a.png", Image.fromarray(values)))
    torch.testing.assert_close(image[0, 0, 0], torch.tensor([-1, 100 / 127.5 - 1, 1]))


def test_big_endian_sixteen_bit_grey_is_scaled_too(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=">u2")
    path = save_picture(tmp_path / "a.tiff", Image.frombytes("I;16B", (3, 1), values.tobytes()))
    with Image.open(path) as saved:
        assert saved.mode == "I;16B"
    torch.testing.assert_close(load_image(path=path)[0, 0, 0], torch.tensor([-1, 100 / 127.5 - 1, 1]))


def test_only_the_transparent_value_of_sixteen_bit_grey_is_white(tmp_path: Path) -> None:
    values = np.array([[1000, 1001, 232, 65535]], dtype=np.uint16)  # 1000 and 232 have the same last byte
    path = save_picture(tmp_path / "a.png", Image.fromarray(values), transparency=1000)
    with Image.open(path) as saved:
        assert saved.info["transparency"] == 1000
    expected = torch.tensor([255, 4, 1, 255]) / 127.5 - 1
    torch.testing.assert_close(load_image(path=path)[0, 0, 0], expected, rtol=0, atol=1 / 127)


def test_the_cameras_rotation_is_applied(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_picture(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    assert load_image(path=path).shape == (1, 3, 6, 4)


@pytest.mark.parametrize(
    ("size", "resize", "shape"), [(8, "crop", (8, 8)), ([3, 5], "stretch", (3, 5)), ((12, 4), "pad", (12, 4))]
)
def test_a_picture_is_resized_to_the_set_size(
    tmp_path: Path, pixels: np.ndarray, size: Any, resize: Any, shape: tuple[int, int]
) -> None:
    image = load_image(path=save_picture(tmp_path / "a.png", Image.fromarray(pixels)), size=size, resize=resize)
    assert image.shape == (1, 3, *shape)
    assert image.abs().max() <= 1


def test_padding_is_white_and_cropping_keeps_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    path = save_picture(tmp_path / "a.png", Image.fromarray(wide))
    assert torch.equal(load_image(path=path, size=4), torch.ones(1, 3, 4, 4))
    padded = load_image(path=path, size=12, resize="pad")
    assert torch.equal(padded[:, :, :4], torch.ones(1, 3, 4, 12))


def test_an_error_names_a_bad_picture_file(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    png = save_picture(tmp_path / "a.png", Image.fromarray(pixels)).read_bytes()
    (tmp_path / "half.png").write_bytes(png[: len(png) // 2])
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png"):
        load_image(path=tmp_path / "absent.png")
    with pytest.raises(ValueError, match=r"text\.png is not a picture"):
        load_image(path=tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"half\.png cannot be read as a picture"):
        load_image(path=tmp_path / "half.png")


def test_floating_point_pictures_raise_because_their_range_is_unknown(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "f.tiff", Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)))
    with pytest.raises(ValueError, match=r"f\.tiff holds floating-point numbers .*: save it with 8 or 16 bits"):
        load_image(path=path)


def test_samples_are_clamped_and_grey_becomes_rgb() -> None:
    sample = torch.tensor([-3.0, 0.25, 3.0]).reshape(1, 1, 1, 3)
    image = image_from_sample(sample)
    assert torch.equal(image, torch.tensor([-1.0, 0.25, 1.0]).expand(1, 3, 1, 3))
    assert sample.max() == 3
    with pytest.raises(ValueError, match=r"3 channels or 1, this sample 4: autoencoder\.decode"):
        image_from_sample(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest", "area"])
def test_resizing_keeps_a_flat_picture_and_the_range(mode: Any) -> None:
    flat = torch.full((2, 3, 8, 8), 0.5)
    torch.testing.assert_close(resize_image(flat, size=(5, 13), mode=mode), torch.full((2, 3, 5, 13), 0.5))
    noise = torch.sign(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert resize_image(noise, size=16, mode=mode).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest", "area"])
def test_half_precision_is_resized_like_float32_and_keeps_its_dtype(mode: Any, dtype: torch.dtype) -> None:
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    resized = resize_image(noise, size=5, mode=mode)
    assert resized.dtype == dtype
    torch.testing.assert_close(resized.float(), resize_image(noise.float(), size=5, mode=mode), atol=8e-3, rtol=0)


def test_a_grid_holds_every_picture_in_reading_order() -> None:
    batch = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2) / 10
    sheet = image_grid(batch, gap=1)
    assert sheet.shape == (1, 3, 7, 10)  # three columns, two rows
    cells = [sheet[0, 0, 1 + 3 * (i // 3), 1 + 3 * (i % 3)].item() for i in range(6)]
    assert cells == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 1])
    assert image_grid(batch, columns=9, gap=0).shape == (1, 3, 2, 10)
    assert torch.equal(image_grid(batch[:1], gap=0), batch[:1])


def test_labels_are_int64_with_one_for_each_sample() -> None:
    assert torch.equal(constant_label(label=3, batch=2), torch.tensor([3, 3]))
    assert torch.equal(constant_label(label=[1, 2]), torch.tensor([1, 2]))
    assert constant_label(label=3).dtype == torch.int64
    with pytest.raises(ValueError, match="2 labels do not make a batch of 3"):
        constant_label(label=[1, 2], batch=3)
