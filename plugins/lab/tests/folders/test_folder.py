"""A user's folder of pictures: layouts, batches and errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph import load_workflow
from guidegraph.graph.device_context import use_device
from guidegraph.graph.training.ranks import Rank, take_rank_rows
from guidegraph.nodes.conditioning.label import labels_by_name
from guidegraph.nodes.conditioning.semantic import hues_of_map
from guidegraph.nodes.conditioning.text_prompt import prompts_of_batch
from guidegraph_lab.folders import batches as folder_files
from guidegraph_lab.folders.batches import MissingField, crop_map, is_in_subset
from guidegraph_lab.folders.folder import FolderLatents, folder, folder_latents, folder_sample
from guidegraph_lab.folders.layout import find_layout
from tests.work_counter import growth

Form = Literal["NFC", "NFD"]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def picture(path: Path, colour: Any = RED, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def indices(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def table(path: Path, text: str | bytes) -> None:
    (path / "captions.csv").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three red cats and two green dogs."""
    for i in range(3):
        picture(tmp_path / "cats" / f"{i}.png", (255, 0, i))
    for i in range(2):
        picture(tmp_path / "dogs" / f"{i}.JPG", GREEN)
    (tmp_path / ".DS_Store").write_bytes(b"left behind")
    (tmp_path / "README.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub" / "b.webp", GREEN)
    table(tmp_path, '\ufefffile,caption\na.png,"A red, plain square."\nsub/b.webp,green\na.png,red square\n')
    return tmp_path


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 1
    for i in range(3):
        picture(tmp_path / "images" / f"{i}.jpg", RED)
        indices(tmp_path / "maps" / f"{i}.png", half)
    return tmp_path


class Encoder:
    """Encodes by the mean of 2 × 2 pixels, and records the batch sizes of its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.calls.append(image.shape[0])
        return torch.nn.functional.avg_pool2d(image, 2)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return latent


def test_class_folders_give_labels_in_the_order_of_their_names(classes: Path) -> None:
    data = folder(path=classes, size=4, batch=5, count=2)
    assert (data.pictures, data.classes, list(data.names), data.map_classes) == (5, 2, ["cats", "dogs"], 0)
    batch = data.batches[0]
    assert batch.image.shape == (5, 3, 4, 4)
    assert batch.image.dtype == torch.float32
    assert sorted(batch.label.tolist()) == [0, 0, 0, 1, 1]
    assert torch.equal(batch.image[:, 1, 0, 0] > 0, batch.label == 1)  # dogs are green


def test_captions_give_a_row_for_each_line_and_the_words(captions: Path) -> None:
    data = folder(path=captions, kind="captions", size=4, batch=3, count=1)
    assert (data.pictures, data.classes) == (2, 0)
    assert list(data.words) == [",", ".", "a", "green", "plain", "red", "square"]
    batch = data.batches[0]
    assert sorted(batch.caption) == ["A red, plain square.", "green", "red square"]
    assert [("red" in text) for text in batch.caption] == (batch.image[:, 0, 0, 0] > 0).tolist()


def test_maps_are_cut_and_mirrored_with_their_pictures(maps: Path) -> None:
    data = folder(path=maps, size=4, batch=8, count=4)
    assert data.map_classes == 2
    seen = set()
    for batch in data.batches:
        assert batch.semantic.shape == (8, 2, 4, 4)
        assert torch.equal(batch.semantic.sum(1), torch.ones(8, 4, 4))
        seen |= {tuple(row.tolist()) for row in batch.semantic[:, 1, 0]}
    assert seen == {(0, 0, 1, 1), (1, 1, 0, 0)}
    still = folder(path=maps, size=4, batch=8, count=1, flip=False).batches[0]
    assert {tuple(row.tolist()) for row in still.semantic[:, 1, 0]} == {(0, 0, 1, 1)}
    assert folder(path=maps, map_classes=7).map_classes == 7


def test_maps_with_a_palette_hold_indices(maps: Path) -> None:
    for i in range(3):
        mapped = Image.fromarray(np.asarray(Image.open(maps / "maps" / f"{i}.png")))
        mapped = mapped.convert("P")
        mapped.putpalette([9, 9, 9, 200, 10, 10])
        mapped.save(maps / "maps" / f"{i}.png")
    assert folder(path=maps, size=4).map_classes == 2


def test_a_workflow_runs_without_the_fields_that_a_folder_lacks(maps: Path) -> None:
    path = maps.parent / "sample.yaml"
    path.write_text(
        "guidegraph: 1\nnodes:\n"
        f"  data: {{use: data.folder_sample, with: {{path: {maps.name}, size: 8, count: 2}}}}\n"
        "outputs: {image: data.image, semantic: data.semantic}\n"
    )
    results = load_workflow(path, cache="off").run()
    assert results["image"].shape == (2, 3, 8, 8)
    assert results["semantic"].shape[0] == 2
    path.write_text(path.read_text().replace("semantic: data.semantic", "label: data.label"))
    with pytest.raises(MissingField, match="laid out as maps"):
        len(load_workflow(path, cache="off").run()["label"])


def test_pictures_alone_serve_a_first_stage(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    batch = folder(path=tmp_path, size=4, batch=2, count=1).batches[0]
    assert batch.image.shape == (2, 3, 4, 4)
    for use in (lambda: batch.label.shape, lambda: len(batch.caption), lambda: batch.semantic.argmax(1)):
        with pytest.raises(ValueError, match="laid out as pictures: its batches have no such field"):
            use()


def test_every_picture_occurs_once_per_epoch(classes: Path) -> None:
    batches = folder(path=classes, size=8, batch=2, count=10, flip=False).batches
    drawn = torch.cat([batch.image[:, :, 0, 0] for batch in batches])  # four rounds through five pictures
    for round_ in drawn.split(5):
        assert sorted(map(tuple, round_.tolist())) == sorted(map(tuple, drawn[:5].tolist()))


def test_a_batch_depends_on_seed_and_index_alone(classes: Path) -> None:
    first, second = (folder(path=classes, size=4, batch=4, count=9).batches for _ in range(2))
    for i in (7, 0, 3):
        assert torch.equal(first[i].image, second[i].image)
        assert torch.equal(first[i].label, second[i].label)
    orders = {tuple(folder(path=classes, seed=seed, batch=20).batches[0].label.tolist()) for seed in range(4)}
    assert len(orders) > 1
    assert first.prefetch  # type: ignore[attr-defined]


def test_processes_share_the_rows_of_a_batch(captions: Path, maps: Path) -> None:
    batch = folder(path=captions, kind="captions", size=4, batch=4).batches[0]
    parts = [take_rank_rows(batch, Rank(i, 2)) for i in range(2)]
    assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
    assert sum((part.caption for part in parts), ()) == batch.caption


@pytest.mark.parametrize("kind", ["classes", "maps"])
def test_batches_are_on_the_device_of_the_run(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    with use_device("meta", "float32"):
        batches = folder(path=path, size=4, batch=2).batches
        latents = folder_latents(batches, Encoder()).batches
    assert isinstance(latents, FolderLatents)
    field = {"classes": "label", "maps": "semantic"}[kind]
    assert (batches[0].image.device.type, getattr(batches[0], field).device.type) == ("meta", "meta")
    latents.cache = {(picture, mirrored): torch.zeros(1, 3, 2, 2) for picture in range(5) for mirrored in (False, True)}
    assert (latents[0].latent.device.type, getattr(latents[0], field).device.type) == ("meta", "meta")


def test_pictures_beyond_the_cache_are_read_again(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = folder(path=classes, size=6, batch=5).batches[0]
    monkeypatch.setattr(folder_files, "KEPT_BYTES", 200)
    picture(classes / "cats" / "new.png")  # another folder, which is read anew
    (classes / "cats" / "new.png").unlink()
    small = folder(path=classes, size=6, batch=5, seed=0, map_classes=9)
    files: Any = small.batches.folder.files  # type: ignore[attr-defined]
    assert len(files.cache) == 1
    assert torch.equal(small.batches[0].image, kept.image)


def test_a_changed_file_is_read_again(classes: Path) -> None:
    before = folder(path=classes, size=4, batch=5).batches[0].image
    picture(classes / "cats" / "0.png", (0, 0, 255), (9, 9))
    assert not torch.equal(folder(path=classes, size=4, batch=5).batches[0].image, before)


def test_a_sample_has_no_picture_twice_and_no_mirror(classes: Path) -> None:
    assert folder_sample(path=classes, count=100).image.shape == (5, 3, 64, 64)
    parts = [folder_sample(path=classes, size=4, count=2, start=start).image for start in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), folder_sample(path=classes, size=4).image)
    with pytest.raises(ValueError, match=r"there is no picture 5: .* has 5, counted from 0"):
        folder_sample(path=classes, start=5)


def test_a_sample_has_a_picture_with_several_captions_once(captions: Path) -> None:
    samples = [folder_sample(path=captions, kind="captions", size=4, seed=seed) for seed in range(8)]
    for sample in samples:
        assert sorted(sample.image[:, 0, 0, 0].tolist()) == [-1, 1]
    assert {"A red, plain square.", "red square"} < {caption for sample in samples for caption in sample.caption}
    with pytest.raises(ValueError, match=r"there is no picture 2: .* has 2"):
        folder_sample(path=captions, kind="captions", start=2)


def test_latents_are_encoded_once_and_alone(maps: Path) -> None:
    batches = folder(path=maps, size=4, batch=8, count=6).batches
    encoder = Encoder()
    latents = folder_latents(batches, encoder).batches
    for i in (3, 0, 5, 3):
        expected = torch.nn.functional.avg_pool2d(batches[i].image, 2)
        torch.testing.assert_close(latents[i].latent, expected, atol=1e-3, rtol=0)
        assert torch.equal(latents[i].semantic, batches[i].semantic)
    assert encoder.calls == [1] * 6  # three pictures, and their mirror images
    with pytest.raises(ValueError, match=r"expected the batches of data.folder, found list"):
        folder_latents([], encoder)


@pytest.mark.parametrize("size", [(12, 8), (8, 12), (7, 10), (8, 8)])
def test_a_map_is_cut_where_its_picture_is(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    values = np.zeros((height, width), np.uint8)
    values[: height // 2, : width // 2] = 1
    square = crop_map(values, 4)
    shown = np.asarray(Image.fromarray(values * 255).resize((4, 4), Image.Resampling.BOX, box=centre(width, height)))
    assert (np.abs(square * 255.0 - shown) <= 128).all()


def centre(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def test_odd_modes_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    picture(tmp_path / "a-clear.png", (255, 0, 0, 0), mode="RGBA")
    picture(tmp_path / "b-cmyk.jpg", (0, 255, 255, 0), mode="CMYK")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "c-deep.png")
    paletted = Image.new("P", (8, 8), 1)
    paletted.putpalette([0, 0, 0, 0, 255, 0])
    paletted.save(tmp_path / "d-palette.png")
    turned = Image.new("RGB", (8, 8), (255, 255, 255))
    turned.paste((0, 0, 0), (0, 0, 8, 4))  # black above; the camera lay on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "e-turned.jpg", exif=exif, quality=100)
    batches: Any = folder(path=tmp_path, size=8).batches
    files = [batches.folder.files[i].image.astype(int) for i in range(5)]
    assert (files[0] == 255).all()
    assert np.abs(files[1][0, 0] - np.array(RED)).max() < 12
    assert (files[2] == 255).all()
    assert (files[3] == np.array(GREEN)).all()
    assert files[4][:, 6:].max() < 40  # black is to the right
    assert files[4][:, :2].min() > 215


def test_links_to_files_count_as_files_and_links_to_folders_are_refused(classes: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    picture(elsewhere / "x.png", GREEN)
    (classes / "dogs" / "linked.png").symlink_to(elsewhere / "x.png")
    assert folder(path=classes).pictures == 6
    (classes / "birds").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"birds: a link to a folder is not followed"):
        folder(path=classes)


def test_a_missing_folder_or_picture_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder '.*nowhere'"):
        folder(path=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no picture: expected a folder for each class"):
        folder(path=tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match=r"is not laid out as classes: .*; found no picture at all"):
        folder(path=tmp_path, kind="classes")


def test_bad_class_folders_are_reported(classes: Path) -> None:
    (classes / "birds").mkdir()
    with pytest.raises(ValueError, match=r"the folder of class 'birds' holds no picture"):
        folder(path=classes)
    picture(classes / "birds" / "deep" / "a.png")
    with pytest.raises(ValueError, match=r"birds/deep: expected pictures in the folder of a class, found folders"):
        folder(path=classes)
    (classes / "birds" / "deep" / "a.png").rename(classes / "birds" / "a.png")
    (classes / "birds" / "deep").rmdir()
    picture(classes / "stray.png")
    with pytest.raises(ValueError, match=r"mixes layouts \(birds/, cats/, dogs/ and stray.png beside no table\)"):
        folder(path=classes)
    with pytest.raises(ValueError, match=r"stray.png beside the folders of classes have no class"):
        folder(path=classes, kind="classes")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"holds a single class, 'cats'"):
        folder(path=tmp_path, kind="classes")
    assert folder(path=tmp_path).pictures == 1  # a first stage needs no classes


def test_all_damaged_pictures_are_named_at_once(classes: Path) -> None:
    (classes / "cats" / "bad.png").write_bytes(b"no picture")
    jpeg = (classes / "dogs" / "0.JPG").read_bytes()
    (classes / "dogs" / "short.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (classes / "dogs" / "gone.png").symlink_to(classes / "nowhere.png")
    with pytest.raises(ValueError, match=r"cannot be used") as error:
        folder(path=classes)
    assert "cats/bad.png: is not a picture that Pillow can read" in str(error.value)
    assert "dogs/short.jpg: cannot be read as a picture" in str(error.value)
    assert "dogs/gone.png: there is no file" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption\nb.png,blue\n../c.png,x\n", r"csv:2: there is no file 'b.png'\n.*csv:3: '../c.png' names"),
        ("file,caption\na.png,\n", "csv:2: the caption of 'a.png' is empty"),
        ("file;caption\na.png;red\n", "csv:1: expected the header 'file,caption', found 'file;caption'"),
        ("", "csv:1: expected the header"),
        ("file,caption\na.png,red, square\n", "csv:2: expected 2 cells, found 3: put a caption with a comma"),
        ("file,caption\n", "names no picture"),
        (f"file,caption\na.png,red\n{'a red cat ' * 50},x\n", r"csv:3: there is no file 'a red cat .*"),
        (b"file,caption\na.png,caf\xe9\n", "is not UTF-8 .byte 22 is 0xe9."),
        ('file,caption\na.png,"open\n', "csv:2: unexpected end of data"),
    ],
)  # fmt: skip
def test_a_bad_table_is_reported_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    picture(tmp_path / "a.png")
    table(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        folder(path=tmp_path)


def test_a_folder_belongs_to_the_table_that_names_a_file_below_it(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "sub" / "b.png")
    picture(tmp_path / "cafe\u0301" / "c.png")
    table(tmp_path, "file,caption\n./d/sub/b.png,red\ncaf\u00e9/c.png,square\n")
    layout = find_layout(tmp_path, "auto")
    assert layout.kind == "captions"
    assert layout.pictures == ("d/sub/b.png", "cafe\u0301/c.png")


@pytest.mark.skipif(os.sep == "\\", reason="there a backslash separates folders")
def test_backslashes_in_a_table_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "b.png")
    table(tmp_path, "file,caption\nd\\b.png,red\n")
    with pytest.raises(ValueError, match=r"csv:2: there is no file 'd\\b\.png': write / for \\"):
        find_layout(tmp_path, "auto")


def test_a_table_finds_files_whose_accents_are_stored_otherwise(tmp_path: Path) -> None:
    picture(tmp_path / "u\u0308.png")
    picture(tmp_path / "o\u0308.png")
    picture(tmp_path / "\u00f6.png", GREEN)
    table(tmp_path, "file,caption\n\u00fc.png,one\nu\u0308.png,two\n\u00f6.png,three\no\u0308.png,four\n")
    layout = find_layout(tmp_path, "captions")
    assert layout.pictures == ("u\u0308.png", "\u00f6.png", "o\u0308.png")
    assert [row.picture for row in layout.rows] == [0, 0, 1, 2]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_classes_do_not_depend_on_the_unicode_form_of_their_names(tmp_path: Path, form: Form) -> None:
    for name in ("\u00e9l\u00e9phant", "zebra", "\ufb01sh"):
        picture(tmp_path / normalize(form, name) / normalize(form, "\u00fc.png"))
        picture(tmp_path / normalize(form, name) / "z.png")
    data = folder(path=tmp_path, size=4, batch=6)
    assert list(data.names) == ["zebra", "\u00e9l\u00e9phant", "\ufb01sh"]
    layout = find_layout(tmp_path, "classes")
    assert [normalize("NFC", path) for path in layout.pictures[2:4]] == [
        "\u00e9l\u00e9phant/z.png",
        "\u00e9l\u00e9phant/\u00fc.png",
    ]


def test_classes_whose_names_look_the_same_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "caf\u00e9" / "a.png")
    picture(tmp_path / "cafe\u0301" / "b.png")
    with pytest.raises(ValueError, match="caf\u00e9/: 2 folders have this name in different Unicode forms"):
        find_layout(tmp_path, "classes")


def test_a_map_belongs_to_the_picture_whose_name_looks_the_same(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "cafe\u0301.jpg")
    indices(tmp_path / "maps" / "caf\u00e9.png", np.zeros((8, 8), np.uint8))
    assert find_layout(tmp_path, "auto").maps == ("maps/caf\u00e9.png",)
    indices(tmp_path / "maps" / "cafe\u0301.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"maps/cafe\u0301\.png: caf\u00e9\.png has the same name"):
        find_layout(tmp_path, "auto")


def test_the_part_of_a_picture_does_not_depend_on_the_unicode_form_of_its_name() -> None:
    names = [f"cafe\u0301/u\u0308{i}.png" for i in range(60)]
    held_out = [name for name in names if is_in_subset(name, "held_out")]
    assert held_out == [name for name in names if is_in_subset(normalize("NFC", name), "held_out")] != []


def test_two_tables_and_unnamed_class_folders_mix_layouts(captions: Path) -> None:
    picture(captions / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"mixes layouts \(captions.csv and cats/\)"):
        folder(path=captions)
    assert folder(path=captions, kind="captions").pictures == 2
    (captions / "metadata.csv").write_text("file_name,text\na.png,red\n")
    with pytest.raises(ValueError, match=r"holds captions.csv and metadata.csv: keep one of them"):
        folder(path=captions)
    (captions / "captions.csv").unlink()
    assert list(folder(path=captions, kind="captions").words) == ["red"]


def test_mismatched_maps_are_named(maps: Path) -> None:
    picture(maps / "images" / "3.png")
    indices(maps / "maps" / "4.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"images/3.png: there is no maps/3.png\n.*maps/4.png: there is no picture"):
        folder(path=maps)
    (maps / "maps" / "4.png").unlink()
    indices(maps / "maps" / "3.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(ValueError, match=r"maps/3.png: the map has 9 × 8 pixels, and images/3.png has 8 × 8"):
        folder(path=maps)
    picture(maps / "maps" / "3.png")
    with pytest.raises(ValueError, match=r"maps/3.png: .*expected the index of a class .* found mode RGB"):
        folder(path=maps)
    indices(maps / "maps" / "3.png", np.full((8, 8), 9, np.uint8))
    with pytest.raises(ValueError, match=r"hold the classes 0, 1, 9, but not 2, 3, 4, 5, 6, 7, 8"):
        folder(path=maps)
    with pytest.raises(ValueError, match=r"maps/3.png: the class at row 0, column 0 is 9; classes are 0 to 4"):
        folder(path=maps, map_classes=5)
    picture(maps / "images" / "3.jpg")
    with pytest.raises(ValueError, match=r"several pictures are called '3'"):
        folder(path=maps)


def test_the_work_of_listing_maps_grows_with_their_number(tmp_path: Path) -> None:
    def list_maps(count: int) -> None:
        message = rf"several pictures are called '5'.*\n.*images/{count}.png: there is no maps"
        with pytest.raises(ValueError, match=message):
            find_layout(tmp_path / str(count), "auto")

    for count in (200, 400):
        for part, last in (("images", count + 1), ("maps", count)):
            (tmp_path / str(count) / part).mkdir(parents=True)
            for i in range(last):
                (tmp_path / str(count) / part / f"{i}.png").touch()
        (tmp_path / str(count) / "images" / "5.jpg").touch()
    assert growth(list_maps, 200) < 2.3


def test_maps_of_one_class_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    indices(tmp_path / "maps" / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"the maps hold a single class, 0"):
        folder(path=tmp_path)


def test_labels_are_given_by_name() -> None:
    assert labels_by_name(["a", "b", "c"], batch=5).tolist() == [0, 1, 2, 0, 1]
    assert labels_by_name(["a", "b", "c"], label="b", batch=2).tolist() == [1, 1]
    assert labels_by_name(["a", "b", "c"], label=["c", "a"], batch=2).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"there is no class 'cat'; did you mean 'cats'"):
        labels_by_name(["cats", "dogs"], label="cat")
    with pytest.raises(ValueError, match=r"1 labels do not make a batch of 2"):
        labels_by_name(["a"], label=["a"], batch=2)
    with pytest.raises(ValueError, match=r"there are no names of classes"):
        labels_by_name([])


def test_prompts_are_given_or_captions_in_turn() -> None:
    assert list(prompts_of_batch(["a", "b"], batch=3)) == ["a", "b", "a"]
    assert list(prompts_of_batch([], prompt="x", batch=2)) == ["x", "x"]
    assert list(prompts_of_batch(["a"], prompt=["x", "y"], batch=2)) == ["x", "y"]
    with pytest.raises(ValueError, match=r"1 prompts do not make a batch of 2"):
        prompts_of_batch(["a"], prompt=["x"], batch=2)
    with pytest.raises(ValueError, match=r"there is no prompt and no caption"):
        prompts_of_batch([])


def test_every_class_has_a_distinct_hue() -> None:
    semantic = torch.eye(9).reshape(1, 9, 9, 1)
    colours = hues_of_map(semantic)[0, :, :, 0].T
    assert colours.shape == (9, 3)
    assert float(torch.pdist(colours).min()) > 0.1
    assert -1 <= float(colours.min()) <= float(colours.max()) <= 1


def test_a_tenth_is_held_out_by_name(tmp_path: Path) -> None:
    for i in range(60):
        picture(tmp_path / ("cats" if i % 2 else "dogs") / f"{i}.png", (i, 0, 0))

    def reds(part: Any, count: int = 60) -> set[int]:
        image = folder_sample(path=tmp_path, size=8, count=count, part=part).image
        return {round(float(red + 1) * 127.5) for red in image[:, 0, 0, 0]}

    train, held_out = reds("train"), reds("held_out")
    assert train | held_out == reds("all") == set(range(60))
    assert not train & held_out
    assert 1 <= len(held_out) <= 15
    data = folder(path=tmp_path, size=8, batch=4, count=30, flip=False, part="train")
    assert data.pictures == len(train)
    assert list(data.names) == ["cats", "dogs"]
    seen = {round(float(red + 1) * 127.5) for batch in data.batches for red in batch.image[:, 0, 0, 0]}
    assert seen == train
    for i in range(60, 80):
        picture(tmp_path / "cats" / f"{i}.png", (i, 0, 0))
    assert reds("held_out", 80) & set(range(60)) == held_out


def test_all_captions_of_a_picture_are_in_one_split(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / f"{i}.png", (i, 0, 0))
    table(tmp_path, "file,caption\n" + "".join(f"{i}.png,a{k} {i}\n" for k in range(2) for i in range(40)))
    parts: list[set[str]] = [
        set(folder(path=tmp_path, size=8, batch=80, part=part).batches[0].caption) for part in ("train", "held_out")
    ]
    train, held_out = ({caption.split()[1] for caption in captions} for captions in parts)
    assert held_out
    assert not train & held_out
    assert sum(map(len, parts)) == 80


def test_an_empty_split_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    assert folder(path=tmp_path, part="train").pictures == 1
    with pytest.raises(ValueError, match=r"no picture of '.*' is in the part 'held_out'"):
        folder(path=tmp_path, part="held_out")
