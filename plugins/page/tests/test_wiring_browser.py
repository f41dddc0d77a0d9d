"""Wires and nodes by dragging, and by the keyboard, in a real browser: each is the usual edit of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from plugins.page.tests.conftest import CLICK, DRAW, HOLD, NODE, Server, click_text, run_workflow, type_into, wait
from tests.browser import NEEDS_BROWSER, Browser

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

BODY = "nodes.sum.body.next"
WIRED = DRAW.replace("next:  ", "next:").replace(
    "  sum:\n",
    "  more:    {use: toy.add, in: {a: start}}\n  rest:    {use: toy.divide, in: {a: start, b: more}}\n  sum:\n",
)
LIT = "[...document.querySelectorAll('.dot.fits[data-path]')].map(dot => dot.dataset.path)"


def find_middle(page: Browser, selector: str) -> Sequence[float]:
    """The middle of an element on the screen, in pixels; of a wire, the middle of its length."""
    return page.evaluate(
        f"""(() => {{
            const element = document.querySelector(`{selector}`);
            if (element.matches('path')) {{
                const point = element.getPointAtLength(element.getTotalLength() / 2);
                const {{x, y}} = new DOMPoint(point.x, point.y).matrixTransform(element.getScreenCTM());
                return [x, y];
            }}
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )


def find_empty(page: Browser) -> Sequence[float]:
    """A point of the drawing where nothing is, away from its edges."""
    return page.evaluate(
        """(() => {
            const box = document.querySelector('.scroller').getBoundingClientRect();
            for (let y = box.bottom - 60; y > box.top + 60; y -= 10) {
                for (let x = box.right - 60; x > box.left + 60; x -= 10) {
                    const near = [-20, 0, 20].flatMap(d => [[x + d, y], [x, y + d]]);
                    const isFree = ([a, b]) => document.elementFromPoint(a, b)?.matches('.scroller, svg, .page');
                    if (near.every(isFree)) return [x, y];
                }
            }
        })()"""
    )


SLOW_POSTS = """(() => {
  const real = fetch;
  let end;
  window.answered = new Promise(resolve => { end = resolve; });
  window.fetch = async (...request) => {
    const answer = await real(...request);
    if (request[1]?.method === 'POST') {
      await new Promise(resolve => setTimeout(resolve, 1500));
      end();
    }
    return answer;
  };
})()"""


def press_and_move(page: Browser, start: str, end: str = "") -> None:
    """Drag from the middle of an element to that of another, or to an empty place, without dropping."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    source, target = find_middle(page, start), find_middle(page, end) if end else find_empty(page)
    actions = ActionBuilder(page.driver, duration=20)
    actions.pointer_action.move_to_location(round(source[0]), round(source[1])).pointer_down()
    for part in (0.3, 0.6, 1.0):
        x, y = (a + (b - a) * part for a, b in zip(source, target, strict=True))
        actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()
    for _ in range(9):
        if not end or (moved := find_middle(page, end)) == target:
            break
        target = moved  # the drawing scrolls where a drag crosses its edge
        actions = ActionBuilder(page.driver, duration=20)
        actions.pointer_action.move_to_location(round(target[0]), round(target[1]))
        actions.perform()


def drop(page: Browser) -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    actions = ActionBuilder(page.driver, duration=20)
    actions.pointer_action.pointer_up()
    actions.perform()


def press(page: Browser, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page.driver).send_keys(*keys).perform()


@pytest.fixture
def wired(page: Browser, server: Server) -> Browser:
    server.write(WIRED)
    wait(page, NODE.format("nodes.rest"))
    return page


def wait_for_texts(page: Browser, selector: str) -> list[str]:
    """The texts of all elements of a kind, as soon as there are any."""
    every = f"[...document.querySelectorAll('{selector}')]"
    texts: list[str] = wait(page, f"{every}.length && {every}.map(e => e.textContent)")
    return texts


def read_line(server: Server, name: str) -> str:
    return next(line.strip() for line in server.read().splitlines() if line.strip().startswith(f"{name}:"))


def test_ports_that_fit_light_up_and_a_wire_is_moved_by_dragging(wired: Browser, server: Server) -> None:
    press_and_move(wired, '.dot[data-link="more"]', '.dot[data-path="nodes.rest.in.a"]')
    lit: list[str] = wait(wired, f"({LIT}).length && {LIT}")
    assert {"nodes.rest.in.a", "nodes.rest.in.b", "nodes.sum.carry.x", f"{BODY}.in.x"} <= {*lit}
    assert not [path for path in lit if path.startswith(("nodes.more", "nodes.picture.in.shade"))]  # a cycle, a text
    drop(wired)
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: more, b: more}')")
    assert server.read() == WIRED.replace("{a: start, b: more}", "{a: more, b: more}")
    assert wired.evaluate("document.querySelectorAll('.fits, .loose').length") == 0


def test_escape_ends_a_drag(wired: Browser, server: Server) -> None:
    from selenium.webdriver.common.keys import Keys

    press_and_move(wired, '.dot[data-link="more"]', '.dot[data-path="nodes.rest.in.a"]')
    wait(wired, "document.querySelector('.loose')")
    press(wired, Keys.ESCAPE)
    wait(wired, "!document.querySelector('.loose')")
    drop(wired)
    assert server.read() == WIRED


def test_a_wire_dropped_on_a_node_asks_for_the_port(wired: Browser, server: Server) -> None:
    press_and_move(wired, '.dot[data-link="more"]', '[data-node="nodes.rest"] .title')
    drop(wired)
    items = wait_for_texts(wired, ".menu button")
    assert [item.split()[0] for item in items] == ["a", "b"]
    wired.evaluate("document.querySelector('.menu button').click()")
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: more, b: more}')")


def test_a_wire_dropped_on_nothing_offers_nodes_that_take_it(wired: Browser, server: Server) -> None:
    press_and_move(wired, '.dot[data-link="more"]')
    drop(wired)
    assert "that take more" in wait(wired, "document.querySelector('.filter')?.textContent")
    ids = wait_for_texts(wired, ".nodes b")
    assert {"toy.add", "toy.divide", "toy.sleep"} <= {*ids}
    assert not {"autoencoder.decode", "toy.read"} & {*ids}
    click_text(wired, ".nodes button", "toy.sleep")
    wait(wired, "document.querySelector('.draft button.primary')")
    assert wired.evaluate("document.querySelector('[aria-label=\"Link for x\"]').value") == "more"
    wired.evaluate("document.querySelector('.draft button.primary').click()")
    wait(wired, NODE.format("nodes.sleep"))
    assert read_line(server, "sleep") == "sleep:   {use: toy.sleep, in: {x: more}}"


def test_a_port_dragged_to_nothing_loses_its_wire_if_it_may(wired: Browser, server: Server) -> None:
    press_and_move(wired, f'.dot[data-path="{BODY}.in.seconds"]')
    drop(wired)
    wait(wired, "document.querySelector('.lines').textContent.includes('in: {x: carry.x}}')")
    press_and_move(wired, '.dot[data-path="nodes.rest.in.a"]')
    drop(wired)
    assert "needs its port 'a'" in wait(wired, "document.querySelector('.banner')?.textContent")
    assert read_line(server, "rest") == "rest:    {use: toy.divide, in: {a: start, b: more}}"


def test_a_drag_of_a_node_that_the_system_ends_changes_nothing(wired: Browser, server: Server) -> None:
    click_text(wired, ".tabs button", "Add")
    wait(wired, "document.querySelectorAll('.nodes button').length")
    press_and_move(wired, ".nodes button", ".graph .sub")
    wait(wired, "document.querySelector('.ghost') && document.querySelector('.graph.placing')")
    wired.evaluate("dispatchEvent(new PointerEvent('pointercancel'))")
    assert wired.evaluate("document.querySelectorAll('.ghost, .placing, .fits, .over').length") == 0
    drop(wired)
    assert server.read() == WIRED


def test_a_node_dropped_on_a_wire_is_put_into_it(wired: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By

    click_text(wired, ".tabs button", "Add")
    wait(wired, "document.getElementById('palette-text')")
    wired.driver.find_element(By.ID, "palette-text").send_keys("toy.sleep")
    wait(wired, "document.querySelectorAll('.nodes button').length === 1")
    wire = '.wire[data-path="nodes.rest.in.b"]'
    press_and_move(wired, ".nodes button", wire)
    wait(wired, f"document.querySelector('{wire}.fits')")
    drop(wired)
    wait(wired, NODE.format("nodes.sleep"))
    assert read_line(server, "sleep") == "sleep:   {use: toy.sleep, in: {x: more}}"
    assert read_line(server, "rest") == "rest:    {use: toy.divide, in: {a: start, b: sleep}}"
    wait(wired, "document.querySelector('.node-panel h2')?.textContent === 'sleep'")
    click_text(wired, "header button", "Undo")
    wait(wired, f"!{NODE.format('nodes.sleep')}")
    assert server.read() == WIRED


def test_the_keyboard_wires_inserts_and_removes(wired: Browser, server: Server) -> None:
    from selenium.webdriver.common.keys import Keys

    focus_choice(wired)
    press(wired, "rest.a", Keys.ENTER)
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: more, b: more}')")

    wired.evaluate(CLICK.format("nodes.rest"))
    wait(wired, "document.querySelector('[aria-label=\"Show the wire of b\"]')")
    wired.evaluate("document.querySelector('[aria-label=\"Show the wire of b\"]').focus()")
    press(wired, Keys.ENTER)
    wait(wired, "document.querySelector('.wire-panel')")
    wired.evaluate("document.querySelector('.wire-panel .actions-row button').focus()")
    press(wired, Keys.ENTER)
    wait(wired, "document.activeElement.id === 'palette-text'")
    press(wired, "toy.sleep")
    wait(wired, "document.querySelectorAll('.nodes button').length === 1")
    wired.evaluate("document.querySelector('.nodes button').focus()")
    press(wired, Keys.ENTER)
    wait(wired, "document.querySelector('.draft')")
    wired.evaluate("document.getElementById('draft-name').focus()")
    press(wired, Keys.ENTER)
    wait(wired, NODE.format("nodes.sleep"))
    assert read_line(server, "rest") == "rest:    {use: toy.divide, in: {a: more, b: sleep}}"

    wired.evaluate(CLICK.format(BODY))
    wait(wired, "document.querySelector('[aria-label=\"Show the wire of seconds\"]')")
    wired.evaluate("document.querySelector('[aria-label=\"Show the wire of seconds\"]').click()")
    wait(wired, "document.querySelector('.wire-panel')")
    click_text(wired, ".wire-panel button", "Remove")
    wait(wired, "document.querySelector('.lines').textContent.includes('in: {x: carry.x}}')")


def test_all_nodes_are_shown_after_a_wire_has_been_chosen(wired: Browser, server: Server) -> None:
    wired.evaluate(CLICK.format(BODY))
    wait(wired, "document.querySelector('[aria-label=\"Show the wire of seconds\"]')")
    wired.evaluate("document.querySelector('[aria-label=\"Show the wire of seconds\"]').click()")
    click_text(wired, ".wire-panel button", "Insert a node")
    click_text(wired, ".filter button", "show all")
    assert wait(wired, "document.getElementById('palette-block')?.value") == "nodes.sum.body"
    wait(wired, "document.querySelector('.palette .hint').textContent.includes('more: type a word')")
    assert wired.evaluate("document.querySelector('.panel .problem')") is None


def test_nodes_are_added_to_the_workflow_after_the_chosen_loop_is_gone(wired: Browser, server: Server) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    click_text(wired, ".tabs button", "Add")
    wait(wired, "document.getElementById('palette-block')")
    Select(wired.driver.find_element(By.ID, "palette-block")).select_by_value("nodes.sum.body")
    wait(wired, "performance.getEntriesByType('resource').some(e => e.name.endsWith('block=nodes.sum.body'))")
    server.write(WIRED.replace("  sum:", "  all:").replace("sum.x", "all.x"))
    wait(wired, NODE.format("nodes.all"))
    assert wired.evaluate("document.getElementById('palette-block').value") == "nodes"
    assert wired.evaluate("document.querySelector('.panel .problem')") is None
    wired.driver.find_element(By.ID, "palette-text").send_keys("toy.add")
    click_text(wired, ".nodes button", "toy.add")
    wait(wired, "document.querySelector('.draft .filter')?.textContent.includes('the workflow')")


def test_an_edit_that_ends_late_selects_nothing_after_another_selection(wired: Browser, server: Server) -> None:
    wired.evaluate(CLICK.format("nodes.rest"))
    wait(wired, "document.getElementById('node-name')")
    wired.evaluate(SLOW_POSTS)
    type_into(wired, "#node-name", "quotient")
    wait(wired, NODE.format("nodes.quotient"))  # the file's event comes before the answer
    wired.evaluate(CLICK.format("nodes.more"))
    wired.driver.execute_async_script("window.answered.then(() => setTimeout(arguments[0], 200))")
    assert wired.evaluate("document.querySelector('.panel h2').textContent") == "more"


CHOOSE = """
const field = document.querySelector('[aria-label="Wire out to"]');
for (const [key, option] of [["r", "nodes.rest.in.a"], ["b", "nodes.rest.in.b"]]) {
    field.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    field.value = option;
    field.dispatchEvent(new Event("change", {bubbles: true}));
}
"""


def focus_choice(wired: Browser) -> None:
    """Open the node `more` and go to its field of places to wire to, by keys."""
    wired.evaluate(CLICK.format("nodes.more"))
    wait(wired, "document.querySelector('[aria-label=\"Wire out to\"]')")
    wired.evaluate("document.querySelector('[aria-label=\"Wire out to\"]').focus()")
    wait(wired, "document.querySelectorAll('[aria-label=\"Wire out to\"] option').length > 1")


def test_options_that_keys_pass_on_the_way_are_not_wired(wired: Browser, server: Server) -> None:
    server.write(WIRED.replace("{a: start, b: more}", "{a: start, b: start}"))
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: start, b: start}')")
    focus_choice(wired)
    wired.driver.execute_script(CHOOSE)
    wait(wired, "!document.querySelector('.lines').textContent.includes('{a: start, b: start}')")
    assert server.read() == WIRED


def test_a_choice_by_keys_counts_for_its_workflow_if_another_is_opened(wired: Browser, server: Server) -> None:
    text = WIRED.replace("{a: start, b: more}", "{a: start, b: start}")
    other = server.folder / "other.yaml"
    other.write_text("# another\n" + text)
    server.write(text)
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: start, b: start}')")
    focus_choice(wired)
    wired.driver.execute_script(CHOOSE + "location.hash = 'other.yaml';")
    wait(wired, "document.querySelector('.lines')?.textContent.includes('# another')")
    wired.driver.execute_async_script("setTimeout(arguments[0], 1500)")  # longer than keys rest
    assert (server.read(), other.read_text()) == (WIRED, "# another\n" + text)


SLOW = """
const answer = window.fetch;
window.fetch = (address, options) => {
    const wait = options?.method === "POST" ? 300 : String(address).startsWith("api/view") ? 900 : 0;
    return answer(address, options).then((response) => new Promise((done) => setTimeout(() => done(response), wait)));
};
"""


def test_an_edit_that_ends_after_another_workflow_is_opened_does_not_keep_it_from_being_shown(
    wired: Browser, server: Server
) -> None:
    text = WIRED.replace("{a: start, b: more}", "{a: start, b: start}")
    (server.folder / "other.yaml").write_text("# another\n" + text)
    server.write(text)
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: start, b: start}')")
    focus_choice(wired)
    wired.driver.execute_script(SLOW + CHOOSE + "setTimeout(() => { location.hash = 'other.yaml'; }, 0);")
    wait(wired, "document.querySelector('.lines')?.textContent.includes('# another')")
    assert server.read() == WIRED


def test_links_are_suggested_in_their_field(wired: Browser, server: Server) -> None:
    wired.evaluate(CLICK.format("nodes.rest"))
    wait(wired, "document.getElementById('nodes.rest-a')")
    wired.evaluate("document.getElementById('nodes.rest-a').focus()")
    options: Any = wait(
        wired, "(all => all.length && all.map(o => o.value))([...document.querySelectorAll('datalist option')])"
    )
    assert {"start", "more", "params.seconds"} <= {*options}
    type_into(wired, "[id='nodes.rest-a']", "more")
    wait(wired, "document.querySelector('.lines').textContent.includes('{a: more, b: more}')")


def move(page: Browser, x: float, y: float) -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    actions = ActionBuilder(page.driver, duration=20)
    actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()


def test_values_stand_at_nodes_and_wires_after_a_run(wired: Browser, server: Server) -> None:
    run_workflow(wired)
    x, y = find_middle(wired, '.wire[data-path="nodes.sum.carry.x"]')
    move(wired, x - 30, y - 60)
    move(wired, x, y)
    wait(wired, "document.querySelector('.card')?.textContent === 'start1.5'")
    wired.driver.execute_script(HOLD, "api/runs/")
    move(wired, x + 2, y)
    wait(wired, "!!window.release")
    move(wired, *find_empty(wired))
    wired.evaluate("window.release()")
    wired.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert not wired.evaluate("document.querySelector('.card')"), "the pointer has left the wire"
    wired.driver.execute_script("window.fetch = plainFetch")
    wired.evaluate(CLICK.format("nodes.picture"))
    wait(wired, "document.querySelector('.node-panel .value img')?.naturalWidth === 2")
    assert "(1, 3, 2, 2) float32" in wired.evaluate("document.querySelector('.node-panel .value').textContent")
