"""The page in a real browser: a run is stopped after a step, looked at, changed, and goes on."""

from __future__ import annotations

import json

import pytest

from tests.browser import NEEDS_BROWSER, Browser
from tests.page.conftest import Server, click_text, type_into, wait

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

BUTTON = "[...document.querySelectorAll('.panel button')].find(b => b.textContent.startsWith('{}'))"


def test_a_run_is_stopped_changed_and_goes_on(page: Browser, server: Server) -> None:
    type_into(page, "#param-count", "2000")
    type_into(page, "#param-seconds", "0.05")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, BUTTON.format("Stop after this step"))
    page.evaluate(BUTTON.format("Stop after this step") + ".click()")
    wait(page, "document.querySelector('.job .status.stopped')")
    type_into(page, "#param-count", "100")
    page.evaluate(BUTTON.format("Go on from step") + ".click()")
    assert "'over' was 2000, and is 100 now" in wait(page, "document.querySelector('.panel .problem')?.textContent")
    type_into(page, "#param-count", "2000")
    type_into(page, "#param-seconds", "0")
    page.evaluate(BUTTON.format("Go on from step") + ".click()")
    wait(page, "document.querySelector('.job .status.done')")
    totals = sorted((server.folder / "runs").glob("*/total.json"))
    assert json.loads(totals[-1].read_text()) == 2001.5
    click_text(page, ".tabs button", "Runs")
    wait(page, BUTTON.format("go on from here"))
    page.evaluate(BUTTON.format("go on from here") + ".click()")
    assert wait(page, "document.getElementById('param-seconds')?.value") == "0.05"
    assert wait(page, BUTTON.format("Go on") + "?.textContent") == "Go on"
