"""axe-core finds nothing serious in the page: https://github.com/dequelabs/axe-core."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from plugins.page.tests.conftest import CLICK, DRAW, NODE, SETTLED, Server, run_workflow, type_into, wait
from plugins.page.tests.test_drop_browser import DROP
from plugins.page.tests.test_grid_browser import CHOOSE, SUBMIT
from plugins.page.tests.test_page_browser import WIDE
from plugins.page.tests.test_stopping_browser import BUTTON
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

AXE = gzip.decompress((Path(__file__).parent / "vendor" / "axe.min.js.gz").read_bytes()).decode()
RUN = """
const done = arguments[0];
axe.run(document).then(({violations}) => done(violations.map(
    ({id, impact, nodes}) => ({id, impact, count: nodes.length, first: nodes[0].html.slice(0, 200)}))));
"""
SHOW = "[...document.querySelectorAll('.panes button')].find(b => b.textContent === '{}').click()"


def find_violations(page: Browser) -> list[dict[str, Any]]:
    """What axe finds in the page as it is, of any impact."""
    page.driver.execute_script(AXE)
    violations: list[dict[str, Any]] = page.driver.execute_async_script(RUN)
    return violations


def test_axe_finds_a_mistake(page: Browser) -> None:
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert [violation["id"] for violation in find_violations(page)] == ["button-name"]


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_in_any_pane(page: Browser, server: Server, width: int, dark: bool) -> None:
    page.set_screen(width, dark)
    wait(page, f"innerWidth === {width}")
    page.evaluate(CLICK.format("nodes.start"))
    for pane in ("Graph", "Text", "Run", "Node", "Add", "Runs"):
        page.evaluate(SHOW.format(pane))
        if pane == "Add":
            wait(page, "document.querySelector('.nodes button')")
        wait(page, SETTLED)
        assert find_violations(page) == [], pane


def test_axe_finds_nothing_in_a_wire_a_form_a_menu_and_an_error(page: Browser, server: Server) -> None:
    page.evaluate(CLICK.format("nodes.sum.body.next"))
    wait(page, "document.querySelector('[aria-label=\"Show the wire of x\"]')")
    page.evaluate("document.querySelector('[aria-label=\"Show the wire of x\"]').click()")
    wait(page, "document.querySelector('.wire-panel')")
    assert find_violations(page) == []
    page.evaluate(SHOW.format("Add"))
    wait(page, "document.querySelector('.nodes button')")
    page.evaluate("document.querySelector('.nodes button').click()")
    wait(page, "document.querySelector('.draft')")
    assert find_violations(page) == []
    server.write(DRAW.replace("value: 1.5", "value: many"))
    wait(page, "document.querySelector('.problems')")
    page.evaluate(SHOW.format("Run"))
    assert find_violations(page) == []
    wait(page, NODE.format("nodes.start") + ".classList.contains('wrong')")


def test_placeholders_have_the_contrast_of_their_colour(page: Browser) -> None:
    page.evaluate(SHOW.format("Add"))
    wait(page, "document.getElementById('palette-text')")
    assert page.evaluate("getComputedStyle(document.getElementById('palette-text'), '::placeholder').opacity") == "1"


def check_looks(page: Browser, name: str) -> None:
    """Nothing is wider than the page at any width, and axe finds nothing on a dark phone and on a wide screen."""
    for width in (400, 1000, 1600):
        for dark in (False, True):
            page.set_screen(width, dark)
            wait(page, f"innerWidth === {width}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(WIDE) == []
            if (width, dark) in ((400, True), (1600, False)):
                assert find_violations(page) == []
            if shots := os.environ.get("GUIDEGRAPH_SCREENSHOTS"):
                Path(shots).mkdir(parents=True, exist_ok=True)
                page.save_screenshot(Path(shots) / f"{name}-{width}-{'dark' if dark else 'light'}.png")
    page.set_screen(1600)
    wait(page, "innerWidth === 1600")


def test_a_grid_a_stopped_run_and_a_dropped_picture_fit_and_axe_finds_nothing(page: Browser, server: Server) -> None:
    page.evaluate(SHOW.format("Run"))
    page.evaluate("document.querySelector('.grid-form summary').click()")
    page.evaluate(CHOOSE.format("across", "seed"))
    page.evaluate(CHOOSE.format("down", "count"))
    type_into(page, '[aria-label="Values across"]', "1:7")
    type_into(page, '[aria-label="Values down"]', "2,5")
    page.evaluate(SUBMIT)
    wait(page, "document.querySelectorAll('.grid .cell img').length === 12")
    page.evaluate("document.querySelector('.grid .cell').click()")
    wait(page, "document.querySelector('[aria-label=\"Run of the cell\"]')")
    check_looks(page, "grid")
    page.evaluate(SHOW.format("Runs"))
    wait(page, "document.querySelector('.opener')")
    assert find_violations(page) == []
    page.evaluate(SHOW.format("Run"))
    type_into(page, "#param-count", "100000")
    type_into(page, "#param-seconds", "0.05")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, BUTTON.format("Stop after this step"))
    assert find_violations(page) == []
    page.evaluate(BUTTON.format("Stop after this step") + ".click()")
    wait(page, "document.querySelector('.job .status.stopped')")
    check_looks(page, "stopped")
    type_into(page, "#param-count", "3")
    type_into(page, "#param-seconds", "0")
    run_workflow(page)
    page.evaluate(DROP.format("content"))
    wait(page, "document.querySelector('.note-box')?.textContent.includes('came in a picture')")
    page.evaluate(SHOW.format("Run"))
    check_looks(page, "dropped")
