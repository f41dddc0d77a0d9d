"""The page of the shipped text-to-image workflow draws the engine's pictures in a browser, with no server's help."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guidegraph import load_workflow
from guidegraph_runtime import pixels
from tests.browser import NEEDS_BROWSER, Browser, browser
from tests.commands.command import ROOT, process
from tests.nodejs import install_packages
from tests.static_server import serve_files

pytestmark = [NEEDS_BROWSER, pytest.mark.slow]

NPM = Path(__file__).with_name("npm")
WORKFLOW = ROOT / "workflows" / "text_to_image.yaml"
SECONDS = 120
RUNS: list[dict[str, Any]] = [
    {"prompt": "a cactus on sand under a blue sky", "seed": 7, "steps": 10, "scale": 4.0},
    {"prompt": "a sailboat on water at sunset", "seed": 2**64 - 1, "steps": 6, "scale": 7.5},
    {"prompt": "an elephant and a Pine tree on snow", "seed": 1234567890123, "steps": 13, "scale": 1.0},
]
STATUS = "document.getElementById('status').textContent"
SAVED = "[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL('image/png').split(',')[1])"
WATCH = """
window.ticks = 0; window.statuses = new Set(); window.previews = new Set();
clearInterval(window.watch);
window.watch = setInterval(() => { window.ticks++; }, 20);
window.watcher?.disconnect();
window.watcher = new MutationObserver(() => {
  window.statuses.add(document.getElementById('status').textContent);
  const canvas = document.querySelector('canvas');
  if (canvas) window.previews.add(canvas.toDataURL());
});
watcher.observe(document.querySelector('main'), {childList: true, subtree: true, characterData: true});
"""


@contextmanager
def open_page(workflow: Path, folder: Path, config: pytest.Config) -> Iterator[Browser]:
    """A browser with the page of a workflow, exported to a folder, as soon as it is ready."""
    package = install_packages(config, NPM) / "node_modules" / "onnxruntime-web"
    options = ("--page", "--onnxruntime-web", package, "--no-reference", "--no-plugins")
    result = process(["export", workflow, "-o", "site", *options], folder, timeout=600)
    assert result.returncode == 0, result.stderr
    with serve_files(folder / "site") as site, browser(folder / "profile") as opened:
        opened.driver.get(f"{site}/")
        wait_for_status(opened, "ready")
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Browser]:
    with open_page(WORKFLOW, tmp_path_factory.mktemp("page"), pytestconfig) as opened:
        yield opened


def wait_for_status(page: Browser, *starts: str) -> str:
    """The page's status, as soon as it begins with one of some texts."""
    from selenium.webdriver.support.wait import WebDriverWait

    def read_status(_: Any) -> str | None:
        status = str(page.evaluate(STATUS))
        return status if status.startswith(starts) else None

    status = WebDriverWait(page.driver, SECONDS, poll_frequency=0.02).until(read_status)
    assert status is not None
    return status


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def draw(page: Browser, **values: Any) -> None:
    """Fill in the form and press the button. A file is chosen; a list has its entries on lines of their own."""
    for name, value in values.items():
        if isinstance(value, Path):
            page.driver.find_element("id", f"input-{name}").send_keys(str(value))
            continue
        lines = [", ".join(map(str, item)) if isinstance(item, list) else str(item) for item in as_list(value)]
        script = "document.getElementById('input-' + arguments[0]).value = arguments[1]"
        page.driver.execute_script(script, name, "\n".join(lines))
    page.driver.find_element("id", "draw").click()


def saved_pictures(page: Browser) -> list[np.ndarray[Any, Any]]:
    """The pictures on the page as the PNGs that a reader saves, (H, W, 3)."""
    files = [io.BytesIO(base64.b64decode(text)) for text in page.evaluate(SAVED)]
    return [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]


@pytest.mark.parametrize("values", RUNS, ids=lambda values: str(values["seed"]))
def test_the_page_draws_the_engine_s_picture(page: Browser, values: dict[str, Any]) -> None:
    page.driver.execute_script(WATCH)
    draw(page, **values, batch=1)
    wait_for_status(page, "drawn in")
    (picture,) = saved_pictures(page)
    image = load_workflow(WORKFLOW).run(**values)["image"][0].numpy()
    assert np.abs(picture - pixels(image)).max() <= 2
    # It shows each step and a preview, and the page itself goes on meanwhile.
    steps = values["steps"]
    seen = page.evaluate("[window.ticks, [...window.statuses], window.previews.size]")
    assert seen[0] >= steps
    assert any(status.startswith(f"step {steps // 2} of {steps}, ") for status in seen[1])
    assert seen[2] >= 2


def test_a_batch_has_the_pictures_of_its_seeds(page: Browser) -> None:
    values = {"prompt": "a tiger on grass", "seed": 3, "steps": 3, "scale": 3.0, "batch": 2}
    draw(page, **values)
    wait_for_status(page, "drawn in")
    pictures = saved_pictures(page)
    images = load_workflow(WORKFLOW).run(**values)["image"].numpy()
    assert len(pictures) == 2
    for picture, image in zip(pictures, images, strict=True):
        assert np.abs(picture - pixels(image)).max() <= 2


def test_unknown_words_are_named_with_the_words_that_they_may_be(page: Browser) -> None:
    draw(page, prompt="a tigger on grass", seed=1, steps=1, batch=1)
    wait_for_status(page, "drawn in")
    note = str(page.evaluate("document.getElementById('note').textContent"))
    assert note.startswith(
        "words this model was not trained on: 'tigger' (did you mean 'tiger'?); it knows: a, an, and"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 101}, "steps: this page holds the tables of 1 to 100, found 101"),
        ({"steps": "many"}, "steps: expected an integer, found ''"),  # the field of a number has no such text
        ({"scale": "much"}, "scale: expected a number, found 'much'"),
        ({"seed": -1}, "noise (noise.gaussian): seed: expected at least 0, found -1"),
        ({"batch": 0}, "noise (noise.gaussian): batch: expected at least 1, found 0"),
    ],
)
def test_values_that_do_not_fit_are_explained(page: Browser, values: dict[str, Any], message: str) -> None:
    page.driver.execute_script("document.getElementById('form').noValidate = true")  # else the browser says it itself
    draw(page, **{"prompt": "a tiger", "seed": 1, "steps": 2, "scale": 2.0, "batch": 1, **values})
    assert wait_for_status(page, message) == message
    assert page.evaluate("document.getElementById('status').className") == "failed"


def test_a_run_can_be_stopped_and_the_next_one_draws(page: Browser) -> None:
    draw(page, prompt="a tiger", seed=1, steps=100, scale=2.0, batch=1)
    wait_for_status(page, "step ")
    page.driver.find_element("id", "stop").click()
    assert wait_for_status(page, "stopped", "drawn") == "stopped"
    draw(page, steps=2)
    wait_for_status(page, "drawn in")


def test_the_page_asks_nobody_but_the_server_of_its_files(page: Browser) -> None:
    names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    origin = page.evaluate("location.origin")
    assert names
    assert [name for name in names if not name.startswith((origin, "data:", "blob:"))] == []
    assert [message for message in page.read_console() if "SEVERE" in message or "Refused" in message] == []
    about = str(page.evaluate("document.getElementById('about').textContent"))
    assert about.startswith("onnxruntime-web 1.30.0 (MIT), 1 thread; bundle ")
    assert "not checked" not in about
