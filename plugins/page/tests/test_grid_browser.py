"""The page in a real browser: a grid over two parameters is run, and one of its cells is opened."""

from __future__ import annotations

import pytest

from plugins.page.tests.conftest import Server, click_text, type_into, wait
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

CHOOSE = """(() => {{ const field = document.querySelector('[aria-label="Parameter {}"]'); field.value = '{}';
    field.dispatchEvent(new Event('change', {{bubbles: true}})); return true; }})()"""
SUBMIT = "document.querySelector('.grid-form button').click()"


def test_a_grid_is_chosen_run_and_opened(page: Browser, server: Server) -> None:
    page.evaluate("document.querySelector('.grid-form summary').click()")
    page.evaluate(CHOOSE.format("across", "seed"))
    page.evaluate(CHOOSE.format("down", "count"))
    type_into(page, '[aria-label="Values across"]', "1:4")
    type_into(page, '[aria-label="Values down"]', "2,x")
    page.evaluate(SUBMIT)
    assert "valid integer" in wait(page, "document.querySelector('.grid-form .problem')?.textContent")
    type_into(page, '[aria-label="Values down"]', "2,5")
    page.evaluate(SUBMIT)
    wait(page, "document.querySelectorAll('.grid .cell img').length === 6")
    headers = page.evaluate("[...document.querySelectorAll('.grid th')].map(e => e.textContent)")
    assert headers == ["seed", "count", "1", "2", "3", "2", "5"]
    page.evaluate("""document.querySelector('.cell[title="seed 2, count 5"]').click()""")
    text = wait(page, "document.querySelector('[aria-label=\"Run of the cell\"]')?.textContent")
    assert text.startswith("seed 2, count 5")
    assert "seed2" in text
    assert "count5" in text
    page.evaluate("document.querySelector('[aria-label=\"Run of the cell\"] > button').click()")
    wait(page, "document.getElementById('param-seed')?.value === '2'")
    assert page.evaluate("document.getElementById('param-count').value") == "5"
    click_text(page, ".tabs button", "Runs")
    folder = wait(page, "document.querySelector('select[aria-label=Grid] option:last-child')?.value")
    assert folder.endswith("-draw-sweep")
    page.evaluate(
        "(() => { const field = document.querySelector('select[aria-label=Grid]'); field.selectedIndex = 1;"
        "field.dispatchEvent(new Event('change', {bubbles: true})); return true; })()"
    )
    wait(page, "document.querySelectorAll('.panel .grid .cell img').length === 6")


def test_the_values_of_a_grid_stay_while_another_panel_is_shown(page: Browser) -> None:
    page.evaluate("document.querySelector('.grid-form summary').click()")
    page.evaluate(CHOOSE.format("across", "seed"))
    type_into(page, '[aria-label="Values across"]', "1:4")
    click_text(page, ".tabs button", "Add")
    wait(page, "!document.querySelector('.grid-form')")
    click_text(page, ".tabs button", "Run")
    wait(page, "document.querySelector('.grid-form')?.open")
    assert page.evaluate("document.querySelector('[aria-label=\"Parameter across\"]').value") == "seed"
    assert page.evaluate("document.querySelector('[aria-label=\"Values across\"]').value") == "1:4"
