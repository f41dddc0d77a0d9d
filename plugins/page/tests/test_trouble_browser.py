"""The page in a real browser, when its server fails or is gone, or a folder that it shows is: it says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plugins.page.tests.conftest import (
    CLICK,
    DRAW,
    NODE,
    Server,
    click_text,
    run_workflow,
    serve_folder,
    type_into,
    wait,
)
from plugins.page.tests.test_grid_browser import CHOOSE, SUBMIT
from tests.browser import NEEDS_BROWSER, Browser
from tests.commands.command import TOYS

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

BANNER = "document.querySelector('.banner')?.textContent"
FAIL = """
window.plainFetch = fetch;
window.fetch = async (path, options) => {
    if (!path.startsWith(arguments[0])) return plainFetch(path, options);
    const body = JSON.stringify({error: "internal error: KeyError", problems: []});
    return new Response(body, {status: 500, headers: {"content-type": "application/json"}});
};
"""


@pytest.mark.parametrize("path", ["api/values", "api/targets", "api/links", "api/insertions"])
def test_a_failure_of_the_server_is_said(page: Browser, server: Server, path: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    run_workflow(page)
    page.driver.execute_script(FAIL, "api/runs/" if path == "api/values" else path)
    page.evaluate(CLICK.format("nodes.sum.body.next"))
    wait(page, "document.querySelector('[aria-label=\"Wire out to\"]')")
    if path == "api/targets":
        page.evaluate("document.querySelector('[aria-label=\"Wire out to\"]').focus()")
    if path == "api/links":
        page.evaluate("document.querySelector('[aria-label=\"Show the wire of x\"]').click()")
    if path == "api/insertions":
        click_text(page, ".tabs button", "Add")
        wait(page, "document.querySelector('.nodes button')")
        row = page.driver.find_element(By.CSS_SELECTOR, ".nodes button")
        ActionChains(page.driver).click_and_hold(row).move_by_offset(-30, 20).move_by_offset(-30, 20).perform()
    wait(page, f"{BANNER} === 'internal error: KeyError'")
    if path == "api/insertions":
        ActionChains(page.driver).release().perform()


def test_a_failed_comparison_and_a_failed_run_are_said(page: Browser, server: Server) -> None:
    for _ in range(2):
        run_workflow(page)
    click_text(page, ".tabs button", "Runs")
    wait(page, "document.querySelectorAll('.runs input').length >= 2")
    page.driver.execute_script(FAIL, "api/comparison")
    for index in (0, 1):
        page.evaluate(f"document.querySelectorAll('.runs input')[{index}].click()")
    wait(page, f"{BANNER} === 'internal error: KeyError'")
    page.driver.execute_script(FAIL, "api/runs")
    click_text(page, ".tabs button", "Run")
    page.evaluate("document.querySelector('button.primary').click()")
    assert "internal error: KeyError" in wait(page, "document.querySelector('.panel .problem')?.textContent")


def test_a_text_that_was_refused_is_sent_again_by_enter_and_a_choice_is_as_before(
    page: Browser, server: Server
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    server.write(DRAW.replace("  sum:", "  more:    {use: toy.add, in: {a: start}}\n  sum:"))
    wait(page, NODE.format("nodes.more"))
    page.evaluate(CLICK.format("nodes.more"))
    wait(page, "document.getElementById('use')")
    page.driver.execute_script(FAIL, "api/edits")
    Select(page.driver.find_element(By.ID, "use")).select_by_value("toy.divide")
    wait(page, "document.querySelector('.panel .problem')")
    wait(page, "document.getElementById('use').value === 'toy.add'")
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    type_into(page, "[id='nodes.start-value']", "2.5")
    wait(page, "document.querySelector('.panel .problem')")
    page.driver.execute_script("window.fetch = plainFetch")
    page.driver.find_element(By.ID, "nodes.start-value").send_keys(Keys.ENTER)
    wait(page, "document.querySelector('.lines').textContent.includes('value: 2.5')")


def test_the_table_of_a_grid_whose_folder_is_gone_says_so(page: Browser, server: Server) -> None:
    page.evaluate("document.querySelector('.grid-form summary').click()")
    page.evaluate(CHOOSE.format("across", "seed"))
    type_into(page, '[aria-label="Values across"]', "1,2")
    page.evaluate(SUBMIT)
    wait(
        page, "document.querySelector('.job .status.done') && document.querySelectorAll('.grid .cell img').length === 2"
    )
    (grid,) = (server.folder / "runs").glob("*-draw-sweep")
    shutil.rmtree(grid)
    click_text(page, ".tabs button", "Add")
    wait(page, "!document.querySelector('.grid')")
    click_text(page, ".tabs button", "Run")
    message = f"The grid in runs/{grid.name} cannot be read: there is no grid in this folder"
    wait(page, f"document.querySelector('.panel > .problem')?.textContent === '{message}'")


def test_a_server_that_is_gone_is_named(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "draw.yaml").write_text(DRAW)
    servers = serve_folder(tmp_path, "--plugin", TOYS)
    chromium.driver.get(next(servers).address)
    wait(chromium, NODE.format("nodes.start"))
    assert next(servers, None) is None  # it has ended
    wait(chromium, f"{BANNER}?.startsWith('The server does not answer.')")
    chromium.evaluate("document.querySelector('button.primary').click()")
    assert "the server does not answer" in wait(chromium, "document.querySelector('.panel .problem')?.textContent")
    assert chromium.evaluate("document.querySelectorAll('.banner').length") == 1
    chromium.driver.get("about:blank")
    chromium.read_console()
