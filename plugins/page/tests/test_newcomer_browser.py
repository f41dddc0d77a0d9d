"""A newcomer's path through the page: change the prompt, run, swap the sampler, add a node by dragging, compare, save.

``GUIDEGRAPH_PICTURES=docs/pictures`` saves the pictures of docs/do/page.md.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import PluginManager
from guidegraph_runtime.run_json import RECORD, read_record
from plugins.page.tests.conftest import CLICK, NODE, Server, click_text, serve_folder, type_into, wait
from plugins.page.tests.test_wiring_browser import drop, press_and_move
from tests.browser import NEEDS_BROWSER, Browser
from tests.paths import ROOT

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

NAME = "text_to_image.yaml"
BEFORE = (ROOT / "workflows" / NAME).read_text()
WIRE = '.wire[data-path="nodes.sample.body.step.in.prediction"]'
DIFF = """\
-    default: "a tiger on grass under a night sky"
+    default: "a cactus on sand under a night sky"
-  scheduler: {use: scheduler.ddim, in: {schedule: model.schedule, steps: params.steps}}
+  scheduler: {use: scheduler.dpmpp_2m, in: {schedule: model.schedule, steps: params.steps}}
+      rescale: {use: guidance.rescale, in: {guided: guided, cond: cond}}
-        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: guided, LAST}
+        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: rescale, LAST}
""".replace("LAST", "noise: fresh, state: carry.state, t: loop.t")
COLOURS = 48
LONG = "100"
"""Steps of a run of several seconds, of which the page draws progress and a preview."""
LONGER = "250"
"""Steps of a run that a busy browser still finds running when it presses a button."""
PICTURES = os.environ.get("GUIDEGRAPH_PICTURES", "")
# What the page shows while a run goes on: a driver that is slower than the run would miss it.
WATCH = """
window.watched = {progress: 0, preview: 0};
window.watcher?.disconnect();
window.watcher = new MutationObserver(() => {
    watched.progress = Math.max(watched.progress, document.querySelector('.job progress')?.value ?? 0);
    const preview = document.querySelector('.job img[alt="Preview of the current run"]');
    const measure = () => { watched.preview = Math.max(watched.preview, preview.naturalWidth); };
    preview?.addEventListener('load', measure);
    if (preview) measure();
});
watcher.observe(document.body, {childList: true, subtree: true, attributes: true});
"""
STOP = """
window.watcher = new MutationObserver(() => {
    const progress = document.querySelector('.job .status.running') && document.querySelector('.job progress');
    if (!(progress?.value >= 12)) return;
    const stop = [...document.querySelectorAll('.actions button')].find(e => e.textContent === 'Stop after this step');
    if (!stop) return;
    watcher.disconnect();
    stop.click();
});
watcher.observe(document.body, {childList: true, subtree: true, attributes: true});
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    (folder / NAME).write_text(BEFORE)
    yield from serve_folder(folder)


def take_picture(page: Browser, name: str) -> None:
    """Save a picture for the docs if they are asked for."""
    from PIL import Image

    if not PICTURES:
        return
    picture = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    picture = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(Path(PICTURES) / f"{name}.png", optimize=True)


def run(page: Browser, number: int) -> None:
    """Press Run, watch, and wait for the picture."""
    page.driver.execute_script(WATCH)
    page.evaluate("document.querySelector('button.primary').click()")
    if number == 1 and PICTURES:
        wait(page, "window.watched.preview > 0")
        take_picture(page, "first-page-1-watch")
    wait(page, f"document.querySelector('.job[aria-label=\"Run {number}\"] .status.done')")
    wait(page, "document.querySelector('.job img[alt=\"Output image\"]')?.naturalWidth > 0")
    watched = page.evaluate("window.watched")
    assert watched["progress"] > 0
    assert watched["preview"] > 0


def test_a_newcomer_changes_runs_swaps_adds_compares_and_saves(chromium: Browser, studio: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    page = chromium
    page.set_screen(1280)
    page.driver.get(studio.address)
    wait(page, NODE.format("nodes.image"))

    type_into(page, "#param-prompt", "a cactus on sand under a night sky")
    type_into(page, "#param-steps", LONG)
    run(page, 1)
    assert (studio.folder / NAME).read_text() == BEFORE  # a run changes nothing

    page.evaluate(CLICK.format("nodes.scheduler"))
    wait(page, "document.getElementById('use')")
    Select(page.driver.find_element(By.ID, "use")).select_by_value("scheduler.dpmpp_2m")
    wait(page, "document.querySelector('.lines').textContent.includes('scheduler.dpmpp_2m')")
    take_picture(page, "first-page-2-swap")

    click_text(page, ".tabs button", "Add")
    wait(page, "document.getElementById('palette-text')")
    page.driver.find_element(By.ID, "palette-text").send_keys("rescale")
    wait(page, "document.querySelector('.nodes b')?.textContent === 'guidance.rescale'")
    press_and_move(page, ".nodes button", WIRE)
    wait(page, f"document.querySelector('{WIRE}.fits')")
    take_picture(page, "first-page-3-drag")
    drop(page)
    wait(page, NODE.format("nodes.sample.body.rescale"))

    click_text(page, ".tabs button", "Run")
    wait(page, "document.querySelector('button.primary')")
    run(page, 2)

    click_text(page, ".tabs button", "Runs")
    wait(page, "document.querySelectorAll('.runs input').length === 2")
    for index in (0, 1):
        page.evaluate(f"document.querySelectorAll('.runs input')[{index}].click()")
    wait(page, "document.querySelectorAll('.comparison img').length === 2")
    wait(page, "[...document.querySelectorAll('.comparison img')].every(image => image.naturalWidth)")
    assert "The parameters are the same" in page.evaluate("document.querySelector('.comparison').textContent")
    lines = wait(page, "document.querySelector('.difference')?.textContent")
    assert "-  scheduler: {use: scheduler.ddim" in lines
    assert "+      rescale: {use: guidance.rescale, in: {guided: guided, cond: cond}}" in lines
    take_picture(page, "first-page-4-compare")

    click_text(page, ".tabs button", "Run")
    wait(page, "document.getElementById('param-prompt')")
    click_text(page, ".changed button", "save as default")
    wait(page, "document.querySelector('.lines').textContent.includes('a cactus on sand')")

    after = (studio.folder / NAME).read_text()
    changed = difflib.unified_diff(BEFORE.splitlines(), after.splitlines(), n=0, lineterm="")
    assert "".join(f"{line}\n" for line in changed if not line.startswith(("---", "+++", "@@"))) == DIFF
    build(studio.folder / NAME, PluginManager((), entry_points=False).registry)


def test_a_run_is_stopped_amid_sampling_looked_at_changed_and_goes_on(chromium: Browser, studio: Server) -> None:
    (studio.folder / NAME).write_text(BEFORE)
    page = chromium
    page.set_screen(1280)
    page.driver.get("about:blank")
    page.driver.get(studio.address)
    wait(page, NODE.format("nodes.image"))
    page.evaluate(CLICK.format("nodes.sample.body.guided"))
    wait(page, "document.querySelector('.line.chosen')")
    click_text(page, ".tabs button", "Run")
    wait(page, "document.querySelector('button.primary')")
    type_into(page, "#param-steps", LONGER)
    page.driver.execute_script(STOP)
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, "document.querySelector('.job .status.stopped')")
    wait(page, "document.querySelector('.job img')?.naturalWidth > 0")  # x̂0 of the step
    step = int(page.evaluate("document.querySelector('.job progress').value"))
    assert 12 <= step < int(LONGER)
    page.evaluate("document.querySelector('.panel').scrollTo(0, 1e5)")
    take_picture(page, "page")

    type_into(page, "#param-scale", "1.5")
    click_text(page, ".actions button", f"Go on from step {step}")
    wait(page, "document.querySelector('.job .status.done')")
    wait(page, "document.querySelector('.job img[alt=\"Output image\"]')?.naturalWidth > 0")
    stopped, ended = sorted((studio.folder / "runs").iterdir())[-2:]
    assert (read_record(stopped / RECORD) or {})["status"] == "stopped"
    record = read_record(ended / RECORD) or {}
    assert (record["parameters"]["scale"], record["resumed"]["done"]) == (1.5, step)


def test_a_choice_that_is_taken_back_at_once_is_taken_back_in_the_file(chromium: Browser, studio: Server) -> None:
    (studio.folder / NAME).write_text(BEFORE)
    page = chromium
    page.set_screen(1280)
    page.driver.get("about:blank")
    page.driver.get(studio.address)
    wait(page, NODE.format("nodes.scheduler"))
    page.evaluate(CLICK.format("nodes.scheduler"))
    wait(page, "document.getElementById('use')")
    page.evaluate(
        """(() => {
             const use = document.getElementById('use');
             for (const value of ['scheduler.dpmpp_2m', 'scheduler.ddim']) {
               use.value = value;
               use.dispatchEvent(new Event('change', {bubbles: true}));
             }
           })()"""
    )
    type_into(page, "[id='nodes.scheduler-steps']", "params.seed")
    wait(page, "document.querySelector('.lines').textContent.includes('steps: params.seed')")
    assert (studio.folder / NAME).read_text() == BEFORE.replace(
        "{schedule: model.schedule, steps: params.steps}", "{schedule: model.schedule, steps: params.seed}"
    )
