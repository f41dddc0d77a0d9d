"""The example page of docs/do/serving-page in a browser: it draws with previews, cancels, and shows errors as text."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from guidegraph_runtime import Bundle, pixels
from guidegraph_serve.observers import ServeMetrics
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from guidegraph_serve.web.server import format_address
from plugins.serve.tests.conftest import MakeService
from tests.browser import NEEDS_BROWSER, Browser, browser
from tests.paths import ROOT
from tests.static_server import serve_files

pytestmark = NEEDS_BROWSER

PAGE = ROOT / "docs" / "do" / "serving-page"
TOKEN = "secret"
NEEDS_TOKEN = "expected the header 'Authorization: Bearer TOKEN' with this server's token"
SECONDS = 120
STATUS = "document.getElementById('status').textContent"
PICTURES = "[...document.querySelectorAll('img.picture')].map(image => image.src.split(',')[1])"
WATCH = """
window.statuses = new Set(); window.previews = new Set();
new MutationObserver(() => {
  window.statuses.add(document.getElementById('status').textContent);
  for (const image of document.querySelectorAll('img.preview')) window.previews.add(image.src);
}).observe(document.querySelector('main'), {childList: true, subtree: true});
"""
FILL = """
const [name, value] = arguments;
const field = document.getElementById('form').elements[name];
field.value = value;
field.dispatchEvent(new Event('change'));
"""
REACH = """
const [address, finish] = arguments;
document.addEventListener('securitypolicyviolation', event => finish(event.violatedDirective), {once: true});
fetch(address, {mode: 'no-cors'}).catch(() => {});
"""

HOLD = """
const plain = fetch;
window.fetch = async (...request) => {
  await new Promise(resolve => { window.release = resolve; });
  window.fetch = plain;
  return plain(...request);
};
"""
LISTENERS = """
window.leaves = new Set();
const [add, remove] = [addEventListener, removeEventListener];
window.addEventListener = (name, ...rest) => {
  if (name === 'pagehide') window.leaves.add(rest[0]);
  add(name, ...rest);
};
window.removeEventListener = (name, ...rest) => {
  window.leaves.delete(rest[0]);
  remove(name, ...rest);
};
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@contextmanager
def serve_in_thread(service: Service, access: ServeAccess) -> Iterator[str]:
    """The address of a server in a thread of this process, over a service that the test may start when it likes."""
    app = ServeRoutes(service, ServeMetrics().read).make_app(access)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield format_address(listener)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def started(service: Service) -> Iterator[None]:
    """Run a service."""
    service.start()
    try:
        yield
    finally:
        service.stop()


@pytest.fixture
def service(make_service: MakeService) -> Iterator[Service]:
    """A service that is not started yet: its jobs stay in the queue."""
    service = make_service(started=False, steps=600)
    yield service
    service.end_jobs()  # so that their events end, and the server with them


@pytest.fixture
def page(chromium: Browser, service: Service, tmp_path: Path) -> Iterator[Browser]:
    """The page, connected to the server."""
    folder = tmp_path / "site"
    shutil.copytree(PAGE, folder)
    with serve_files(folder) as site, serve_in_thread(service, ServeAccess(TOKEN, (site,))) as address:
        index = folder / "index.html"
        index.write_text(index.read_text().replace('value="http://localhost:8000"', f'value="{address}"'))
        chromium.driver.get(site)
        wait_for(chromium, STATUS, NEEDS_TOKEN)
        fill(chromium, token=TOKEN)
        wait_for(chromium, STATUS, "ready")
        chromium.read_console()
        yield chromium


def fill(page: Browser, **values: Any) -> None:
    for name, value in values.items():
        page.driver.execute_script(FILL, name, str(value))


def wait_for(page: Browser, script: str, start: str) -> str:
    """The text that a script gives, as soon as it begins so."""
    from selenium.webdriver.support.wait import WebDriverWait

    wait = WebDriverWait(page.driver, SECONDS, poll_frequency=0.02)
    wait.until(lambda _: str(page.evaluate(script)).startswith(start), f"expected '{start}…'")
    return str(page.evaluate(script))


def click(page: Browser, name: str) -> None:
    page.driver.find_element("id", name).click()


def test_the_page_draws_with_previews(page: Browser, service: Service, alone: Bundle) -> None:
    shown = page.evaluate("['prompt', 'seed', 'steps', 'scale'].filter(name => !form.elements[name].disabled)")
    assert shown == ["seed", "steps", "scale"], "the bundle has no prompt"
    page.driver.execute_script(WATCH)
    fill(page, seed=7, steps=500, scale=0.7)
    click(page, "draw")
    wait_for(page, STATUS, "queued")
    (job,) = service.jobs.list_open()
    assert job.params == {"seed": 7, "steps": 500, "scale": 0.7}
    with started(service):
        wait_for(page, STATUS, "done")
    images = alone.run(seed=7, steps=500, scale=0.7)["image"]
    drawn = page.evaluate(PICTURES)
    assert len(drawn) == len(images) == 2
    for text, image in zip(drawn, images, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
        assert np.abs(picture - pixels(image)).max() <= 2
    assert page.evaluate("window.previews.size") >= 1
    assert any(text.endswith(" of 500") for text in page.evaluate("[...window.statuses]"))
    assert page.read_console() == [], "neither errors nor what the content policy refused"


def test_the_page_cancels_a_job(page: Browser, service: Service) -> None:
    click(page, "draw")
    wait_for(page, STATUS, "queued")
    (job,) = service.jobs.list_open()
    assert job.params == {}, "empty fields take the defaults"
    click(page, "cancel")
    wait_for(page, STATUS, "cancelled")
    assert job.status == "cancelled"
    wait_for(page, "document.getElementById('cancel').disabled", "True")
    assert page.evaluate("document.getElementById('draw').disabled") is False


def test_nothing_of_a_job_stays_in_the_page(page: Browser, service: Service) -> None:
    page.driver.execute_script(LISTENERS)
    click(page, "draw")
    wait_for(page, STATUS, "queued")
    assert page.evaluate("window.leaves.size") == 1
    click(page, "cancel")
    wait_for(page, "document.getElementById('draw').disabled", "False")
    assert page.evaluate("window.leaves.size") == 0


def test_nothing_is_drawn_before_the_bundles_of_a_server_are_known(page: Browser) -> None:
    page.driver.execute_script(HOLD)
    fill(page, token=TOKEN)
    assert page.evaluate("document.getElementById('draw').disabled")
    page.evaluate("window.release()")
    wait_for(page, "document.getElementById('draw').disabled", "False")


def test_a_job_ends_with_its_page(page: Browser, service: Service) -> None:
    click(page, "draw")
    wait_for(page, STATUS, "queued")
    (job,) = service.jobs.list_open()
    page.driver.get("about:blank")
    assert job.ended.wait(SECONDS)
    assert job.status == "cancelled"


def test_errors_are_shown_as_text(page: Browser, service: Service) -> None:
    fill(page, steps=700)
    click(page, "draw")
    wait_for(page, STATUS, "steps: it takes 700 steps, and this server allows 600")
    with started(service):
        fill(page, steps=3, scale=1e38)
        click(page, "draw")
        assert "is not a picture" in wait_for(page, STATUS, "output 'image'")
    fill(page, token="wrong")
    wait_for(page, STATUS, NEEDS_TOKEN)


def test_a_server_that_does_not_answer_is_named(page: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fill(page, server=f"http://127.0.0.1:{port}/")
    wait_for(page, STATUS, f"no answer from http://127.0.0.1:{port}: ")
    assert f"--allow-origin {page.evaluate('location.origin')}" in page.evaluate(STATUS)


def test_the_content_policy_admits_no_other_host(page: Browser) -> None:
    assert page.driver.execute_async_script(REACH, "http://192.0.2.1/") == "connect-src"
