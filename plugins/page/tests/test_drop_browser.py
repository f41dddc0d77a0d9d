"""The page in a real browser: a picture of a run is dropped on it, and its workflow opens."""

from __future__ import annotations

import pytest

from plugins.page.tests.conftest import NODE, Server, run_workflow, type_into, wait
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

DROP = """(async () => {{
  const content = await (await fetch(document.querySelector('.job img').src)).blob();
  const transfer = new DataTransfer();
  transfer.items.add(new File([{}], 'cat.png', {{type: 'image/png'}}));
  document.body.dispatchEvent(new DragEvent('dragover', {{bubbles: true, cancelable: true, dataTransfer: transfer}}));
  document.body.dispatchEvent(new DragEvent('drop', {{bubbles: true, cancelable: true, dataTransfer: transfer}}));
}})()"""


def test_a_dropped_picture_opens_its_workflow_read_only(page: Browser, server: Server) -> None:
    type_into(page, "#param-seed", "12")
    run_workflow(page)
    page.evaluate(DROP.format("'no picture'"))
    assert "cat.png: cannot be read as a PNG" in wait(page, "document.querySelector('.banner')?.textContent")
    page.evaluate(DROP.format("content"))
    wait(page, "location.hash === '#cat.png'")
    assert "came in a picture" in wait(page, "document.querySelector('.note-box')?.textContent")
    wait(page, NODE.format("nodes.sum.body.next"))
    assert page.evaluate("document.getElementById('param-seed').value") == "12"
    assert "read-only" in page.evaluate("document.querySelector('header').textContent")
    run_workflow(page)
    page.driver.refresh()
    wait(page, NODE.format("nodes.sum.body.next"))
    assert page.evaluate("location.hash") == "#cat.png"
    page.evaluate("location.hash = 'draw.yaml'")
    wait(page, "!document.querySelector('header').textContent.includes('read-only')")
