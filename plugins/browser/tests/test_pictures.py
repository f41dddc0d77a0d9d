"""The page reads picture files as the runtime does with Pillow, and makes the same of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from guidegraph_browser.write_page import extra_settings
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.pictures.picture_files import read_rgb
from guidegraph_runtime.pictures.semantic_maps import COLOURS
from plugins.browser.tests.modules import run_script
from plugins.browser.tests.png_files import CHANNELS, DEPTHS, write_png
from tests.paths import ROOT

RANDOM = np.random.default_rng(7)
EXAMPLES = ROOT / "workflows" / "data" / "examples"


def random_png(
    kind: int,
    depth: int,
    *,
    interlaced: bool,
    clear: bool,
    orientation: int = 1,
    colours: int | None = None,
    text: bytes = b"",
) -> bytes:
    """A picture of some colour type and depth, with transparency in a chunk of its own where it may have one.

    colours: of the palette, by default as many as there are indices. text: the contents of a chunk iTXt.
    """
    height, width = int(RANDOM.integers(1, 12)), int(RANDOM.integers(1, 20))
    samples = RANDOM.integers(0, 2**depth, (height, width, CHANNELS[kind]), dtype=np.int64)
    chunks = {}
    if kind == 3:
        chunks["PLTE"] = RANDOM.integers(0, 256, 3 * (colours or 2**depth), dtype=np.uint8).tobytes()
        if clear:
            chunks["tRNS"] = RANDOM.integers(0, 256, 2 ** (depth - 1), dtype=np.uint8).tobytes()
    elif clear and kind in (0, 2):
        chunks["tRNS"] = samples[0, 0].astype(">u2").tobytes()
    if orientation != 1:
        chunks["eXIf"] = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    if text:
        chunks["iTXt"] = text
    return write_png(samples, kind, depth, interlaced=interlaced, chunks=chunks)


def every_kind() -> list[bytes]:
    cases = [
        (kind, depth, interlaced, clear)
        for kind in CHANNELS
        for depth in DEPTHS[kind]
        for interlaced in (False, True)
        for clear in (False, True)
    ]
    pictures = [random_png(kind, depth, interlaced=interlaced, clear=clear) for kind, depth, interlaced, clear in cases]
    pictures += [random_png(2, 8, interlaced=False, clear=False, orientation=number) for number in range(1, 9)]
    pictures += [random_png(3, 8, interlaced=False, clear=clear, colours=7) for clear in (False, True)]
    return pictures + [
        random_png(2, 8, interlaced=False, clear=False, orientation=exif, text=text)
        for exif in (1, 6)
        for text in (
            write_xmp('="3"'),
            write_xmp(">8<"),
            write_xmp('="5"', is_packed=True),
            write_xmp('="9"'),
            b"Title\0",
        )
    ]


def write_xmp(value: str, is_packed: bool = False) -> bytes:
    """The contents of a chunk iTXt with an orientation in XMP."""
    text = f"<x:xmpmeta ä tiff:Orientation{value}/>".encode()
    return (
        b"XML:com.adobe.xmp\0" + bytes([is_packed, 0]) + b"en\0title\0" + (zlib.compress(text) if is_packed else text)
    )


def write_files(folder: Path, pictures: Sequence[bytes]) -> list[str]:
    names = [f"{number}.png" for number in range(len(pictures))]
    for name, data in zip(names, pictures, strict=True):
        (folder / name).write_bytes(data)
    return names


READ = """
import { OPERATIONS } from "./operations.js";
import { readPicture, toRgb } from "./picture_files.js";
const read = (name) => readPicture(new Uint8Array(readFileSync(name)), name).catch(({ message }) => ({ message }));
const readAll = async (names, use) => {
  const results = [];
  for (const [i, name] of names.entries()) {
    const path = await read(name);
    results.push(path.message ? path : catchMessage(() => use(path, i)));
  }
  return results;
};
"""


def to_array(tensor: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(tensor["data"]).reshape(tensor["dims"])


def test_png_of_every_kind_has_the_colours_that_pillow_gives(tmp_path: Path) -> None:
    pictures = every_kind()
    script = """
    show(await readAll(given, toRgb));
    """
    results = run_script(tmp_path, READ + script, write_files(tmp_path, pictures))
    for data, result in zip(pictures, results, strict=True):
        expected = np.asarray(read_rgb(data))
        assert "message" not in result, result
        found = np.array(result["data"]).reshape(result["height"], result["width"], 3)
        assert np.array_equal(found, expected), Image.open(io.BytesIO(data))


SIZES: list[dict[str, Any]] = [
    {},
    {"size": 16},
    {"size": [24, 7]},
    {"size": [5, 40], "resize": "pad"},
    {"size": [40, 5], "resize": "pad"},
    {"size": [31, 3], "resize": "stretch"},
]


@pytest.mark.parametrize("settings", SIZES)
def test_pictures_are_resized_as_pillow_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    # Since version 13 Pillow begins with the columns of a picture that shrinks more in height.
    shapes = [(64, 64), (37, 90), (8, 5), (1, 1), *([(90, 37)] if int(PIL.__version__.split(".")[0]) >= 13 else [])]
    pictures = [write_png(RANDOM.integers(0, 256, (*shape, 3)), 2, 8) for shape in shapes]
    script = """
    show(await readAll(given.names, (path) => OPERATIONS["image.load"]({ path, ...given.settings })));
    """
    given = {"names": write_files(tmp_path, pictures), "settings": settings}
    for data, result in zip(pictures, run_script(tmp_path, READ + script, given), strict=True):
        assert np.array_equal(
            to_array(result).astype(np.float32), OPERATIONS["image.load"](path=data, **settings)["out"]
        )


@pytest.mark.parametrize("settings", [{}, {"size": 16, "threshold": 0.2}, {"size": [9, 33], "threshold": 1 / 3}])
def test_masks_are_those_of_the_runtime(tmp_path: Path, settings: dict[str, Any]) -> None:
    shapes = [(64, 64), (20, 70), (5, 7)]
    pictures = [write_png(RANDOM.integers(0, 256, (*shape, 1)), 0, 8) for shape in shapes]
    pictures += [write_png(RANDOM.integers(0, 2, (33, 40, 1)), 0, 1), (EXAMPLES / "mask_128.png").read_bytes()]
    script = """
    show(await readAll(given.names, (path) => OPERATIONS["mask.load"]({ path, ...given.settings })));
    """
    given = {"names": write_files(tmp_path, pictures), "settings": settings}
    for data, result in zip(pictures, run_script(tmp_path, READ + script, given), strict=True):
        assert np.array_equal(to_array(result), OPERATIONS["mask.load"](path=data, **settings)["out"])


def write_maps() -> list[tuple[bytes, int | None]]:
    """Maps of every kind that the runtime reads, with the number of their classes, and some that it refuses."""
    indices = RANDOM.integers(0, 23, (12, 17, 1))
    colours = np.array(COLOURS)[indices[..., 0]] + RANDOM.integers(-6, 7, (12, 17, 3))
    palette = {"PLTE": RANDOM.integers(0, 256, 768, dtype=np.uint8).tobytes()}
    coloured, wrong = np.clip(colours, 0, 255), np.clip(colours, 0, 255).copy()
    wrong[3, 4] = (1, 200, 200)
    with_alpha = np.concatenate([indices, RANDOM.integers(0, 256, indices.shape)], axis=2)
    return [
        (write_png(indices, 0, 8), None),
        (write_png(indices, 0, 16), None),
        (write_png(indices, 3, 8, interlaced=True, chunks={**palette, "tRNS": b"\1\2\3"}), None),
        (write_png(with_alpha, 4, 8), None),
        (write_png(with_alpha * 256, 4, 16), 76),
        (write_png(with_alpha * 256, 4, 16), None),
        (write_png(np.full((2, 3, 2), 40 * 257), 4, 16), None),
        (write_png(coloured, 2, 8), None),
        (write_png(np.concatenate([coloured, with_alpha[..., 1:]], axis=2), 6, 8), None),
        (write_png(indices % 2, 0, 1), 2),
        (write_png(indices % 16, 3, 4, chunks=palette), 76),
        (write_png(indices % 4, 0, 2), 256),
        (write_png(indices, 0, 8), 4),
        (write_png(wrong, 2, 8), None),
        (write_png(coloured, 2, 8), 76),
        ((EXAMPLES / "map_128.png").read_bytes(), 76),
        ((EXAMPLES / "map.png").read_bytes(), None),
    ]


@pytest.mark.parametrize("size", [None, 16, [7, 33]])
def test_semantic_maps_are_those_of_the_runtime(tmp_path: Path, size: Any) -> None:
    maps = write_maps()
    script = """
    const load = (path, i) => OPERATIONS["semantic.load"]({ path, classes: given.counts[i], ...given.settings });
    show(await readAll(given.names, load));
    """
    names = write_files(tmp_path, [data for data, _ in maps])
    counts = [count for _, count in maps]
    given = {"names": names, "counts": counts, "settings": {"size": size, **extra_settings("semantic.load")}}
    refused = []
    for (data, count), result in zip(maps, run_script(tmp_path, READ + script, given), strict=True):
        try:
            expected = OPERATIONS["semantic.load"](path=data, size=size, classes=count)["out"]
        except ValueError as error:
            refused.append((result["message"].partition(": ")[2], str(error).partition(": ")[2]))
            continue
        assert np.array_equal(to_array(result), expected)
    assert len(refused) == 5
    assert all(message == expected for message, expected in refused)


def test_objects_of_maps_are_those_of_the_runtime(tmp_path: Path) -> None:
    from guidegraph_runtime.operations import semantic

    script = """
    import { OPERATIONS } from "./operations.js";
    const semantic = { dtype: "float32", dims: given.dims, data: Float32Array.from(given.data) };
    show(given.settings.map((settings) => OPERATIONS["semantic.boxes"]({ semantic, ...settings })));
    """
    indices = np.repeat(np.repeat(RANDOM.integers(0, 5, (3, 12, 15)), 3, 1), 3, 2)
    maps = (indices[:, None] == np.arange(5)[:, None, None]).astype(np.float32) + RANDOM.uniform(
        0, 0.5, (3, 5, 36, 45)
    ).astype(np.float32)
    maps[0] = 0  # of equal values the first counts
    settings: list[dict[str, Any]] = [{}, {"objects": 3, "most": 7}]
    given = {"dims": maps.shape, "data": maps.ravel().tolist(), "settings": settings}
    for chosen, result in zip(settings, run_script(tmp_path, script, given), strict=True):
        expected = semantic.boxes(maps, **chosen)
        assert np.array_equal(to_array(result["object"]).astype(np.int64), expected.object)
        assert np.array_equal(to_array(result["box"]).astype(np.float32), expected.box)


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = write_png(RANDOM.integers(0, 256, (9, 9, 3)), 2, 8)
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 255
    huge = write_png(RANDOM.integers(0, 256, (1, 1, 1)), 0, 8).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 2**20, 2**20)
    )
    script = """
    show((await readAll(given, () => ({ message: null }))).map(({ message }) => message));
    """
    names = write_files(tmp_path, [whole, whole[: len(whole) // 2], bytes(broken), whole[:20], huge, b"no picture"])
    fine, *refused = run_script(tmp_path, READ + script, names)
    assert fine is None
    assert all(message.startswith(f"{name} ") for name, message in zip(names[1:], refused, strict=True))
    assert refused[-2].endswith("1048576 × 1048576 pixels, and this page reads up to 67108864")
    assert refused[-1].endswith("is not a picture that this browser can read")


def test_tensors_are_joined_and_noised_as_in_the_runtime(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    import { cast } from "./tensors.js";
    const toTensor = ({ dims, data, dtype }) => cast({ dtype: "float64", dims, data }, dtype);
    const [a, b, c, alpha, sigma] = given.map(toTensor);
    const scheduler = { "scheduler.alpha": alpha, "scheduler.sigma": sigma };
    const addNoise = (x0, noise) => catchMessage(() => OPERATIONS["scheduler.add_noise"]({ x0, noise, ...scheduler }));
    const cat = (axis, ...tensors) => {
      const ports = Object.fromEntries(tensors.map((item, i) => [`tensors.${i}`, item]));
      return catchMessage(() => OPERATIONS["tensor.cat"]({ axis, ...ports }));
    };
    show([cat(0, a, b), cat(-1, a, a, a), cat(1n, b, b), addNoise(a, b), addNoise(b, b), cat(1, a, b), addNoise(a, c)]);
    """
    a, b, c = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((1, 2, 3, 4), (3, 2, 3, 4), (1, 2, 3, 5)))
    alpha, sigma = np.array([0.3, 0.7]), np.array([0.954, 0.714])
    given = [
        {"dims": item.shape, "data": item.ravel().tolist(), "dtype": str(item.dtype)}
        for item in (a, b, c, alpha, sigma)
    ]
    first, wide, second, noisy, noisier, unlike, unfit = run_script(tmp_path, script, given)
    scheduler = {"alpha": alpha, "sigma": sigma}
    add_noise = OPERATIONS["scheduler.add_noise"]
    expected = [
        (first, np.concatenate([a, b])),
        (wide, np.concatenate([a, a, a], axis=-1)),
        (second, np.concatenate([b, b], axis=1)),
        (noisy, add_noise(scheduler=scheduler, x0=a, noise=b)["out"]),
        (noisier, add_noise(scheduler=scheduler, x0=b, noise=b)["out"]),
    ]
    for found, array in expected:
        assert np.array_equal(to_array(found).astype(np.float32), array)
    assert unlike["message"].startswith(
        "tensors must be alike but for axis 1; found shapes (1, 2, 3, 4) and (3, 2, 3, 4)"
    )
    assert "do not fit" in unfit["message"]
