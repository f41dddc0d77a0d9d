"""The pages of shipped workflows draw the engine's pictures, also from a reader's pictures, masks, maps and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guidegraph import load_workflow
from guidegraph_runtime import pixels
from plugins.browser.tests.export.test_page_browser import draw, open_page, saved_pictures, wait_for_status
from tests.browser import NEEDS_BROWSER, Browser
from tests.commands.command import ROOT

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]

EXAMPLES = ROOT / "workflows" / "data" / "examples"
TABLES = (
    "[...document.querySelectorAll('table')].map(table => [...table.rows].map(row => "
    "[...row.cells].map(cell => cell.textContent)))"
)
RUNS: dict[str, list[dict[str, Any]]] = {
    "text_to_image_128": [
        {},
        {
            "prompt": "two [UNK] tigers and a house at night",
            "negative": "snow",
            "scale": 4.5,
            "low": 0.0,
            "steps": 6,
            "seed": 2**64 - 2,
            "batch": 2,
        },
    ],
    "layout_to_image_128": [
        {
            "prompt": "a castle and a cat at night",
            "objects": ["the purple castle", "a cat", "grey puppy"],
            "boxes": [[0.1, 0.2, 0.5, 0.8], [0.55, 0.6, 0.8, 0.85], [0.0, 0.7, 0.2, 1]],
            "steps": 5,
            "seed": 9,
        }
    ],
    "inpaint_128": [
        {"steps": 3},
        {"steps": 4, "image": "alpha.png", "mask": "mask.png", "objects": ["a red car", "dog"], "batch": 2},
        {"steps": 4, "image": "photo.jpg", "mask": "mask.png", "objects": ["a tiger"], "batch": 1},
        {"steps": 4, "image": "turned.jpg", "mask": "mask.png", "objects": []},
    ],
    "semantic_to_image_128": [{"steps": 4, "map": "map.png", "prompt": "a red car"}],
    "image_to_image_128": [{"steps": 4}, {"steps": 9, "strength": 0.55, "seed": 5, "scale": 2.0, "low": 0.0}],
    "super_resolution_128": [{}, {"steps": 9, "seed": 5, "image": "photo.jpg"}],
    "text_and_classifier_128": [{"steps": 5, "sky": 2, "sky_scale": 3.0}],
    "layout_128": [{}, {"seed": 9, "prompt": "three cats and a blue house", "batch": 2}],
    "inpaint": [{"steps": 4, "image": "alpha.png", "mask": "mask.png"}],
    "semantic_to_image": [{"steps": 4, "scale": 3.0}],
    "image_to_image": [{"steps": 9, "strength": 0.3, "image": "photo.jpg"}],
    "text_and_classifier": [{"steps": 5, "sky": 2, "batch": 2}],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of other sizes and kinds than the examples."""
    folder = tmp_path_factory.mktemp("pictures")
    scene = Image.open(EXAMPLES / "scene_128.png").convert("RGB")
    scene.resize((300, 200)).save(folder / "photo.jpg", quality=90)
    exif = scene.getexif()
    exif[0x0112] = 6
    scene.resize((200, 300)).save(folder / "turned.jpg", quality=90, exif=exif)
    clear = scene.resize((200, 340))
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 200 * 340).reshape(340, 200).astype(np.uint8)))
    clear.save(folder / "alpha.png")
    with Image.open(EXAMPLES / "mask_128.png") as mask:
        mask.convert("L").rotate(90).resize((256, 256)).save(folder / "mask.png")
    with Image.open(EXAMPLES / "map_128.png") as indices:
        coloured = Image.fromarray(np.asarray(indices)).convert("P")
        coloured.frombytes(indices.tobytes())
        coloured.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        coloured.resize((200, 150), Image.Resampling.NEAREST).save(folder / "map.png")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_shipped_workflow_draws_in_the_browser_with_all_its_inputs(
    name: str, tmp_path: Path, pictures: Path, pytestconfig: pytest.Config
) -> None:
    workflow = load_workflow(ROOT / "workflows" / f"{name}.yaml")
    with open_page(ROOT / "workflows" / f"{name}.yaml", tmp_path, pytestconfig) as page:
        for run in RUNS[name]:
            values = {key: pictures / value if key in ("image", "mask", "map") else value for key, value in run.items()}
            draw(page, **values)
            wait_for_status(page, "drawn in")
            compare_outputs(page, workflow.run(**values))
        assert [message for message in page.read_console() if "SEVERE" in message] == []


def compare_outputs(page: Browser, expected: Any) -> None:
    """Compare what the page shows with the outputs of the engine, in their order."""
    shown, tables = saved_pictures(page), page.evaluate(TABLES)
    images = [image for value in expected.values() if hasattr(value, "shape") for image in value.numpy()]
    assert len(shown) == len(images)
    for picture, image in zip(shown, images, strict=True):
        assert picture.shape == pixels(image).shape
        assert np.abs(picture - pixels(image)).max() <= 2
    columns = [value for value in expected.values() if not hasattr(value, "shape")]
    assert len(tables) == len(columns)
    for (header, *rows), table in zip(tables, columns, strict=True):
        assert header == [*table]
        cells = [
            ["" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in zip(*table.values(), strict=True)
        ]
        assert rows == cells


def test_a_box_of_a_layout_is_dragged(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    with open_page(ROOT / "workflows" / "layout_to_image_128.yaml", tmp_path, pytestconfig) as page:
        page.driver.execute_script("document.querySelector('.layout').scrollIntoView({block: 'center'})")
        box, corner = (page.driver.find_element("css selector", selector) for selector in (".box", ".box .corner"))
        ActionChains(page.driver).drag_and_drop_by_offset(box, 32, -64).drag_and_drop_by_offset(
            corner, 16, 16
        ).perform()
        lines = str(page.evaluate("document.getElementById('input-boxes').value")).splitlines()
        first = [float(edge) for edge in lines[0].split(", ")]
        assert np.allclose(first, [0.05 + 32 / 254, 0.55 - 64 / 254, 0.5 + 48 / 254, 0.8 - 48 / 254], atol=0.01)
        assert lines[1] == "0.6, 0.55, 0.85, 0.9"
        page.driver.execute_script(
            "const field = document.getElementById('input-objects'); field.value += '\\na cat';"
            "field.dispatchEvent(new Event('change'))"
        )
        assert str(page.evaluate("document.getElementById('input-boxes').value")).splitlines()[2:] == [
            "0.3, 0.4, 0.7, 0.8"
        ]
