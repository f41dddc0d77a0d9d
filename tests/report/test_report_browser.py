"""A report opened in a real browser: nothing fails, everything is there, and it fits a phone and a wide screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.command import Command
from tests.report.browser import Browser, browser, missing
from tests.report.folders import run_folder, sweep_folder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")]

BROKEN = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
UNSEEN = "[...document.querySelectorAll('svg')].filter(s => !(s.getBoundingClientRect().width > 250)).length"
WIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .graph, pre, svg')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
SMALLEST = """Math.min(...[...document.querySelectorAll('svg.plot text')].map(t =>
    parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a))"""
GROUND = "getComputedStyle(document.body).backgroundColor"
INK = "getComputedStyle(document.querySelector('svg.plot text')).fill"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(params=["run", "sweep", "several"])
def report(request: pytest.FixtureRequest, cli: Command) -> Path:
    folder: Path = cli.folder / str(request.param)
    if request.param == "run":
        run_folder(folder)
    elif request.param == "sweep":
        sweep_folder(folder)
    else:
        run_folder(folder / "first")
        sweep_folder(folder / "second")
    assert cli("report", folder).code == 0
    return folder / "report.html"


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_complete_and_fits(opened: Browser, report: Path, width: int, dark: bool) -> None:
    opened.console()
    opened.open(report, width, dark)
    assert opened.console() == []
    assert opened.ask("innerWidth") == width
    assert opened.ask("document.images.length") >= 2
    assert opened.ask("document.querySelectorAll('svg.plot').length") >= 2
    assert (opened.ask(BROKEN), opened.ask(UNSEEN)) == (0, 0)
    assert opened.ask("document.documentElement.scrollWidth") <= width
    assert opened.ask(WIDE) == []
    assert opened.ask(SMALLEST) >= 8
    light_on_dark = (opened.ask(GROUND), opened.ask(INK)) == ("rgb(16, 19, 24)", "rgb(228, 232, 238)")
    assert light_on_dark == dark
    assert opened.ask("document.querySelectorAll('script').length") == 0
    assert opened.ask("performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0
    if shots := os.environ.get("GUIDEGRAPH_SCREENSHOTS"):
        name = f"{report.parent.name}-{width}-{'dark' if dark else 'light'}.png"
        Path(shots).mkdir(parents=True, exist_ok=True)
        opened.shoot(Path(shots) / name)
