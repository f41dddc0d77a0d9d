"""The page in a real browser, served by the command: the newcomer's path, changes from outside, keys, and sizes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from plugins.page.tests.conftest import (
    CLICK,
    DRAW,
    HOLD,
    LAST_RUN,
    NODE,
    SETTLED,
    Server,
    click_text,
    run_workflow,
    type_into,
    wait,
)
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

SCROLLED = ".scroller, .text-pane, .panes, .grid-scroller"
WIDE = f"""[...document.querySelectorAll('body *')].filter(e => !e.closest('{SCROLLED}')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


def test_open_change_run_watch_and_undo(page: Browser, server: Server) -> None:
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.querySelector('.node-panel h2')?.textContent === 'start'")
    assert page.evaluate("document.querySelector('.line.chosen').textContent").strip().startswith("9")
    assert "A number." in page.evaluate("document.querySelector('.doc').textContent")
    type_into(page, "[id='nodes.start-value']", "2.5")
    wait(page, "document.querySelector('header').textContent.includes('Undo')")
    assert server.read() == DRAW.replace("value: 1.5", "value: 2.5")
    wait(page, "document.querySelector('.lines').textContent.includes('value: 2.5')")

    click_text(page, ".tabs button", "Run")
    wait(page, "document.getElementById('param-seed')")
    type_into(page, "#param-seed", "7")
    run_workflow(page)
    assert wait(page, "document.querySelector('.job img')?.naturalWidth") == 2
    assert wait(page, NODE.format("nodes.sum") + ".querySelector('.time')?.textContent")
    assert server.read() == DRAW.replace("value: 1.5", "value: 2.5")

    click_text(page, "header button", "Undo")
    wait(page, "document.querySelector('.lines').textContent.includes('value: 1.5')")
    assert server.read() == DRAW

    click_text(page, ".tabs button", "Runs")
    assert "seed 7" in wait(page, "document.querySelector('.runs')?.textContent")


def test_a_default_is_saved_and_a_refused_edit_is_explained(page: Browser, server: Server) -> None:
    type_into(page, "#param-count", "5")
    click_text(page, ".changed button", "save as default")
    wait(page, "document.querySelector('.lines').textContent.includes('count: 5')")
    assert server.read() == DRAW.replace("count: 4", "count: 5")
    page.evaluate(CLICK.format("nodes.picture"))
    wait(page, "document.getElementById('nodes.picture-batch')")
    type_into(page, "[id='nodes.picture-batch']", "0")
    assert "greater than or equal to 1" in wait(page, "document.querySelector('.panel .problem')?.textContent")
    assert server.read() == DRAW.replace("count: 4", "count: 5")


def test_a_node_is_renamed_and_a_linked_one_is_not_removed(page: Browser, server: Server) -> None:
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('node-name')?.value === 'start'")
    type_into(page, "#node-name", "first")
    wait(page, NODE.format("nodes.first"))
    wait(page, "document.querySelector('.node-panel h2')?.textContent === 'first'")
    assert "carry: {x: first}" in server.read()
    click_text(page, ".panel button", "remove")
    assert "sum" in wait(page, "document.querySelector('.panel .problem')?.textContent")
    click_text(page, "header button", "Undo")
    wait(page, NODE.format("nodes.start"))
    assert server.read() == DRAW


CHANGES = """
window.changes = new Map();
window.observer = new MutationObserver((records) => {
    for (const { target } of records) {
        const element = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
        const node = element?.closest("[data-node]")?.dataset.node;
        const part = node || element?.closest(".text-pane, .grid-form, .parameter, .job")?.className || "";
        window.changes.set(part, (window.changes.get(part) || 0) + 1);
    }
});
const kinds = {subtree: true, childList: true, characterData: true, attributes: true};
observer.observe(document.querySelector("main"), kinds);
"""


def test_the_progress_of_a_run_changes_what_it_shows_alone(page: Browser, server: Server) -> None:
    type_into(page, "#param-seconds", "0.01")
    type_into(page, "#param-count", "100000")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, "document.querySelector('.loop-progress progress')?.value > 1")
    page.driver.execute_script(CHANGES)
    before = page.evaluate("document.querySelector('.loop-progress progress').value")
    wait(page, f"document.querySelector('.loop-progress progress').value > {before} + 100")
    assert set(page.evaluate("[...window.changes.keys()]")) == {"job", "nodes.sum"}
    click_text(page, ".actions button", "Cancel")
    wait(page, "document.querySelector('.job .status.cancelled')")


def test_a_change_in_another_editor_redraws_the_page(page: Browser, server: Server) -> None:
    server.write(DRAW.replace("  start:", "  extra:   {use: toy.number}\n  start:"))
    wait(page, NODE.format("nodes.extra"))
    assert page.evaluate("document.querySelector('header .status').textContent") == "valid"


def test_an_address_that_is_no_name_shows_a_workflow(page: Browser, server: Server) -> None:
    page.evaluate("location.hash = '%'")
    page.driver.refresh()
    wait(page, NODE.format("nodes.start"))


def test_a_removed_workflow_is_named_and_shown_again_when_it_is_back(page: Browser, server: Server) -> None:
    page.evaluate("location.hash = 'later.yaml'")
    assert "there is no workflow 'later.yaml'" in wait(page, "document.querySelector('.banner')?.textContent")
    (server.folder / "later.yaml").write_text(DRAW)
    wait(page, NODE.format("nodes.start"))
    wait(page, "!document.querySelector('.banner')")
    (server.folder / "later.yaml").unlink()
    wait(page, "document.querySelector('.banner')?.textContent.includes('later.yaml')")


def test_a_hidden_page_has_no_connection_and_catches_up(page: Browser, server: Server) -> None:
    hide = "(Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}), {})"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide.format("true", tell))
    streams = "performance.getEntriesByType('resource').filter(r => r.name.includes('api/events')).length"
    wait(page, streams)  # an entry is made when a request ends
    server.write(DRAW.replace("  start:", "  extra:   {use: toy.number}\n  start:"))
    page.evaluate(hide.format("false", tell))
    wait(page, NODE.format("nodes.extra"))


def test_an_edit_that_ends_late_does_not_bring_its_workflow_back(page: Browser, server: Server) -> None:
    (server.folder / "other.yaml").write_text("# another\n" + DRAW)
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    page.driver.execute_script(HOLD, "api/edits")
    type_into(page, "[id='nodes.start-value']", "2.5")
    wait(page, "!!window.release")
    page.evaluate("location.hash = 'other.yaml'")
    wait(page, "document.querySelector('.lines')?.textContent.includes('# another')")
    page.evaluate("window.release()")
    page.driver.execute_async_script("setTimeout(arguments[0], 1000)")
    assert page.evaluate("document.querySelector('.lines').textContent.includes('# another')")


def test_a_refused_default_is_not_explained_in_another_workflow(page: Browser, server: Server) -> None:
    (server.folder / "other.yaml").write_text("# another\n" + DRAW)
    type_into(page, "#param-count", "x")
    page.driver.execute_script(HOLD, "api/edits")
    click_text(page, ".changed button", "save as default")
    wait(page, "!!window.release")
    page.evaluate("location.hash = 'other.yaml'")
    wait(page, "document.querySelector('.lines')?.textContent.includes('# another')")
    page.evaluate("window.release()")
    page.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert page.evaluate("document.querySelector('.panel .problem')") is None


def test_a_required_flag_is_chosen(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    server.write(DRAW.replace("  count: 4", "  count: 4\n  bright: {type: bool}"))
    wait(page, "document.getElementById('param-bright')")
    Select(page.driver.find_element(By.ID, "param-bright")).select_by_value("false")
    run_workflow(page)


def open_draft(page: Browser, use: str) -> None:
    """Open the form that adds a node."""
    from selenium.webdriver.common.by import By

    click_text(page, ".tabs button", "Add")
    wait(page, "document.getElementById('palette-text')")
    page.driver.find_element(By.ID, "palette-text").send_keys(use)
    click_text(page, ".nodes button", use)
    wait(page, "document.querySelector('.draft')")


def test_what_was_typed_for_a_new_node_stays_while_another_panel_is_shown(page: Browser) -> None:
    open_draft(page, "toy.divide")
    type_into(page, "#draft-name", "half")
    type_into(page, "#draft-b", "2")
    click_text(page, ".tabs button", "Run")
    wait(page, "!document.querySelector('.draft')")
    click_text(page, ".tabs button", "Add")
    wait(page, "document.querySelector('.draft')")
    typed = page.evaluate("['draft-name', 'draft-b'].map(id => document.getElementById(id).value)")
    assert typed == ["half", "2"]


SEARCH = "document.getElementById('palette-text')?.value === '{}'"


def test_the_words_of_a_search_stay_after_it_and_while_another_panel_is_shown(page: Browser) -> None:
    open_draft(page, "toy.add")
    click_text(page, ".draft button", "Back")
    wait(page, SEARCH.format("toy.add"))
    click_text(page, ".tabs button", "Run")
    wait(page, "!document.querySelector('.palette')")
    click_text(page, ".tabs button", "Add")
    wait(page, SEARCH.format("toy.add"))
    wait(page, "document.querySelectorAll('.nodes button').length === 1")


def test_a_search_for_what_takes_an_output_begins_without_words(page: Browser) -> None:
    open_draft(page, "toy.divide")
    page.evaluate(CLICK.format("nodes.start"))
    click_text(page, ".node-panel button", "add")
    wait(page, SEARCH.format(""))
    assert page.evaluate("document.querySelector('.palette .filter').textContent.includes('that take start')")


def test_a_box_of_a_new_node_shows_its_default(page: Browser) -> None:
    open_draft(page, "coding.step")
    assert page.evaluate("document.getElementById('draft-clip').checked")


def test_what_is_typed_while_an_edit_is_on_its_way_stays(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    page.driver.execute_script(HOLD, "api/edits")
    field = page.driver.find_element(By.ID, "nodes.start-value")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("2.5", Keys.ENTER, "7")
    wait(page, "!!window.release")
    page.evaluate("window.release()")
    wait(page, "document.querySelector('.lines').textContent.includes('value: 2.5')")
    assert page.evaluate("document.getElementById('nodes.start-value').value") == "2.57"


DELAY = """
window.plainFetch = fetch;
let isFirst = true;
window.fetch = async (path, options) => {
    if (isFirst && path.startsWith("api/edits")) {
        isFirst = false;
        await new Promise((resolve) => setTimeout(resolve, 500));
    }
    return plainFetch(path, options);
};
const field = document.getElementById("nodes.start-value");
for (const value of ["2.5", "3.5"]) {
    field.value = value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new Event("change", {bubbles: true}));
}
setTimeout(arguments[0], 1500);
"""


def test_edits_reach_the_file_in_their_order(page: Browser, server: Server) -> None:
    page.evaluate(CLICK.format("nodes.start"))
    wait(page, "document.getElementById('nodes.start-value')")
    page.driver.execute_async_script(DELAY)
    wait(page, "document.querySelector('.lines').textContent.includes('value: 3.5')")
    assert server.read() == DRAW.replace("value: 1.5", "value: 3.5")


def test_an_answer_that_comes_after_the_run_has_ended_does_not_make_it_wait_again(
    page: Browser, server: Server
) -> None:
    before = page.evaluate(LAST_RUN)
    page.driver.execute_script(HOLD, "api/runs")
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, f"{LAST_RUN} !== {json.dumps(before)} && document.querySelector('.job .status.done')")
    wait(page, "!!window.release")
    page.evaluate("window.release()")
    page.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert page.evaluate("document.querySelector('.job .status').textContent") == "done"


def test_a_long_text_is_typed_in_one_go(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    server.write(DRAW.replace("  count: 4", "  count: 4\n  name: cat"))
    wait(page, "document.getElementById('param-name')")
    page.evaluate("document.getElementById('param-name').select()")
    ActionChains(page.driver).send_keys("a cat " * 10).perform()
    assert page.evaluate("document.getElementById('param-name').value") == "a cat " * 10


def test_errors_stand_at_their_line_and_node_and_the_drawing_stays(page: Browser, server: Server) -> None:
    server.write(DRAW.replace("value: 1.5", "value: many"))
    wait(page, "document.querySelector('.problems')")
    assert "bad-value" in page.evaluate("document.querySelector('.problem.below').textContent")
    wait(page, NODE.format("nodes.start") + ".classList.contains('wrong')")
    assert page.evaluate("document.querySelector('button.primary').disabled")
    server.write(DRAW)
    wait(page, "!document.querySelector('.problems')")
    wait(page, f"!{NODE.format('nodes.start')}.classList.contains('wrong')")


def test_the_keyboard_selects_zooms_and_runs(page: Browser, server: Server) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    before = page.evaluate(LAST_RUN)
    page.evaluate(NODE.format("nodes.sum.body.next") + ".focus()")
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    wait(page, "document.querySelector('.node-panel h2')?.textContent === 'sum › next'")
    zoom = page.evaluate("document.querySelector('.zoom').textContent")
    ActionChains(page.driver).send_keys("+").perform()
    wait(page, f"document.querySelector('.zoom').textContent !== {zoom!r}")
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    wait(page, f"{LAST_RUN} !== {json.dumps(before)} && document.querySelector('.job .status.done')")


@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits(page: Browser, server: Server, width: int, dark: bool) -> None:
    page.set_screen(width, dark)
    wait(page, f"innerWidth === {width}")
    for pane in ("Graph", "Text", "Run", "Node", "Add", "Runs"):
        page.evaluate(f"[...document.querySelectorAll('.panes button')].find(b => b.textContent === '{pane}').click()")
        wait(page, SETTLED)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(WIDE) == []
        if shots := os.environ.get("GUIDEGRAPH_SCREENSHOTS"):
            Path(shots).mkdir(parents=True, exist_ok=True)
            page.save_screenshot(Path(shots) / f"page-{pane}-{width}-{'dark' if dark else 'light'}.png")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == ("rgb(14, 17, 21)" if dark else "rgb(244, 245, 247)")


def test_progress_is_drawn_at_a_pace_and_the_rest_at_once(page: Browser) -> None:
    # drawing takes 30 ms here, so that progress waits for three seconds after the run's beginning
    begin = """
    const done = arguments[arguments.length - 1];
    import("./pace.js").then(({paceNews}) => {
        window.drawn = [];
        window.tell = paceNews((rows) => {
            const end = performance.now() + 30;
            while (performance.now() < end);
            window.drawn.push(rows.map((row) => row.step ?? row.status));
        });
        tell([{number: 1, status: "running", stopping: false}]);
        for (let step = 1; step <= 3; step++) {
            setTimeout(() => tell([{number: 1, status: "running", stopping: false, step}]), 100 * step);
        }
        setTimeout(done, 500);
    });
    """
    page.driver.execute_async_script(begin)
    assert page.evaluate("drawn") == [["running"]]

    page.driver.execute_script("tell([{number: 1, status: 'done', stopping: false}])")
    assert page.evaluate("drawn") == [["running"], [1, 2, 3, "done"]]

    page.driver.execute_script("tell([{number: 1, status: 'done', stopping: false, step: 4}])")
    wait(page, "drawn.length === 3 && drawn[2][0] === 4")


def test_pictures_of_a_workflow_with_special_characters_in_its_name_are_shown(page: Browser, server: Server) -> None:
    (server.folder / "cat #2, 50%25?.yaml").write_text(DRAW)
    page.driver.get("about:blank")
    page.driver.get(f"{server.address}#{quote('cat #2, 50%25?.yaml')}")
    wait(page, NODE.format("nodes.picture"))
    run_workflow(page)
    wait(page, "document.querySelector('.job img[alt=\"Output image\"]')?.naturalWidth > 0")
    click_text(page, ".tabs button", "Runs")
    wait(page, "document.querySelector('.runs img')?.naturalWidth > 0")
    (server.folder / "cat #2, 50%25?.yaml").unlink()
