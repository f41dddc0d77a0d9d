"""An output that only a plugin can show, on the page: its markup lies in a frame without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph.plugins.manager import PluginManager
from plugins.page.tests.conftest import NODE, Site, click_text, run_workflow, serve_folder, wait
from tests.browser import Browser
from tests.plugins.test_output_formats import PLUGIN, TONES

WORKFLOW = TONES.replace("BATCH", "1").replace("  BROKEN\n", "")


def test_the_file_of_an_output_is_shown_and_no_other(site: Site) -> None:
    site.page.jobs.manager = PluginManager((PLUGIN,), entry_points=False)
    (site.folder / "draw.yaml").write_text(WORKFLOW)
    job = site.run_to_end()
    assert (job["status"], job["shown"]) == ("done", ["sound.wav"])
    assert site.get("api/runs").json()["runs"][0]["shown"] == ["sound.wav"]
    answer = site.get(f"shown/{job['folder']}/sound.wav")
    assert answer.text.startswith("<audio controls")
    assert "sandbox" in answer.headers["content-security-policy"]
    for path in (f"{job['folder']}/run.json", f"{job['folder']}/other.wav", "nowhere/sound.wav"):
        assert site.get(f"shown/{path}").status_code == 404


def play(page: Browser, frame: Any) -> Any:
    """The length of the sound in a frame, in seconds."""
    page.driver.switch_to.frame(frame)
    seconds = wait(page, "document.querySelector('audio')?.duration")
    page.driver.switch_to.default_content()
    return seconds


@pytest.mark.slow
def test_the_frame_of_an_output_holds_its_player(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    servers = serve_folder(tmp_path, "--plugin", PLUGIN)
    chromium.driver.get(next(servers).address)
    wait(chromium, NODE.format("nodes.tone"))
    run_workflow(chromium)
    frame = wait(chromium, "document.querySelector('.job iframe[title=\"Output sound.wav\"]')")
    assert play(chromium, frame) == pytest.approx(0.1)
    click_text(chromium, ".tabs button", "Runs")
    click_text(chromium, ".runs summary", "sound.wav")
    frame = wait(chromium, "document.querySelector('.runs iframe[title^=\"sound.wav of \"]')")
    assert play(chromium, frame) == pytest.approx(0.1)
    assert next(servers, None) is None
    chromium.driver.get("about:blank")
    chromium.read_console()
