"""The page's server over a folder of small workflows, with the toy nodes of the command line's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.command import TOYS

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from guidegraph.page.access import Access
    from guidegraph.page.server import PageServer
    from guidegraph.plugins.manager import PluginManager

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
    from guidegraph.page.edits import PageEdits
    from guidegraph.page.folder import WorkflowFolder
    from guidegraph.page.frames import RunCache
    from guidegraph.page.jobs import JobQueue
    from guidegraph.page.server import PageServer
    from guidegraph.page.view import Views

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

    from guidegraph.page.access import Access

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
