"""The page's server over a folder of small workflows, with the toy nodes of the command line's tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import Browser, browser
from tests.commands.command import TOYS, environment

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from guidegraph.plugins.manager import PluginManager
    from guidegraph_page.access import Access
    from guidegraph_page.server import PageServer

PORT = 8000
DRAW = """\
# A picture, and a sum in a loop.
guidegraph: 1
params:
  seed: {default: 3, help: "which picture"}
  seconds: 0.0   # of each step
  count: 4
nodes:
  picture: {use: toy.picture, in: {seed: params.seed}, with: {batch: 1}}
  start:   {use: toy.number, with: {value: 1.5}}
  sum:
    loop: {over: params.count, as: i}
    carry: {x: start}
    body:
      next: {use: toy.sleep, in: {x: carry.x, seconds: params.seconds}}
    next: {x: next}
outputs: {image: picture, total: sum.x}
"""
NODE = "document.querySelector('[data-node=\"{}\"]')"
CLICK = NODE + ".dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"
LAST_RUN = "(document.querySelector('.job[aria-live]')?.getAttribute('aria-label') ?? '')"
SETTLED = "!document.querySelector('.panel')?.textContent.includes('Reading the')"
"""Whether the panel has what it asked the server for."""
HOLD = """
window.plainFetch = fetch;
window.fetch = async (path, options) => {
    const response = await plainFetch(path, options);
    if (path.startsWith(arguments[0])) await new Promise((resolve) => { window.release = resolve; });
    return response;
};
"""
"""Hold the answer to a request back until ``window.release`` is called."""
OTHER_PLACES = "performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith(location.origin))"
BROKEN = DRAW.replace("toy.number", "toy.numer")


@dataclass
class Site:
    """A server and its client. folder: its workflows, and the current folder, where runs go."""

    folder: Path
    page: PageServer
    access: Access
    client: TestClient

    def get(self, path: str, /, **query: str) -> Any:
        return self.client.get(f"/{self.access.token}/{path}", params=query)

    def post(self, path: str, /, **body: Any) -> Any:
        return self.client.post(f"/{self.access.token}/{path}", json=body)

    def run_to_end(self, **params: str) -> dict[str, Any]:
        """Run draw.yaml, and return the description of its job when it has ended."""
        number = self.post("api/runs", name="draw.yaml", params=params).json()["number"]
        self.page.jobs.wait(number, timeout=120)
        return self.page.jobs.jobs[number].describe(0)


@cache
def load_manager() -> PluginManager:
    from guidegraph.plugins.manager import PluginManager

    return PluginManager((TOYS,), entry_points=False)


def make_page(folder: Path, file: Path | None = None) -> PageServer:
    from guidegraph.graph.run_config import RunConfig
    from guidegraph_page.edits import PageEdits
    from guidegraph_page.folder import WorkflowFolder
    from guidegraph_page.frames import RunCache
    from guidegraph_page.jobs import JobQueue
    from guidegraph_page.server import PageServer
    from guidegraph_page.view import Views

    manager = load_manager()
    workflows, config = WorkflowFolder.open(file or folder), RunConfig()
    jobs = JobQueue(manager, config, RunCache(1 << 28))
    edits = PageEdits(workflows, manager.registry, config.policy)
    return PageServer(workflows, Views(workflows, manager.registry, config.policy), edits, jobs, folder / "runs")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("starlette", "uvicorn", "httpx"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from starlette.testclient import TestClient

    from guidegraph_page.access import Access

    monkeypatch.chdir(tmp_path)
    (tmp_path / "draw.yaml").write_text(DRAW)
    (tmp_path / "notes.yaml").write_text("shopping: [milk]\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "broken.yaml").write_text(BROKEN)
    page, access = make_page(tmp_path), Access(PORT)
    client = TestClient(page.make_app(access), base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=True)
    page.jobs.start()
    yield Site(tmp_path, page, access, client)
    page.jobs.stop()


@dataclass
class Server:
    """``guidegraph open`` in a process of its own, over a folder with draw.yaml."""

    folder: Path
    address: str
    process: subprocess.Popen[str]

    def write(self, text: str) -> None:
        """Write draw.yaml in one go, so that nobody reads a part of it."""
        whole = self.folder / "draw.yaml.new"
        whole.write_text(text)
        whole.replace(self.folder / "draw.yaml")

    def read(self) -> str:
        return (self.folder / "draw.yaml").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "draw.yaml").write_text(DRAW)
    yield from serve_folder(folder, "--plugin", TOYS)


def serve_folder(folder: Path, *options: str) -> Iterator[Server]:
    """The server over a folder; at the end it is stopped by Ctrl-C.

    Its stderr is a file: a pipe that nobody reads is full after some hundred warnings, and then the server waits.
    """
    command = [sys.executable, "-m", "guidegraph", "open", ".", "--no-browser", "--no-plugins", *options]
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([environment()["PYTHONPATH"], *([inherited] if inherited else [])])
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(PYTHONPATH=path), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address.startswith("http://127.0.0.1:"):
            process.wait(timeout=60)
            errors.seek(0)
            pytest.fail(f"{address}\n{errors.read()}")
        yield Server(folder, address, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        errors.seek(0)
        printed = errors.read()
        assert (process.returncode, "Traceback" in printed) == (0, False), printed


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as driven:
        yield driven


@pytest.fixture
def page(chromium: Browser, server: Server) -> Iterator[Browser]:
    """The page with draw.yaml; at the end, nothing was said on the console and nothing fetched from elsewhere."""
    server.write(DRAW)
    chromium.set_screen(1600)
    chromium.driver.get("about:blank")
    chromium.driver.get(server.address)
    wait(chromium, NODE.format("nodes.sum.body.next"))
    yield chromium
    assert chromium.evaluate(OTHER_PLACES) == []
    # Chromium reports each refused request.
    assert [message for message in chromium.read_console() if not re.search("status of (404|422)", message)] == []


def wait(page: Browser, script: str) -> Any:
    """The value of a script as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page.driver, 120, 0.05).until(lambda _: page.evaluate(script), script)


def run_workflow(page: Browser) -> None:
    """Press Run, and wait until that run is done, whatever runs there were before."""
    before = page.evaluate(LAST_RUN)
    page.evaluate("document.querySelector('button.primary').click()")
    wait(page, f"{LAST_RUN} !== {json.dumps(before)} && document.querySelector('.job .status.done')")


def click_text(page: Browser, selector: str, text: str) -> None:
    """Click the first element that has a text, as soon as there is one."""
    find = f"[...document.querySelectorAll('{selector}')].find(e => e.textContent.includes({json.dumps(text)}))"
    wait(page, f"(element => element && (element.click(), true))({find})")


def type_into(page: Browser, selector: str, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    element = page.driver.find_element(By.CSS_SELECTOR, selector)
    element.send_keys(Keys.CONTROL, "a")
    element.send_keys(text, Keys.TAB)
