"""The page in a real browser: runs are stopped, go on, wait for others, and are repeated; a page is reopened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidegraph_runtime.run_json import RECORD, read_record
from plugins.page.tests.conftest import (
    CLICK,
    DRAW,
    HOLD,
    LAST_RUN,
    NODE,
    Server,
    click_text,
    run_workflow,
    serve_folder,
    type_into,
    wait,
)
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

TRAIN = """\
guidegraph: 1
nodes:
  start: {use: toy.line}
  data: {use: toy.batches}
  fit:
    loop: {over: data, as: batch}
    carry: {net: start}
    body: {loss: {use: toy.loss, in: {model: carry.net, x: loop.batch.x, y: loop.batch.y}}}
    train: [{model: net, loss: loss}]
    steps: 10000000
    collect: {loss: loss}
outputs: {loss: fit.loss}
"""
PROGRESS = "(document.querySelector('.job .status.running') && document.querySelector('.job progress')?.value || 0)"
POSTS = "performance.getEntriesByType('resource').filter(entry => entry.name.endsWith('api/runs')).length"
BUTTON = "[...document.querySelectorAll('.panel button')].find(b => b.textContent.startsWith('{}'))"


def test_a_run_is_stopped_changed_and_goes_on(page: Browser, server: Server) -> None:
    type_into(page, "#param-count", "2000")
    type_into(page, "#param-seconds", "0.05")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, BUTTON.format("Stop after this step"))
    page.evaluate(BUTTON.format("Stop after this step") + ".click()")
    wait(page, "document.querySelector('.job .status.stopped')")
    wait(page, f"!{NODE.format('nodes.sum')}.classList.contains('running')")
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


def test_a_page_that_is_opened_again_shows_the_run_that_goes_on(page: Browser, server: Server) -> None:
    type_into(page, "#param-count", "100000")
    type_into(page, "#param-seconds", "0.01")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, f"{PROGRESS} > 0")
    step = page.evaluate("document.querySelector('.job progress').value")
    page.driver.get("about:blank")
    page.driver.get(server.address)
    wait(
        page,
        f"{PROGRESS} > {step}",
    )
    wait(page, NODE.format("nodes.sum") + "?.classList.contains('running')")
    wait(page, NODE.format("nodes.picture") + ".querySelector('.time')?.textContent")
    assert "is running" in page.evaluate("document.querySelector('header').textContent")
    click_text(page, ".actions button", "Stop after this step")
    wait(page, "document.querySelector('.job .status.stopped')")
    assert page.evaluate(BUTTON.format("Go on from step") + ".disabled") is False


def test_no_stop_is_offered_while_a_run_trains(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(TRAIN)
    for server in serve_folder(tmp_path, "--plugin", "tests.graph.engine_nodes"):
        chromium.set_screen(1600)
        chromium.driver.get(server.address)
        wait(chromium, NODE.format("nodes.fit"))
        chromium.evaluate("document.querySelector('button.primary').click()")
        wait(
            chromium,
            f"{PROGRESS} > 0",
        )
        assert chromium.evaluate("[...document.querySelectorAll('.actions button')].map(e => e.textContent)") == [
            "Run",
            "Cancel",
        ]
        click_text(chromium, ".actions button", "Cancel")
        wait(chromium, "document.querySelector('.job .status.cancelled')")
        chromium.driver.get("about:blank")


def test_the_panel_shows_the_running_job_while_another_waits(page: Browser) -> None:
    type_into(page, "#param-count", "100000")
    type_into(page, "#param-seconds", "0.01")
    for posted in (1, 2):
        page.evaluate("document.querySelector('button.primary').click()")
        wait(page, f"{POSTS} === {posted}")
        wait(page, "document.querySelector('.job .status.running')")
    first = page.evaluate(LAST_RUN)
    click_text(page, ".actions button", "Cancel")
    second = wait(page, f"document.querySelector('.job .status.running') && {LAST_RUN} !== '{first}' && {LAST_RUN}")
    assert int(second.removeprefix("Run ")) == int(first.removeprefix("Run ")) + 1
    click_text(page, ".actions button", "Cancel")
    wait(page, "document.querySelector('.job .status.cancelled')")


def test_ctrl_enter_in_a_field_of_a_node_runs_with_its_text(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    field = page.driver.find_element(By.ID, "nodes.start-value")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("20")
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    wait(page, "document.querySelector('.job .status.done')")
    assert "value: 20" in server.read()
    assert json.loads(sorted((server.folder / "runs").glob("*/total.json"))[-1].read_text()) == 24.0


def test_parameters_of_a_run_are_used_again_as_they_were(page: Browser, server: Server) -> None:
    server.write(DRAW.replace("  count: 4", "  count: 4\n  note: {default: null, type: str}"))
    wait(page, "document.getElementById('param-note')")
    type_into(page, "#param-seed", str(2**53 + 1))
    run_workflow(page)
    click_text(page, ".tabs button", "Runs")
    wait(page, BUTTON.format("use these parameters"))
    page.evaluate(BUTTON.format("use these parameters") + ".click()")
    wait(page, "document.getElementById('param-note')")
    run_workflow(page)
    records = [read_record(path) or {} for path in sorted((server.folder / "runs").glob(f"*/{RECORD}"))[-2:]]
    for record in records:
        assert record["parameters"] | {"seed": 2**53 + 1, "note": None} == record["parameters"]


def test_ctrl_enter_in_a_field_whose_edit_is_refused_runs_nothing(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.evaluate(CLICK.format("nodes.picture"))
    wait(page, "document.getElementById('nodes.picture-batch')")
    field = page.driver.find_element(By.ID, "nodes.picture-batch")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("0", Keys.CONTROL, Keys.ENTER)
    wait(page, "document.querySelector('.panel .problem, .job')")
    assert "greater than or equal to 1" in page.evaluate("document.querySelector('.node-panel .problem')?.textContent")


def test_a_refusal_that_comes_after_its_panel_was_left_is_said(page: Browser, server: Server) -> None:
    page.evaluate(CLICK.format("nodes.picture"))
    wait(page, "document.getElementById('nodes.picture-batch')")
    page.driver.execute_script(HOLD, "api/edits")
    type_into(page, "[id='nodes.picture-batch']", "0")
    wait(page, "!!window.release")
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    page.evaluate("window.release()")
    assert "greater than or equal to 1" in wait(page, "document.querySelector('.banner')?.textContent")
