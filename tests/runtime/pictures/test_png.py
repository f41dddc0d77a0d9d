"""A PNG keeps its pixels and carries its texts."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from guidegraph_runtime.pictures.png import encode_png, read_png_text, write_png


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (150, 7, 3)])
def test_pixels_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", array)
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) == array.squeeze()).all()
    assert read_png_text(tmp_path / "a.png") == {}


def test_each_row_has_the_filter_that_fits_it(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.Philox(key=2))
    ramp = np.add.outer(np.arange(40), np.arange(60))[..., None] * [1, 2, 3]
    array = (ramp + generator.integers(0, 4, (40, 60, 3))).astype(np.uint8)
    array[10:20] = generator.integers(0, 256, (10, 60, 3), dtype=np.uint8)
    array[25:30] = array[24]
    array[30:34] = np.arange(60, dtype=np.uint8)[:, None] * 3
    write_png(tmp_path / "ours.png", array)
    Image.fromarray(array).save(tmp_path / "pillow.png")
    with Image.open(tmp_path / "ours.png") as image:
        image.verify()
    with Image.open(tmp_path / "ours.png") as image:
        assert (np.asarray(image) == array).all()
    assert (tmp_path / "ours.png").stat().st_size <= 1.05 * (tmp_path / "pillow.png").stat().st_size


def test_a_picture_is_encoded_in_a_few_times_its_memory() -> None:
    array = np.arange(2048 * 512 * 3, dtype=np.uint8).reshape(2048, 512, 3)
    tracemalloc.start()
    try:
        encode_png(array)
        assert tracemalloc.get_traced_memory()[1] < 8 * array.nbytes
    finally:
        tracemalloc.stop()


def test_a_picture_is_written_without_a_library_of_pictures(tmp_path: Path) -> None:
    code = "import sys, numpy; from guidegraph_runtime.pictures.png import write_png\n"
    code += "write_png(sys.argv[1], numpy.zeros((2, 2), 'uint8'), {'k': 'v'}); print('PIL' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert read_png_text(tmp_path / "a.png") == {"k": "v"}


def test_strided_views_are_written_right(tmp_path: Path) -> None:
    chw = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    write_png(tmp_path / "a.png", chw.transpose(1, 2, 0)[::-1])
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) == chw.transpose(1, 2, 0)[::-1]).all()


def test_texts_come_back(tmp_path: Path) -> None:
    text = {
        "workflow": "guidegraph: 1\nnodes: {}\n",
        "parameters": '{"prompt": "a tïger 虎 🐯"}',
        "empty": "",
        "long": "σ" * 10**6,
    }
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), text)
    assert read_png_text(tmp_path / "a.png") == text


def test_texts_of_other_programs_are_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", "plain")
    info.add_text("Zipped", "z" * 1000, zip=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    assert read_png_text(tmp_path / "a.png") == {"Comment": "plain", "Zipped": "z" * 1000}


def test_same_picture_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_png(tmp_path / f"{name}.png", np.full((3, 3, 3), 7, np.uint8), {"k": "v"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), "uint8, not float32"),
        (np.zeros((3, 2, 2, 3), np.uint8), r"not \(3, 2, 2, 3\)"),
        (np.zeros((2, 2, 2), np.uint8), r"not \(2, 2, 2\)"),
        (np.zeros((0, 2, 3), np.uint8), r"not \(0, 2, 3\)"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / "a.png", array)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("keyword", ["", "k" * 80, "näme", "a\nb"])
def test_impossible_keywords_are_refused(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8), {keyword: ""})
    assert not any(tmp_path.iterdir())


def test_other_files_than_png_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png", format="JPEG")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
    for name in "abc":
        with pytest.raises(ValueError, match="is not a PNG file"):
            read_png_text(tmp_path / f"{name}.png")
    with pytest.raises(FileNotFoundError):
        read_png_text(tmp_path / "missing.png")
