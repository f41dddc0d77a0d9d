"""Open a page in headless Chromium: https://www.selenium.dev/documentation/webdriver/."""

from __future__ import annotations

import base64
import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SECONDS = 120.0
"""How long an asynchronous script may take."""


def why_unavailable() -> str:
    """Why no browser can be driven on this machine; "" if one can."""
    if CHROMIUM is None or DRIVER is None:
        return "there is no chromium with its chromedriver on this machine"
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed"
    return ""


NEEDS_BROWSER = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a browser")
"""The mark of a test that drives a browser."""


class Browser:
    """An open browser with one page."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        self.set_screen(width, dark)
        self.driver.get(page.as_uri())

    def set_screen(self, width: int, dark: bool = False) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def evaluate(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def read_console(self) -> list[str]:
        """The console messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def save_screenshot(self, file: Path) -> None:
        """Save a screenshot of the whole page."""
        clip = {
            "x": 0,
            "y": 0,
            "width": self.evaluate("innerWidth"),
            "height": self.evaluate("document.body.scrollHeight"),
        }
        options = {"captureBeyondViewport": True, "clip": {**clip, "scale": 1}}
        screenshot = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        file.write_bytes(base64.b64decode(screenshot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in an empty folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(SECONDS)
    # A page without the focus of the system has no events of focus.
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    try:
        yield Browser(driver)
    finally:
        driver.quit()
