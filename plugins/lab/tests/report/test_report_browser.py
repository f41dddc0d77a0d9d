"""A report in a real browser: no errors, complete, and fitting a phone and a wide screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from plugins.lab.tests.report.folders import run_folder, sweep_folder
from tests.browser import NEEDS_BROWSER, Browser, browser
from tests.commands.command import Command

pytestmark = NEEDS_BROWSER

BROKEN = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
NARROW = "[...document.querySelectorAll('svg')].filter(s => !(s.getBoundingClientRect().width > 250)).length"
WIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .graph, pre, svg')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
SMALLEST = """Math.min(...[...document.querySelectorAll('svg.plot text')].map(t =>
    parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a))"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
FOREGROUND = "getComputedStyle(document.querySelector('svg.plot text')).fill"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


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


def test_the_page_is_complete_and_fits(page: Browser, report: Path) -> None:
    """On a phone and on a wide screen, in light and dark; a report is made once for all four."""
    for width, dark in product((400, 1600), (False, True)):
        check_page(page, report, width, dark)


def check_page(page: Browser, report: Path, width: int, dark: bool) -> None:
    page.read_console()
    page.open(report, width, dark)
    assert page.read_console() == []
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.images.length") >= 2
    assert page.evaluate("document.querySelectorAll('svg.plot').length") >= 2
    assert (page.evaluate(BROKEN), page.evaluate(NARROW)) == (0, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDE) == []
    assert page.evaluate(SMALLEST) >= 8
    light_on_dark = (page.evaluate(BACKGROUND), page.evaluate(FOREGROUND)) == ("rgb(16, 19, 24)", "rgb(228, 232, 238)")
    assert light_on_dark == dark
    assert page.evaluate("document.querySelectorAll('script').length") == 0
    assert (
        page.evaluate("performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0
    )
    if shots := os.environ.get("GUIDEGRAPH_SCREENSHOTS"):
        name = f"{report.parent.name}-{width}-{'dark' if dark else 'light'}.png"
        Path(shots).mkdir(parents=True, exist_ok=True)
        page.save_screenshot(Path(shots) / name)
